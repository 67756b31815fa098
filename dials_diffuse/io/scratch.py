"""Temporary files in which worker processes store columns for one process to write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import IO

import numpy as np

from dials_diffuse.io.table_file import StoredColumn, write_all


class ColumnScratch:
    """Temporary files, one for each column, that processes share, so that rows need not go through a pipe.

    A file consists of slots of a fixed size; the unused part of a slot takes no disk space. Where the
    system allows it the files have no names, so that they vanish however the processes end. A pickled
    object refers to the same files.

    Args:
        folder: for the files
        kinds: name of a column -> (type, shape of a row)
        most_rows: number of rows that a slot can hold
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        kinds: Mapping[str, tuple[type, Sequence[int]]],
        most_rows: int,
    ):
        folder = os.fspath(folder)
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            name: (np.dtype(kind), tuple(shape)) for name, (kind, shape) in kinds.items()
        }
        self._most_rows = most_rows
        self._files: dict[str, IO[bytes]] = {}
        self._paths: dict[str, str] = {}
        self._unused: list[int] = []
        self._n_slots = 0
        for name in self._kinds:
            file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix=".columns-", buffering=0)
            path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
            if not os.path.exists(path):
                file.close()
                file = tempfile.NamedTemporaryFile(dir=folder, prefix=".columns-", buffering=0)
                path = file.name
            self._files[name], self._paths[name] = file, path

    def __getstate__(self) -> dict:
        return {
            "_kinds": self._kinds,
            "_most_rows": self._most_rows,
            "_paths": self._paths,
            "_files": {},
        }

    def __enter__(self) -> ColumnScratch:
        return self

    def __exit__(self, *_) -> None:
        for file in self._files.values():
            file.close()

    def reserve(self) -> int:
        """Reserve a slot that is not in use."""
        if self._unused:
            return self._unused.pop()
        self._n_slots += 1
        return self._n_slots - 1

    def free(self, slot: int) -> None:
        """Release a slot whose rows are not needed any more."""
        self._unused.append(slot)

    def store(
        self, slot: int, columns: Mapping[str, np.ndarray], repeated: Collection[str] = ()
    ) -> int:
        """Store rows in a slot; returns their number.

        Args:
            slot: where to store them
            columns: name -> (N,) or (N, 2 or 3)
            repeated: names of columns whose rows are all equal; these are not stored

        Raises:
            ValueError: a column of another shape, or more rows than a slot can hold.
            OSError: the disk is full.
        """
        n_rows = 0
        for name, (kind, shape) in self._kinds.items():
            array = np.ascontiguousarray(columns[name], dtype=kind)
            n_rows = len(array)
            if array.shape[1:] != shape or n_rows > self._most_rows:
                raise ValueError(f"Column {name} of shape {array.shape} does not fit")
            if name in repeated:
                continue
            if name not in self._files:
                self._files[name] = open(self._paths[name], "r+b", buffering=0)
            write_all(self._files[name], array, self._offset(name, slot))
        return n_rows

    def stored(
        self, slot: int, n_rows: int, repeated: Mapping[str, float] | None = None
    ) -> dict[str, StoredColumn | np.ndarray]:
        """The rows in a slot; each column can be copied once.

        Args:
            slot: where they are stored
            n_rows: their number, as store() returned it
            repeated: names of columns that were not stored -> value of all their rows
        """
        repeated = repeated or {}
        return {
            name: np.broadcast_to(kind.type(repeated[name]), (n_rows, *shape))
            if name in repeated
            else StoredColumn(
                kind, (n_rows, *shape), self._files[name], self._offset(name, slot), temporary=True
            )
            for name, (kind, shape) in self._kinds.items()
        }

    def _offset(self, name: str, slot: int) -> int:
        kind, shape = self._kinds[name]
        return slot * self._most_rows * kind.itemsize * int(np.prod(shape, dtype=int))
