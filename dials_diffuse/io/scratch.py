"""Where worker processes leave columns for one process to write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import IO

import numpy as np

from dials_diffuse.io.table_file import StoredColumn, write_all


class ColumnScratch:
    """Temporary files, one a column, that processes share: what one stores, another copies, and nothing
    goes through a pipe.

    Rows lie in places of a fixed size; what a place does not fill takes no room on the disk. The
    files have no names where the system can do without, so that nothing of them stays however
    the processes end. Pickled, only the way to the files is carried.

    Args:
        folder: for the files
        kinds: name of a column -> (type, shape of a row)
        most_rows: that a place can hold
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        kinds: Mapping[str, tuple[type, Sequence[int]]],
        most_rows: int,
    ):
        self._kinds = {
            name: (np.dtype(kind), tuple(shape)) for name, (kind, shape) in kinds.items()
        }
        self._most_rows = most_rows
        self._files: dict[str, IO[bytes]] = {}
        self._paths: dict[str, str] = {}
        self._unused: list[int] = []
        self._n_places = 0
        for name in self._kinds:
            file = tempfile.TemporaryFile(dir=folder, prefix=".columns-", buffering=0)
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

    def place(self) -> int:
        """A place that is not in use."""
        if self._unused:
            return self._unused.pop()
        self._n_places += 1
        return self._n_places - 1

    def free(self, place: int) -> None:
        """What is stored there is not needed any more."""
        self._unused.append(place)

    def store(
        self, place: int, columns: Mapping[str, np.ndarray], repeated: Collection[str] = ()
    ) -> int:
        """Store rows; returns how many.

        Args:
            columns: name -> (N,) or (N, 2 or 3)
            repeated: names of those whose rows are all alike: they are left out

        Raises:
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
            write_all(self._files[name], array, self._offset(name, place))
        return n_rows

    def stored(
        self, place: int, n_rows: int, repeated: Mapping[str, float] | None = None
    ) -> dict[str, StoredColumn | np.ndarray]:
        """The rows that a place holds; each column can be copied once.

        Args:
            repeated: names of columns that were left out, and the value of all their rows
        """
        repeated = repeated or {}
        return {
            name: np.broadcast_to(kind.type(repeated[name]), (n_rows, *shape))
            if name in repeated
            else StoredColumn(
                kind, (n_rows, *shape), self._files[name], self._offset(name, place), temporary=True
            )
            for name, (kind, shape) in self._kinds.items()
        }

    def _offset(self, name: str, place: int) -> int:
        kind, shape = self._kinds[name]
        return place * self._most_rows * kind.itemsize * int(np.prod(shape, dtype=int))
