"""Numbers of voxels: from packed voxels to 0, 1, 2, ... in the order of their first appearance.

Observations of a still follow each other along the Ewald sphere. So voxels are kept in blocks of 4 x 4 x 8, and a
hash table finds the block: several observations in a row find theirs in the block of the one before.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dials_diffuse.grid.expand import PACKED_BITS

_EMPTY = -1
_MIX = np.uint64(0x9E3779B97F4A7C15)
# Bits of h, k and l (from the highest of a packed voxel on) that count voxels within a block
_H, _K, _L = 2, 2, 3
_BLOCK = 1 << (_H + _K + _L)
_H_MASK, _K_MASK, _L_MASK = (1 << _H) - 1, (1 << _K) - 1, (1 << _L) - 1
_INSIDE = (_H_MASK << 2 * PACKED_BITS) | (_K_MASK << PACKED_BITS) | _L_MASK


@njit(cache=True)
def _place_in_block(key):
    h, k = (key >> 2 * PACKED_BITS) & _H_MASK, (key >> PACKED_BITS) & _K_MASK
    return ((h << _K | k) << _L) | (key & _L_MASK)


@njit(cache=True)
def _slot(key, table):
    """Where a block is in the table, or the empty place where it belongs"""
    mask = len(table) - 1
    i = np.int64((np.uint64(key) * _MIX) >> np.uint64(24)) & mask
    while table[i, 0] != _EMPTY and table[i, 0] != key:
        i = (i + 1) & mask
    return i


@njit(cache=True, nogil=True)
def _enter(old, table):
    """Enter all blocks of a table into a larger empty one"""
    for j in range(len(old)):
        if old[j, 0] != _EMPTY:
            i = _slot(old[j, 0], table)
            table[i, 0], table[i, 1] = old[j, 0], old[j, 1]


@njit(cache=True, nogil=True)
def _add(keys, table, blocks, n, n_blocks, out):
    """Number keys (N,), new ones from n on; returns (keys done, n, n_blocks), early when all blocks are in use."""
    last, block = _EMPTY, 0
    for k in range(len(keys)):
        of_block = keys[k] & ~_INSIDE
        if of_block != last:
            i = _slot(of_block, table)
            if table[i, 0] == _EMPTY:
                if n_blocks >= len(blocks):
                    return k, n, n_blocks
                table[i, 0], table[i, 1] = of_block, n_blocks
                n_blocks += 1
            last, block = of_block, table[i, 1]
        place = _place_in_block(keys[k])
        if blocks[block, place] == _EMPTY:
            blocks[block, place] = n
            n += 1
        out[k] = blocks[block, place]
    return len(keys), n, n_blocks


@njit(cache=True, nogil=True)
def _find(keys, table, blocks, out):
    last, block = _EMPTY, _EMPTY
    for k in range(len(keys)):
        of_block = keys[k] & ~_INSIDE
        if of_block != last:
            last, block = of_block, table[_slot(of_block, table), 1]
        out[k] = blocks[block, _place_in_block(keys[k])] if block != _EMPTY else -1


@njit(cache=True, nogil=True)
def _voxels(table, blocks, out):
    for i in range(len(table)):
        if table[i, 0] == _EMPTY:
            continue
        for place in range(_BLOCK):
            number = blocks[table[i, 1], place]
            if number != _EMPTY:
                h, k = place >> (_K + _L), (place >> _L) & _K_MASK
                inside = (h << 2 * PACKED_BITS) | (k << PACKED_BITS) | (place & _L_MASK)
                out[number] = table[i, 0] | inside


def _empty(*shape: int, dtype=np.int64) -> np.ndarray:
    return np.full(shape, _EMPTY, dtype=dtype)


class VoxelIndex:
    """Numbers of packed voxels (pack_voxels), which grow with each voxel that is new.

    Args:
        size: blocks to begin with, a power of two
    """

    def __init__(self, size: int = 1 << 12):
        # block of a key, twice as many places as there are blocks
        self._table = _empty(2 * size, 2)
        self._blocks = _empty(size, _BLOCK, dtype=np.int32)
        self._n = self._n_blocks = 0

    def __len__(self) -> int:
        return self._n

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Numbers (N,) int32 of packed voxels (N,)."""
        out = np.empty(len(keys), dtype=np.int32)
        done = 0
        while done < len(keys):
            known = self._table, self._blocks, self._n, self._n_blocks
            n_done, self._n, self._n_blocks = _add(keys[done:], *known, out[done:])
            done += n_done
            if done < len(keys):
                self._grow()
        return out

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Numbers (N,) int32 of packed voxels (N,), -1 for those that were never added."""
        out = np.empty(len(keys), dtype=np.int32)
        _find(keys, self._table, self._blocks, out)
        return out

    def voxels(self) -> np.ndarray:
        """(V,) packed voxels in the order of their numbers."""
        out = np.empty(self._n, dtype=np.int64)
        _voxels(self._table, self._blocks, out)
        return out

    def _grow(self) -> None:
        old = self._table
        self._table = _empty(2 * len(old), 2)
        _enter(old, self._table)
        more = _empty(len(self._blocks), _BLOCK, dtype=np.int32)
        self._blocks = np.concatenate((self._blocks, more))
