from __future__ import annotations

import numpy as np
import pytest

from cctbx import uctbx

from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.possible import voxels_possible
from dials_diffuse.grid.shells import ResolutionShells
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid

CELLS = {
    "P 1": (10, 12, 14, 81, 97, 103),
    "P 2": (10, 12, 14, 90, 97, 90),
    "P 2 2 2": (10, 12, 14, 90, 90, 90),
    "P 4 2 2": (10, 10, 14, 90, 90, 90),
    "P 3": (10, 10, 14, 90, 90, 120),
    "P 3 1 2": (10, 10, 14, 90, 90, 120),
    "P 6 2 2": (10, 10, 14, 90, 90, 120),
    "P 2 3": (12, 12, 12, 90, 90, 90),
    "P 4 3 2": (12, 12, 12, 90, 90, 90),
    "R 3 2 :R": (12, 12, 12, 81, 81, 81),
}


@pytest.mark.parametrize("friedel", [True, False])
@pytest.mark.parametrize("symbol", CELLS)
def test_as_many_as_a_list_has(symbol, friedel):
    grid = VoxelGrid(
        (2, 2, 2),
        uctbx.unit_cell(CELLS[symbol]),
        laue_group_from_symbol(symbol, friedel),
        d_min=2.03,
        d_max=9.1,
    )
    # beyond the limits on both sides
    shells = ResolutionShells.equal_volume(0.0, 0.6, 9)
    voxel = np.indices((41, 41, 41)).reshape(3, -1).T - 20
    voxel = voxel[grid.contains(voxel)]
    voxel = voxel[np.unique(pack_voxels(grid.to_asu(voxel)), return_index=True)[1]]
    shell = shells.index_of(np.linalg.norm(grid.q_of_voxel(voxel), axis=1))
    found = voxels_possible(grid, shells)
    assert np.array_equal(found, np.bincount(shell, minlength=len(shells)))
    assert found[0] and not found[-1]


def test_without_limits_all_but_the_origin_count():
    grid = VoxelGrid(
        (1, 1, 1), uctbx.unit_cell((10, 10, 10, 90, 90, 90)), laue_group_from_symbol("P 1")
    )
    shells = ResolutionShells.equal_volume(0.0, 0.1, 1)
    assert voxels_possible(grid, shells).tolist() == [3]


def test_fine_grids_are_counted_too():
    """A hundred million voxels, which a list of would not fit into a few gigabytes."""
    grid = VoxelGrid(
        (9, 9, 9), uctbx.unit_cell((100, 100, 150, 90, 90, 90)), laue_group_from_symbol("P 4 2 2")
    )
    shells = ResolutionShells.equal_volume(0.1, 0.8, 4)
    volume = 4 / 3 * np.pi * (0.8**3 - 0.1**3) * grid.supercell().volume() / 16
    assert volume > 1e8
    assert voxels_possible(grid, shells).sum() == pytest.approx(volume, rel=0.005)
