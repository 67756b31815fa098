"""Observations sorted by voxel, so that voxels can be treated one after the other."""

from __future__ import annotations

import numpy as np
from numba import njit

# Most chunks of sorted observations that threads work on at the same time
MOST_CHUNKS = 8


@njit(cache=True)
def order_by_voxel(index, n_voxels):
    """Order (N,) int64 that sorts observations by voxel and keeps the order within a voxel.

    Args:
        index: (N,) voxel, -1 to n_voxels - 1
    """
    next_row = np.zeros(n_voxels + 2, dtype=np.int64)
    for k in range(len(index)):
        next_row[index[k] + 2] += 1
    for v in range(2, n_voxels + 2):
        next_row[v] += next_row[v - 1]
    order = np.empty(len(index), dtype=np.int64)
    for k in range(len(index)):
        order[next_row[index[k] + 1]] = k
        next_row[index[k] + 1] += 1
    return order


def segments(sorted_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different keys (M,) of a sorted array, and where each one starts, plus the end (M + 1,)."""
    keys, first = np.unique(sorted_keys, return_index=True)
    return keys, np.append(first, len(sorted_keys)).astype(np.int64)
