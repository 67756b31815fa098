"""Resolution shells and isotropic parts; see also tests/report/test_sections.py."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import uctbx

from dials_diffuse.grid.shells import ResolutionShells, isotropic_part
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid


def test_shells_have_equal_volumes():
    shells = ResolutionShells.equal_volume(0.1, 0.5, 4)
    assert np.diff(shells.edges**3) == pytest.approx((0.125 - 0.001) / 4)
    assert list(shells.index_of(np.array([0.05, 0.1, 0.3, 0.5, 0.51]))) == [-1, 0, 0, 3, -1]
    assert shells.labels()[0].startswith("10.00 - ") and shells.labels()[-1].endswith("2.00")
    assert ResolutionShells.equal_volume(0, 0.5, 4).labels()[0].startswith("inf")
    with pytest.raises(ValueError, match="no resolution range"):
        ResolutionShells.equal_volume(0.5, 0.5, 4)


def test_isotropic_part_counts_equivalents_and_ignores_nan():
    grid = VoxelGrid(
        (1, 1, 1), uctbx.unit_cell((10, 10, 10, 90, 90, 90)), laue_group_from_symbol("P 4 2 2")
    )
    voxel = np.array([[3, 0, 0], [0, 0, 3], [2, 2, 1], [0, 0, 1]])
    # at |q| = 0.3/A: 4, 2 and 8 equivalents in 4/mmm, no value for the last
    found = isotropic_part(voxel, np.array([1.0, 4.0, np.nan, 7.0]), grid, n_bins=3)
    assert found == pytest.approx([2, 2, 2, 7])
    assert np.isnan(isotropic_part(voxel, np.full(4, np.nan), grid)).all()
