"""Merged maps with random values in several crystal systems, for tests of the formats."""

from __future__ import annotations

import numpy as np

from cctbx import uctbx

from dials.array_family import flex

from dials_diffuse.adapters.tables import double_column, int_column, miller_index_column
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.maps.merged_map import MergedMap

# name -> space group, unit cell, n
CRYSTALS = {
    "P-1": ("P 1", (31, 37, 43, 82, 97, 105), (2, 3, 1)),
    "monoclinic, unique axis c": ("P 1 1 2", (30, 35, 40, 90, 90, 110), (3, 3, 2)),
    "4/mmm": ("P 43 21 2", (33, 33, 50, 90, 90, 90), (3, 3, 1)),
    "-3m1": ("P 3 2 1", (30, 30, 45, 90, 90, 120), (2, 2, 3)),
    "-31m": ("P 3 1 2", (30, 30, 45, 90, 90, 120), (2, 2, 3)),
    "rhombohedral axes": ("R 3 :R", (30, 30, 30, 80, 80, 80), (2, 2, 2)),
    "m-3": ("I 2 3", (36, 36, 36, 90, 90, 90), (3, 3, 3)),
}


def merged_map(name: str) -> MergedMap:
    """A map of one of CRYSTALS with six of ten voxels of the asymmetric unit to 9 A."""
    symbol, cell, n = CRYSTALS[name]
    grid = VoxelGrid(n, uctbx.unit_cell(cell), laue_group_from_symbol(symbol), d_min=9.0)
    voxel = np.indices((41, 41, 41)).reshape(3, -1).T - 20
    voxel = np.unique(grid.to_asu(voxel[grid.contains(voxel)]), axis=0)
    rng = np.random.default_rng(3)
    voxel = voxel[rng.random(len(voxel)) < 0.6]
    n_voxels = len(voxel)
    table = flex.reflection_table()
    table["voxel"] = miller_index_column(voxel)
    table["intensity"] = double_column(rng.normal(100, 20, n_voxels))
    table["variance"] = double_column(rng.uniform(1, 9, n_voxels))
    table["n_obs"] = int_column(rng.integers(1, 20, n_voxels))
    table["n_stills"] = int_column(rng.integers(1, 9, n_voxels))
    table["half_1"] = double_column(
        np.where(rng.random(n_voxels) < 0.3, np.nan, rng.normal(100, 20, n_voxels))
    )
    return MergedMap.from_table(table, grid)


def values_at(merged, voxel, name="intensity"):
    """(N,) the map at any voxels (N, 3), through the asymmetric unit; NaN where unmeasured."""
    value_of = dict(zip(map(tuple, merged.voxel), merged.columns[name]))
    return np.array([value_of.get(tuple(v), np.nan) for v in merged.grid.to_asu(voxel)])
