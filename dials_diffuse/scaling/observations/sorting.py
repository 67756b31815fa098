"""Observations sorted by voxel."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def order_by_voxel(index, n_voxels):
    """Order that sorts observations by voxel, those of a voxel as they came: (N,) int64.

    Args:
        index: (N,) -1 to n_voxels - 1
    """
    place = np.zeros(n_voxels + 2, dtype=np.int64)
    for k in range(len(index)):
        place[index[k] + 2] += 1
    for v in range(2, n_voxels + 2):
        place[v] += place[v - 1]
    order = np.empty(len(index), dtype=np.int64)
    for k in range(len(index)):
        order[place[index[k] + 1]] = k
        place[index[k] + 1] += 1
    return order


def segments(sorted_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unique keys of a sorted array and where each one starts, plus the end: (M,), (M + 1,)"""
    if not len(sorted_keys):
        return sorted_keys[:0], np.zeros(1, dtype=np.int64)
    first = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    return sorted_keys[first], np.r_[first, len(sorted_keys)].astype(np.int64)
