from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, uctbx
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.grid.reindexing import as_gridded, hand_on_reindexing
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid
from dials_diffuse.gridding.indexing import possible_settings, reindex_experiments
from dials_diffuse.io.model_copy import models_to_json
from dials_diffuse.model.scaling_model import DiffuseScalingModel

STILLS = 4


@pytest.fixture
def trigonal():
    """(experiments of a P3 crystal, its settings)"""
    crystal = Crystal((40, 0, 0), (-20, 34.64101615, 0), (0, 0, 50), space_group_symbol="P 3")
    experiments = ExperimentList(
        [
            Experiment(
                identifier=f"still-{i}",
                crystal=Crystal(crystal),
                beam=Beam((0, 0, 1), 1.0),
                detector=Detector(),
            )
            for i in range(STILLS)
        ]
    )
    grid = VoxelGrid(
        (2, 2, 2), uctbx.unit_cell((40, 40, 50, 90, 90, 120)), laue_group_from_symbol("P 3")
    )
    attach_grid(experiments, grid)
    settings = possible_settings(grid, sgtbx.space_group_info("P 3").group(), 2.0)
    assert len(settings) == 4
    return experiments, settings


def setting_of(experiments):
    return [np.array(e.crystal.get_A()).reshape(3, 3) for e in experiments]


@pytest.mark.parametrize("times", [1, 2])
def test_indices_follow_the_crystals(trigonal, tmp_path, times):
    """A reflection stays where it was in reciprocal space, however often and through whatever files."""
    experiments, settings = trigonal
    rng = np.random.default_rng(1)
    hkl, still = rng.integers(-9, 10, (200, 3)), rng.integers(0, STILLS, 200)
    before = setting_of(experiments)
    for round_ in range(times):
        reindex_experiments(experiments, np.roll(np.arange(STILLS), 3 * round_), settings)
    experiments.as_file(tmp_path / "gridded.expt")
    experiments = load_experiments(tmp_path / "gridded.expt", check_format=False)
    scaled = [DiffuseScalingModel.create({}) for _ in experiments]
    hand_on_reindexing(experiments, scaled)
    for experiment, model in zip(experiments, scaled):
        experiment.scaling_model = model
    experiments.as_file(tmp_path / "scaled.expt")
    again = load_experiments(tmp_path / "scaled.expt", check_format=False)
    found = as_gridded(hkl, still, again)
    after = setting_of(again)
    for old, new, number in zip(hkl, found, still):
        np.testing.assert_allclose(after[number] @ new, before[number] @ old, atol=1e-9)
    assert (found != hkl).any()
    assert (
        sum("reindexed" in m["configuration_parameters"] for m in models_to_json(again).values())
        >= STILLS - 1
    )


def test_stills_that_stay_keep_their_indices(trigonal):
    experiments, settings = trigonal
    reindex_experiments(experiments, np.zeros(STILLS, dtype=int), settings)
    hkl = np.array([[1, 2, 3], [-4, 5, 6]])
    assert np.array_equal(as_gridded(hkl, np.array([0, 3]), experiments), hkl)
    assert not any("reindexed" in e.scaling_model.configdict for e in experiments)
