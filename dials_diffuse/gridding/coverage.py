"""How often and by how many stills the voxels of the grid were seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit

from dials_diffuse.grid.expand import check_voxels, pack_voxel, unpack_voxels
from dials_diffuse.grid.possible import voxels_possible
from dials_diffuse.grid.shells import ResolutionShells
from dials_diffuse.grid.voxel_grid import VoxelGrid

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing, see extraction/kernel.py
_ONE = np.uint64(1)
# Columns of the sums: what a row adds to lies side by side in memory
_PHOTONS, _EXPOSURE, _N_OBS, _N_STILLS, _LAST_STILL = range(5)


@njit(cache=True, nogil=True)
def _hash_shift(table):
    """Number of bits that a hash of 64 bits is shifted by for a table (2^n, 2): 64 - n."""
    return np.uint64(64 - np.int64(np.log2(table.shape[0]) + 0.5))


@njit(cache=True, nogil=True)
def _slot_of(table, shift, key):
    """The slot of a key in a hash table, or the empty one where it belongs (linear probing).

    Args:
        table: (2^n, 2) see _add_rows; at least one slot is empty
        shift: see _hash_shift
    """
    slot = (np.uint64(key) * _GOLDEN) >> shift
    while table[slot, 1] != 0 and table[slot, 0] != key:
        slot = (slot + _ONE) & np.uint64(table.shape[0] - 1)
    return slot


@njit(cache=True, nogil=True)
def _add_rows(voxel, still, first, bragg, counts, background, exposure, start, table, sums, size):
    """Add rows, all of a still one after the other, to the sums of their voxels; see VoxelAccumulator.

    Args:
        start: first row to add
        table: (2^n, 2) keys and where their sums are (0: nowhere yet), at most half full
        sums: (m, 5), of which the first `size` rows are taken

    Returns:
        (first row that there was no room for or the number of rows, size)
    """
    shift = _hash_shift(table)
    for i in range(start, still.size):
        if bragg[i] or not exposure[i] > 0:
            continue
        key = pack_voxel(voxel[i, 0], voxel[i, 1], voxel[i, 2])
        slot = _slot_of(table, shift, key)
        at = np.uint64(table[slot, 1])
        if at == 0:
            if size == sums.shape[0]:
                return i, size
            at = np.uint64(size)
            table[slot, 0], table[slot, 1] = key, size
            sums[at] = 0.0
            sums[at, _LAST_STILL] = -1.0
            size += 1
        sums[at, _PHOTONS] += counts[i] - background[i]
        sums[at, _EXPOSURE] += exposure[i]
        sums[at, _N_OBS] += 1.0
        number = np.float64(first + still[i])
        if sums[at, _LAST_STILL] != number:
            sums[at, _N_STILLS] += 1.0
            sums[at, _LAST_STILL] = number
    return still.size, size


@njit(cache=True, nogil=True)
def _refill(table, larger):
    """Put the keys of a table into a larger one."""
    shift = _hash_shift(larger)
    for old in range(table.shape[0]):
        if table[old, 1] != 0:
            slot = _slot_of(larger, shift, table[old, 0])
            larger[slot, 0], larger[slot, 1] = table[old, 0], table[old, 1]


class VoxelAccumulator:
    """Sums by voxel of the asymmetric unit, over any number of files. Memory is bounded by the grid."""

    def __init__(self):
        # Row 0 stands for a key that there is not yet
        self._table = np.zeros((1 << 13, 2), dtype=np.int64)
        self._sums = np.empty((1 << 12, 5))
        self._size = 1
        self._stills = 0
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add the rows that are not under Bragg spots.

        Args:
            columns: id, asu_voxel, bragg, counts, background and exposure of gridded observations; no
                still may have rows in two calls

        Raises:
            ValueError: voxels that are too far out, see pack_voxels.
        """
        ids, voxel = columns["id"], columns["asu_voxel"]
        check_voxels(voxel)
        if np.any(ids[1:] < ids[:-1]):
            order = np.argsort(ids, kind="stable")
            columns = {name: columns[name][order] for name in ("id", "asu_voxel", *_SUMMED)}
        row = 0
        while True:
            row, self._size = _add_rows(
                columns["asu_voxel"],
                columns["id"],
                self._stills,
                *(columns[name] for name in _SUMMED),
                row,
                self._table,
                self._sums,
                self._size,
            )
            if row == len(ids):
                break
            # Made by numpy, whose large arrays get large pages of memory: rows are added in any order
            table, sums = (
                np.zeros((2 * len(self._table), 2), dtype=np.int64),
                np.empty((2 * len(self._sums), 5)),
            )
            _refill(self._table, table)
            sums[: self._size] = self._sums[: self._size]
            self._table, self._sums = table, sums
        self._stills += int(ids.max(initial=-1)) + 1
        self._sorted = None

    def _in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys (M,), ascending, and the rows of their sums (M,)"""
        if self._sorted is None:
            keys, rows = self._table[self._table[:, 1] != 0].T
            order = np.argsort(keys)
            self._sorted = keys[order], rows[order]
        return self._sorted

    def _of_voxels(self, column: int) -> np.ndarray:
        return self._sums[self._in_order()[1], column]

    @property
    def voxel(self) -> np.ndarray:
        """(M, 3) int32, ascending"""
        return unpack_voxels(self._in_order()[0])

    @property
    def photons(self) -> np.ndarray:
        """(M,) counts less background"""
        return self._of_voxels(_PHOTONS)

    @property
    def exposure(self) -> np.ndarray:
        """(M,) s sr"""
        return self._of_voxels(_EXPOSURE)

    @property
    def n_obs(self) -> np.ndarray:
        """(M,) observations (not under Bragg spots)"""
        return self._of_voxels(_N_OBS).astype(np.int64)

    @property
    def n_stills(self) -> np.ndarray:
        """(M,) stills that saw it"""
        return self._of_voxels(_N_STILLS).astype(np.int64)

    @property
    def intensity(self) -> np.ndarray:
        """(M,) sum of photons over sum of exposures, photons/(s sr): unscaled"""
        return self.photons / self.exposure


_SUMMED = ("bragg", "counts", "background", "exposure")


@dataclass(frozen=True)
class CoverageRow:
    """One shell (or all): voxels of the asymmetric unit possible and seen."""

    label: str
    possible: int
    seen: int
    n_obs: int
    mean_stills: float
    three_stills: int

    @property
    def completeness(self) -> float:
        return self.seen / self.possible if self.possible else 0.0

    @property
    def multiplicity(self) -> float:
        return self.n_obs / self.seen if self.seen else 0.0


def coverage(sums: VoxelAccumulator, grid: VoxelGrid, n_shells: int = 10) -> list[CoverageRow]:
    """Coverage in shells of equal volume, and overall as the last row.

    Raises:
        ValueError: no voxel was seen.
    """
    voxel = sums.voxel
    q = np.linalg.norm(grid.q_of_voxel(voxel), axis=1)
    if not len(q):
        raise ValueError("No voxel was seen outside the Bragg mask")
    shells = ResolutionShells.equal_volume(0.0, q.max(), n_shells)
    index, possible = shells.index_of(q), voxels_possible(grid, shells)
    rows = []
    n_obs, n_stills = sums.n_obs, sums.n_stills
    for label, select, n_possible in [
        (label, index == i, int(possible[i])) for i, label in enumerate(shells.labels())
    ] + [("overall", np.ones(len(q), dtype=bool), int(possible.sum()))]:
        n = int(select.sum())
        rows.append(
            CoverageRow(
                label,
                n_possible,
                n,
                int(n_obs[select].sum()),
                float(n_stills[select].mean()) if n else 0.0,
                int((n_stills[select] >= 3).sum()),
            )
        )
    return rows
