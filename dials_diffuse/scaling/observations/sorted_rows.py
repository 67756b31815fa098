"""All usable observations sorted by voxel, in memory or in a temporary file."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import IO

import numpy as np
from numba import njit

from dials_diffuse.io.table_file import write_all
from dials_diffuse.scaling.observations.rows import ROW
from dials_diffuse.scaling.observations.voxel_index import VoxelIndex

# Observations that a thread works on at a time
CHUNK = 1 << 18
_MIX = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True)
def _count(rows, position, start):
    for k in range(len(rows)):
        start[position[rows[k].voxel] + 1] += 1


@njit(cache=True, nogil=True)
def _scatter(rows, position, next_row, out):
    for k in range(len(rows)):
        v = position[rows[k].voxel]
        out[next_row[v]] = rows[k]
        out[next_row[v]].voxel = v
        next_row[v] += 1


def sort_by_voxel(
    pieces: list[np.ndarray], position: np.ndarray, n_voxels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by voxel. Rows of a voxel stay in their order.

    Args:
        pieces: arrays of ROW; the list is emptied, to save memory
        position: place of each voxel number, 0 to n_voxels - 1

    Returns:
        (rows (N,) whose voxel is its place, first row of each voxel and the end (n_voxels + 1,))
    """
    start = np.zeros(n_voxels + 1, dtype=np.int64)
    for piece in pieces:
        _count(piece, position, start)
    start = np.cumsum(start)
    out = np.empty(start[-1], dtype=ROW)
    next_row = start[:-1].copy()
    pieces.reverse()
    while pieces:
        _scatter(pieces.pop(), position, next_row, out)
    return out, start


@dataclass
class SortedRows:
    """Observations sorted by voxel, and within a voxel by still.

    Attributes:
        voxels: (V,) packed; sorted if the rows are in memory
        start: (V + 1,) first observation of each voxel
        index: numbers of packed voxels
        position: place in `voxels` of each number of `index`
    """

    voxels: np.ndarray
    start: np.ndarray
    index: VoxelIndex
    position: np.ndarray
    _rows: np.ndarray | None = None
    _file: IO[bytes] | None = None

    def __len__(self) -> int:
        return int(self.start[-1])

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Place in `voxels` (N,) of packed voxels (N,), -1 for those without observations."""
        number = self.index.find(keys)
        return np.where(number >= 0, self.position[number], -1)

    def chunks(self, size: int = CHUNK) -> list[slice]:
        """Ranges of voxels with about `size` observations each; they do not depend on threads."""
        n = max(1, -(-len(self) // size))
        edges = np.searchsorted(self.start, np.linspace(0, len(self), n + 1)[1:-1])
        edges = [0, *np.unique(edges).tolist(), len(self.voxels)]
        return [slice(a, b) for a, b in zip(edges[:-1], edges[1:]) if b > a]

    def rows(self, voxels: slice) -> np.ndarray:
        """The observations of a range of voxels."""
        first, last = int(self.start[voxels.start]), int(self.start[voxels.stop])
        if self._rows is not None:
            return self._rows[first:last]
        out = np.empty(last - first, dtype=ROW)
        view, done = memoryview(out).cast("B"), 0
        while done < len(view):
            place = first * ROW.itemsize + done
            done += os.preadv(self._file.fileno(), [view[done:]], place)
        return out


class RowCollector:
    """Collects rows and sorts them by voxel.

    More rows than fit into memory are dealt to temporary files by their voxel, which are sorted one after
    the other.

    Args:
        n_rows: that may come, at most
        keep: rows that are kept in memory
        folder: for temporary files
    """

    def __init__(self, n_rows: int, keep: int, folder: str = "."):
        self.index = VoxelIndex()
        self._folder = folder
        self._files = []
        if n_rows > keep:
            n_files = -(-n_rows // max(keep, CHUNK))
            self._files = [self._temporary() for _ in range(n_files)]
        self._pieces: list[np.ndarray] = []

    def _temporary(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder, prefix=".scaling-", buffering=0)

    def add(self, rows: np.ndarray, voxels: np.ndarray) -> None:
        """Add rows of packed voxels (N,), later stills after earlier ones."""
        if np.any(rows["still"][1:] < rows["still"][:-1]):
            order = np.argsort(rows["still"], kind="stable")
            rows, voxels = rows[order], voxels[order]
        rows["voxel"] = self.index.add(voxels)
        if not self._files:
            self._pieces.append(rows)
            return
        file = self._file_of(voxels)
        for number in np.unique(file):
            write_all(self._files[number], rows[file == number])

    def _file_of(self, voxels: np.ndarray) -> np.ndarray:
        mixed = voxels.astype(np.uint64) * _MIX >> np.uint64(40)
        return (mixed % np.uint64(max(len(self._files), 1))).astype(np.int64)

    def finish(self) -> SortedRows:
        """All rows, sorted. The collector is empty then."""
        voxels = self.index.voxels()
        order = np.lexsort((voxels, self._file_of(voxels)))
        position = np.empty(len(voxels), dtype=np.int32)
        position[order] = np.arange(len(voxels), dtype=np.int32)
        if not self._files:
            rows, start = sort_by_voxel(self._pieces, position, len(voxels))
            return SortedRows(voxels[order], start, self.index, position, rows)
        out, starts, n = self._temporary(), [np.zeros(1, dtype=np.int64)], 0
        ends = np.searchsorted(self._file_of(voxels)[order], np.arange(len(self._files) + 1))
        for file, first, last in zip(self._files, ends[:-1], ends[1:]):
            file.seek(0)
            piece = np.frombuffer(bytearray(file.read()), dtype=ROW)
            file.close()
            rows, start = sort_by_voxel([piece], position - np.int32(first), int(last - first))
            rows["voxel"] += np.int32(first)
            write_all(out, rows)
            starts.append(n + start[1:])
            n += int(start[-1])
        start = np.concatenate(starts)
        return SortedRows(voxels[order], start, self.index, position, None, out)
