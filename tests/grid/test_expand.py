"""Keys of voxels and dense maps; expansion under all Laue groups is in test_voxel_grid.py."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import uctbx

from dials_diffuse.grid.expand import dense_rows, expand_to_p1, pack_voxels, unpack_voxels
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid

GRID = VoxelGrid(
    (2, 2, 2), uctbx.unit_cell((20, 30, 40, 90, 90, 90)), laue_group_from_symbol("P222")
)


def test_voxels_survive_packing_and_keep_their_order():
    voxel = np.random.default_rng(1).integers(-(2**20), 2**20, (1000, 3), dtype=np.int32)
    keys = pack_voxels(voxel)
    assert keys.dtype == np.int64 and keys.min() >= 0
    assert np.array_equal(unpack_voxels(keys), voxel)
    assert np.array_equal(np.argsort(keys), np.lexsort(voxel.T[::-1]))


def test_beyond_the_range_of_indices():
    assert np.array_equal(
        unpack_voxels(pack_voxels([[2**20 - 1, -(2**20), 0]])), [[2**20 - 1, -(2**20), 0]]
    )
    with pytest.raises(ValueError, match="beyond 2"):
        pack_voxels([[2**20, 0, 0]])


def test_expansion_of_general_and_special_voxels():
    voxel, rows = expand_to_p1([[1, 2, 3], [0, 0, 4]], GRID)
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    expected = {tuple(v) for v in signs * [1, 2, 3]} | {(0, 0, 4), (0, 0, -4)}
    assert len(voxel) == 10 and {tuple(v) for v in voxel} == expected
    assert np.array_equal(np.abs(voxel), np.array([[1, 2, 3], [0, 0, 4]])[rows])


def test_dense_rows_of_the_voxels_alone():
    rows, first = dense_rows([[1, 2, 3], [2, 2, 5]], GRID, expand=False)
    assert rows.shape == (2, 1, 3) and first.tolist() == [1, 2, 3]
    assert rows[:, 0].tolist() == [[0, -1, -1], [-1, -1, 1]]


def test_equivalent_voxels_and_empty_tables():
    with pytest.raises(ValueError, match="symmetry-equivalent"):
        dense_rows([[1, 2, 3], [-1, 2, 3]], GRID)
    with pytest.raises(ValueError, match="no voxel"):
        dense_rows(np.empty((0, 3)), GRID)
