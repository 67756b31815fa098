"""How often and by how many stills the voxels of the grid were seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit

from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.grid.possible import voxels_possible
from dials_diffuse.grid.shells import ResolutionShells
from dials_diffuse.grid.voxel_grid import VoxelGrid

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing, see extraction/kernel.py
_ONE = np.uint64(1)


@njit(cache=True)
def _grown(table, keys, sums, seen, size):
    """The same with twice the room."""
    table = np.zeros(2 * table.size, dtype=np.int32)
    shift, mask = np.uint64(64 - np.int64(np.log2(table.size) + 0.5)), np.uint64(table.size - 1)
    for row in range(1, size):
        slot = (np.uint64(keys[row]) * _GOLDEN) >> shift
        while table[slot] != 0:
            slot = (slot + _ONE) & mask
        table[slot] = row
    more_keys = np.empty(2 * keys.size, dtype=np.int64)
    more_sums = np.empty((2 * keys.size, 2), dtype=np.float64)
    more_seen = np.empty((2 * keys.size, 3), dtype=np.int64)
    more_keys[:size], more_sums[:size], more_seen[:size] = keys[:size], sums[:size], seen[:size]
    return table, more_keys, more_sums, more_seen


@njit(cache=True, nogil=True)
def _add_rows(keys_of_rows, still, first, bragg, counts, background, exposure, table, keys, sums, seen, size):
    """Add rows, all of a still one after the other, to the sums of their keys; see VoxelAccumulator."""
    shift, mask = np.uint64(64 - np.int64(np.log2(table.size) + 0.5)), np.uint64(table.size - 1)
    for i in range(still.size):
        if bragg[i] or not exposure[i] > 0:
            continue
        key = keys_of_rows[i]
        slot = (np.uint64(key) * _GOLDEN) >> shift
        while table[slot] != 0 and keys[table[slot]] != key:
            slot = (slot + _ONE) & mask
        at = table[slot]
        if at == 0:
            if 2 * (size + 1) > table.size:
                table, keys, sums, seen = _grown(table, keys, sums, seen, size)
                shift, mask = np.uint64(64 - np.int64(np.log2(table.size) + 0.5)), np.uint64(table.size - 1)
                slot = (np.uint64(key) * _GOLDEN) >> shift
                while table[slot] != 0:
                    slot = (slot + _ONE) & mask
            at = np.int32(size)
            table[slot] = at
            keys[at] = key
            sums[at] = 0.0
            seen[at, 0] = seen[at, 1] = 0
            seen[at, 2] = -1
            size += 1
        sums[at, 0] += counts[i] - background[i]
        sums[at, 1] += exposure[i]
        seen[at, 0] += 1
        number = first + still[i]
        if seen[at, 2] != number:
            seen[at, 1] += 1
            seen[at, 2] = number
    return table, keys, sums, seen, size


class VoxelAccumulator:
    """Sums by voxel of the asymmetric unit, over any number of files. Memory is bounded by the grid."""

    def __init__(self):
        # Row 0 stands for an empty place of the hash table
        self._state = (
            np.zeros(1 << 13, dtype=np.int32), np.empty(1 << 12, dtype=np.int64),
            np.empty((1 << 12, 2)), np.empty((1 << 12, 3), dtype=np.int64), 1,
        )  # fmt: skip
        self._stills = 0
        self._order: np.ndarray | None = None

    def add(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add the rows that are not under Bragg spots.

        Args:
            columns: id, asu_voxel, bragg, counts, background and exposure of gridded observations; no
                still may have rows in two calls
        """
        ids = columns["id"]
        if np.any(ids[1:] < ids[:-1]):
            order = np.argsort(ids, kind="stable")
            columns = {name: columns[name][order] for name in ("id", "asu_voxel", *_SUMMED)}
        self._state = _add_rows(
            pack_voxels(columns["asu_voxel"]), columns["id"], self._stills,
            *(columns[name] for name in _SUMMED), *self._state,
        )  # fmt: skip
        self._stills += int(ids.max(initial=-1)) + 1
        self._order = None

    def _of_voxels(self, array: np.ndarray) -> np.ndarray:
        """(M, ...) in ascending order of the keys"""
        if self._order is None:
            self._order = np.argsort(self._state[1][1 : self._state[4]]) + 1
        return array[self._order]

    @property
    def voxel(self) -> np.ndarray:
        """(M, 3) int32, ascending"""
        return unpack_voxels(self._of_voxels(self._state[1]))

    @property
    def photons(self) -> np.ndarray:
        """(M,) counts less background"""
        return self._of_voxels(self._state[2])[:, 0]

    @property
    def exposure(self) -> np.ndarray:
        """(M,) s sr"""
        return self._of_voxels(self._state[2])[:, 1]

    @property
    def n_obs(self) -> np.ndarray:
        """(M,) observations (not under Bragg spots)"""
        return self._of_voxels(self._state[3])[:, 0]

    @property
    def n_stills(self) -> np.ndarray:
        """(M,) stills that saw it"""
        return self._of_voxels(self._state[3])[:, 1]

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
