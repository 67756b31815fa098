"""The grid and the background of a whole extraction."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx
from dxtbx.model import Crystal, Experiment

from dials_diffuse.adapters.inputs import Inputs
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.extraction.workflow import reference_grid, run
from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.phil.extract import phil_scope


def experiment(a=40.0, space_group="P 4"):
    group = sgtbx.space_group_info(space_group).group()
    return Experiment(crystal=Crystal((a, 0, 0), (0, a, 0), (0, 0, 50.0), group))


def test_the_grid_of_several_crystals():
    settings = default_settings(ExtractionSettings, subdivide=(2, 2, 3), d_min=1.5)
    grid = reference_grid([experiment(a) for a in (40.0, 40.2, 43.0)], settings)
    assert grid.subdivide == (2, 2, 3) and (grid.d_min, grid.d_max) == (1.5, None)
    assert str(grid.laue_group.info()) == "P 4/m"
    assert np.allclose(grid.unit_cell.parameters(), (40.2, 40.2, 50, 90, 90, 90), atol=0.11)


@pytest.mark.parametrize(
    "experiments, changes, text",
    [
        ([Experiment()], {}, "Experiment 0 has no crystal"),
        ([experiment(), experiment(space_group="P 1")], {}, "space group"),
        ([experiment()], {"subdivide": (3, 2, 3)}, "subdivide"),
    ],
)
def test_grids_that_do_not_exist(experiments, changes, text):
    with pytest.raises(ValueError, match=text):
        reference_grid(experiments, default_settings(ExtractionSettings, **changes))


def test_nothing_to_extract():
    with pytest.raises(ValueError, match="No .expt file in the input"):
        run(Inputs([], []), phil_scope.extract())
