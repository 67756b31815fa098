"""Keys of voxels, and the expansion of the asymmetric unit to the whole sphere."""

from __future__ import annotations

import numpy as np
from numba import njit

from dials_diffuse.grid.symmetry import reciprocal_operators
from dials_diffuse.grid.voxel_grid import VoxelGrid

# Bits of an index: three indices fit into an int64
PACKED_BITS = 21
_HALF = 1 << (PACKED_BITS - 1)


def check_voxels(voxel: np.ndarray) -> None:
    """Raises ValueError if an index is beyond +-2^20"""
    if voxel.size and (voxel.max() >= _HALF or voxel.min() < -_HALF):
        raise ValueError("An index is beyond 2^20: the observations or their n are wrong")


@njit(cache=True)
def pack_voxel(h, k, l):
    """Key of one voxel, for compiled loops: see pack_voxels. The range is not checked."""
    return (
        ((np.int64(h) + _HALF) << 2 * PACKED_BITS)
        + ((np.int64(k) + _HALF) << PACKED_BITS)
        + np.int64(l)
        + _HALF
    )


@njit(cache=True, nogil=True)
def _pack(voxel, keys):
    for row in range(keys.size):
        keys[row] = pack_voxel(voxel[row, 0], voxel[row, 1], voxel[row, 2])


def pack_voxels(voxel: np.ndarray) -> np.ndarray:
    """Voxels or Miller indices (N, 3) -> keys (N,) int64 >= 0 that sort as (h, k, l) do.

    Raises:
        ValueError: an index is beyond +-2^20.
    """
    voxel = np.asarray(voxel)
    check_voxels(voxel)
    keys = np.empty(len(voxel), dtype=np.int64)
    _pack(voxel, keys)
    return keys


def unpack_voxels(keys: np.ndarray) -> np.ndarray:
    """Inverse of pack_voxels: keys (N,) -> indices (N, 3) int32"""
    keys = np.asarray(keys, dtype=np.int64)
    mask = (1 << PACKED_BITS) - 1
    parts = (keys >> 2 * PACKED_BITS, (keys >> PACKED_BITS) & mask, keys & mask)
    return np.stack([part - _HALF for part in parts], axis=-1).astype(np.int32)


def expand_to_p1(voxel: np.ndarray, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """All symmetry-equivalent voxels, each once.

    Args:
        voxel: (N, 3) voxels, no two of them equivalent
        grid: their grid

    Returns:
        (voxels (M, 3) int32 sorted by h, k, l; for each the row of its equivalent in voxel (M,))
    """
    voxel = np.asarray(voxel, dtype=np.int64).reshape(-1, 3)
    operators = reciprocal_operators(grid.laue_group)
    keys = np.concatenate([pack_voxels(voxel @ op.T) for op in operators])
    unique, first = np.unique(keys, return_index=True)
    return unpack_voxels(unique), first % max(1, len(voxel))


def dense_rows(
    voxel: np.ndarray, grid: VoxelGrid, expand: bool = True, symmetric_range: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """An array over the grid that holds the row of the equivalent voxel at each point.

    Args:
        voxel: (N, 3) voxels, no two of them equivalent
        grid: their grid
        expand: apply the Laue group; else only the voxels themselves
        symmetric_range: with expand, let every axis run from -m to m

    Returns:
        (rows (n_h, n_k, n_l) int32, -1 where nothing was measured; first (3,): the
        voxel of rows[0, 0, 0])

    Raises:
        ValueError: no voxels, or two that are equivalent.
    """
    voxel = np.asarray(voxel, dtype=np.int64).reshape(-1, 3)
    if len(voxel) == 0:
        raise ValueError("There is no voxel to make a map of")
    operators = reciprocal_operators(grid.laue_group) if expand else np.eye(3, dtype=np.int64)[None]
    bounds = np.array(
        [[(voxel @ op.T).min(axis=0), (voxel @ op.T).max(axis=0)] for op in operators]
    )
    first, last = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    if expand and symmetric_range:
        last = np.maximum(-first, last)
        first = -last
    shape = tuple(int(n) for n in last - first + 1)
    rows = np.full(shape, -1, dtype=np.int32)
    flat = rows.reshape(-1)
    numbers = np.arange(len(voxel), dtype=np.int32)
    for operator in operators:
        flat[np.ravel_multi_index(tuple((voxel @ operator.T - first).T), shape)] = numbers
    # The operators form a group: an overwritten row has an equivalent
    if np.any(flat[np.ravel_multi_index(tuple((voxel - first).T), shape)] != numbers):
        raise ValueError("The table holds symmetry-equivalent voxels twice: merge it first")
    return rows, first.astype(np.int64)
