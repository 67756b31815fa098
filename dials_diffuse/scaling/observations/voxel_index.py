"""Numbers of voxels: a hash table from packed voxels to 0, 1, 2, ... in the order of their first appearance."""

from __future__ import annotations

import numpy as np
from numba import njit

_EMPTY = -1
_MIX = np.uint64(0x9E3779B97F4A7C15)
# Voxels that follow each other along l lie in one line of the processor's cache
_RUN_BITS = np.uint64(3)


@njit(cache=True)
def _slot(key, mask):
    run = (np.uint64(key) >> _RUN_BITS) * _MIX
    low = np.uint64(key) & np.uint64(7)
    return np.int64((((run >> np.uint64(20)) << _RUN_BITS) | low) & np.uint64(mask))


@njit(cache=True)
def _place(keys, slots, numbers):
    """Enter different keys with numbers 0, 1, ... into empty slots"""
    mask = len(slots) - 1
    for k in range(len(keys)):
        i = _slot(keys[k], mask)
        while slots[i] != _EMPTY:
            i = (i + 1) & mask
        slots[i], numbers[i] = keys[k], k


@njit(cache=True)
def _add(keys, slots, numbers, n, most, out):
    """Number keys (N,), new ones from n on; returns (keys done, n), early when n reaches most."""
    mask = len(slots) - 1
    for k in range(len(keys)):
        i = _slot(keys[k], mask)
        while slots[i] != _EMPTY and slots[i] != keys[k]:
            i = (i + 1) & mask
        if slots[i] == _EMPTY:
            if n >= most:
                return k, n
            slots[i], numbers[i] = keys[k], n
            n += 1
        out[k] = numbers[i]
    return len(keys), n


@njit(cache=True)
def _find(keys, slots, numbers, out):
    mask = len(slots) - 1
    for k in range(len(keys)):
        i = _slot(keys[k], mask)
        while slots[i] != _EMPTY and slots[i] != keys[k]:
            i = (i + 1) & mask
        out[k] = numbers[i] if slots[i] == keys[k] else -1


class VoxelIndex:
    """Numbers of packed voxels (pack_voxels), which grow with each voxel that is new."""

    def __init__(self, size: int = 1 << 16):
        self._slots = np.full(size, _EMPTY, dtype=np.int64)
        self._numbers = np.zeros(size, dtype=np.int32)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Numbers (N,) int32 of packed voxels (N,)."""
        out = np.empty(len(keys), dtype=np.int32)
        done = 0
        while done < len(keys):
            most = len(self._slots) // 2
            arguments = keys[done:], self._slots, self._numbers, self._n, most, out[done:]
            n_done, self._n = _add(*arguments)
            done += n_done
            if self._n >= most:
                self._grow()
        return out

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Numbers (N,) int32 of packed voxels (N,), -1 for those that were never added."""
        out = np.empty(len(keys), dtype=np.int32)
        _find(keys, self._slots, self._numbers, out)
        return out

    def voxels(self) -> np.ndarray:
        """(V,) packed voxels in the order of their numbers."""
        used = self._slots != _EMPTY
        out = np.empty(self._n, dtype=np.int64)
        out[self._numbers[used]] = self._slots[used]
        return out

    def _grow(self) -> None:
        voxels = self.voxels()
        self._slots = np.full(4 * len(self._slots), _EMPTY, dtype=np.int64)
        self._numbers = np.zeros(len(self._slots), dtype=np.int32)
        _place(voxels, self._slots, self._numbers)
