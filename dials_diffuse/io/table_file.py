"""Read and write .refl files column by column, without a reflection table in memory.

DIALS copies all columns when it reads a file (22 ms for the 138,000 observations of a still) and when it writes one
(17 ms). Here, files are mapped into memory (1 ms) and columns are written as they are (4 to 14 ms), parts of which may
lie in other files. Mask + extract + grid take some 90 ms a still. Files that this module does not
understand are read and written by DIALS.

A .refl file is MessagePack: ["dials::af::reflection_table", 1, {"identifiers": {id: name}, "nrows": n,
"data": {column: [type, [n, bytes]]}}].
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_reflections
from dials_diffuse.adapters.system import free_range
from dials_diffuse.adapters.tables import as_column, as_numpy
from dials_diffuse.io.message_pack import Reader, header, text

_MAGIC = "dials::af::reflection_table"
_VERSION = 1  # every DIALS reads it
# Version 2 differs in shoeboxes only, and columns of those are read by DIALS
_KNOWN_VERSIONS = (1, 2)
# Type of a column in the file -> numpy type and shape of a row
_TYPES = {
    "bool": ("?", ()),
    "int": ("<i4", ()),
    "std::size_t": ("<u8", ()),
    "double": ("<f8", ()),
    "vec2<double>": ("<f8", (2,)),
    "vec3<double>": ("<f8", (3,)),
    "cctbx::miller::index<>": ("<i4", (3,)),
    "int6": ("<i4", (6,)),
}
_NAMES = {(np.dtype(kind), shape): name for name, (kind, shape) in _TYPES.items()}
# The size of a column has 32 bits in the file
_MOST_BYTES = 2**32 - 1
_REPEATED = 1 << 20  # bytes of a repeated row that are written together
_IN_MEMORY = 500_000_000  # bytes of columns kept before they go to temporary files


@dataclass(frozen=True)
class StoredColumn:
    """Rows of a column, in a file.

    Attributes:
        dtype, shape: of the numpy array that the rows would be
        file: an open file, with a descriptor
        offset: of the first byte
        temporary: free the disk space of rows once they are copied, so that the table that is written and
            its temporary files together need no more space than the table
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    file: IO[bytes]
    offset: int
    temporary: bool = False

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=int))

    def copy_to(self, out: IO[bytes]) -> None:
        """Append the bytes to an unbuffered file.

        Raises:
            OSError: the disk is full. A temporary column is lost then.
        """
        source, offset, left = self.file.fileno(), self.offset, self.nbytes
        while left:
            try:
                # Within the kernel, where the file system supports it
                done = os.copy_file_range(source, out.fileno(), left, offset)
            except (AttributeError, OSError):
                part = os.pread(source, min(left, 1 << 22), offset)
                write_all(out, part)
                done = len(part)
            if not done:
                raise OSError(f"{left} bytes of a temporary file are missing")
            if self.temporary:
                free_range(source, offset, done)
            offset, left = offset + done, left - done


def write_all(out: IO[bytes], data, offset: int | None = None) -> None:
    """Write all of an array or bytes to an unbuffered file, at its end or from an offset on."""
    view = memoryview(data).cast("B") if memoryview(data).nbytes else b""
    while len(view):
        if offset is None:
            done = out.write(view)
        else:
            done = os.pwrite(out.fileno(), view, offset)
            offset += done
        view = view[done:]


def _is_repeated(array) -> bool:
    """True for an array of one row that numpy.broadcast_to has repeated"""
    return isinstance(array, np.ndarray) and len(array) > 1 and array.strides[0] == 0


def _append(out: IO[bytes], rows: np.ndarray | StoredColumn) -> None:
    """Append rows to an unbuffered file."""
    if isinstance(rows, StoredColumn):
        rows.copy_to(out)
    elif _is_repeated(rows):
        part = np.ascontiguousarray(rows[: max(1, _REPEATED // max(1, rows[:1].nbytes))])
        for start in range(0, len(rows), len(part)):
            write_all(out, part[: len(rows) - start])
    else:
        write_all(out, rows)


class ColumnWriter:
    """Collects the rows of a table part by part, and writes them as one .refl file.

    The rows of long tables are kept in temporary files, one for each column.

    Args:
        folder: for the temporary files
        in_memory: bytes kept in memory before rows go to temporary files
    """

    def __init__(self, folder: str | os.PathLike = ".", in_memory: int = _IN_MEMORY):
        self._folder = os.fspath(folder)
        self._in_memory = in_memory
        self._kinds: dict[str, tuple[np.dtype, tuple]] = {}
        self._pieces: dict[str, list[np.ndarray | StoredColumn]] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._bytes = 0
        self.n_rows = 0

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Discard all rows and temporary files."""
        for handle in self._files.values():
            handle.close()
        self._files, self._pieces, self._bytes, self.n_rows = {}, {}, 0, 0

    def append(self, columns: Mapping[str, np.ndarray | StoredColumn]) -> None:
        """Add rows.

        Args:
            columns: name -> (N,) or (N, 2, 3 or 6). Arrays are kept, not copied; stored columns stay in their
                file until the table is written; repeated rows (numpy.broadcast_to) take no space.

        Raises:
            ValueError: other columns than before, or of a type that reflection tables don't have, or
                more rows than a file can hold.
        """
        kinds = {name: (array.dtype, array.shape[1:]) for name, array in columns.items()}
        if not self._kinds:
            unknown = [name for name, kind in kinds.items() if kind not in _NAMES]
            if unknown:
                raise ValueError(
                    f"Column {unknown[0]} has no type of reflection tables: {kinds[unknown[0]]}"
                )
            self._kinds = kinds
        if kinds != self._kinds:
            raise ValueError("These rows have other columns than those before")
        sizes = {len(array) for array in columns.values()}
        if len(sizes) != 1:
            raise ValueError("The columns have different lengths")
        self.n_rows += sizes.pop()
        for name, array in columns.items():
            if self.n_rows * _row_bytes(self._kinds[name]) > _MOST_BYTES:
                raise ValueError(
                    f"{self.n_rows} rows are more than one .refl file can hold: give a smaller output.batch_size"
                )
            if not isinstance(array, StoredColumn) and not _is_repeated(array):
                array = np.ascontiguousarray(array)
                self._bytes += array.nbytes
            self._pieces.setdefault(name, []).append(array)
        if self._bytes > self._in_memory:
            for name, pieces in self._pieces.items():
                self._pieces[name] = [self._stored(name, piece) for piece in pieces]
            self._bytes = 0

    def _stored(self, name: str, piece: np.ndarray | StoredColumn) -> np.ndarray | StoredColumn:
        """Move rows to the temporary file of their column, if they take memory."""
        if isinstance(piece, StoredColumn) or _is_repeated(piece):
            return piece
        if name not in self._files:
            self._files[name] = tempfile.TemporaryFile(
                dir=self._folder, prefix=".columns-", buffering=0
            )
        file = self._files[name]
        stored = StoredColumn(piece.dtype, piece.shape, file, file.tell(), temporary=True)
        write_all(file, piece)
        return stored

    def write(self, path: str | os.PathLike, identifiers: Mapping[int, str]) -> None:
        """Write a new file. It is not written atomically: see io.atomic.replacing.

        Args:
            identifiers: experiment identifiers by id

        Raises:
            OSError: the disk is full, or the folder can't be written to.
        """
        parts = [header("array", 3), text(_MAGIC), header("number", _VERSION), header("map", 3)]
        parts += [text("identifiers"), header("map", len(identifiers))]
        for number, name in identifiers.items():
            parts += [header("number", number), text(name)]
        n_rows = header("number", self.n_rows)
        parts += [text("nrows"), n_rows, text("data"), header("map", len(self._kinds))]
        with open(path, "wb", buffering=0) as out:
            write_all(out, b"".join(parts))
            for name, kind in sorted(self._kinds.items()):
                parts = [text(name), header("array", 2), text(_NAMES[kind]), header("array", 2)]
                parts += [n_rows, header("bytes", self.n_rows * _row_bytes(kind))]
                write_all(out, b"".join(parts))
                for piece in self._pieces.get(name, ()):
                    _append(out, piece)


@dataclass
class Columns:
    """A .refl file as numpy arrays.

    Attributes:
        columns: name -> (N,) or (N, 2, 3 or 6) array, not to be changed in place
        identifiers: experiment identifiers by id
        table: the reflection table, if the file was read by DIALS
    """

    columns: dict[str, np.ndarray]
    identifiers: dict[int, str]
    table: flex.reflection_table | None = None
    _map: mmap.mmap | None = None
    _file: IO[bytes] | None = None

    def stored(self, array: np.ndarray) -> np.ndarray | StoredColumn:
        """The place of an array in the file, if it is a part of a column as read; else the array."""
        if (
            self._map is None
            or self._file is None
            or not array.flags.c_contiguous
            or not array.size
        ):
            return array
        start = np.frombuffer(self._map, dtype=np.uint8).ctypes.data
        offset = array.ctypes.data - start
        if not 0 <= offset < len(self._map):
            return array
        return StoredColumn(array.dtype, array.shape, self._file, offset)

    def release(self) -> None:
        """Free the memory of columns that were read; they are read again when needed."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def write(
        self,
        path: str | os.PathLike,
        identifiers: Mapping[int, str],
        changed: Mapping[str, np.ndarray],
    ) -> None:
        """Write the rows to a new file, with columns added or replaced.

        Args:
            path: of the new file; columns that do not change are copied from file to file
            identifiers: experiment identifiers by id
            changed: name -> (N,) or (N, 2, 3 or 6)

        Raises:
            ValueError: a column is too long for a file.
            OSError: the disk is full, or the folder can't be written to.
        """
        if self.table is not None:
            # The caller may have renumbered the ids
            ids = {"id": self.columns["id"]} if "id" in self.columns else {}
            for name, array in {**ids, **changed}.items():
                self.table[name] = as_column(array)
            names = self.table.experiment_identifiers()
            for number in list(names.keys()):
                del names[number]
            for number, name in identifiers.items():
                names[number] = name
            self.table.as_file(os.fspath(path))
            return
        with ColumnWriter(Path(path).absolute().parent) as writer:
            writer.append(
                {name: self.stored(array) for name, array in {**self.columns, **changed}.items()}
            )
            writer.write(path, identifiers)


def read_columns(path: str | os.PathLike, names: Sequence[str] | None = None) -> Columns:
    """Read columns of a .refl file: mapped into memory if its format is known, else by DIALS.

    The file stays open as long as one of the arrays, or a stored column of it, is in use.

    Args:
        path: of the file
        names: of the columns; those that the file does not have are left out. None: all (if read by
            DIALS, all that have a numpy type)

    Raises:
        ValueError: missing or unreadable.
    """
    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path}")
    try:
        result = _mapped(Path(path))
    except (ValueError, KeyError, IndexError, struct.error):
        # Another version or type of column, or not a reflection file: DIALS reads it, or says what is wrong
        return _read_by_dials(path, names)
    if names is not None:
        result.columns = {name: result.columns[name] for name in names if name in result.columns}
    return result


def _read_by_dials(path: str | os.PathLike, names: Sequence[str] | None) -> Columns:
    table = load_reflections(path)
    identifiers = table.experiment_identifiers()
    columns = {}
    for name in table.keys() if names is None else names:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            columns[name] = as_numpy(table[name])
    return Columns(columns, dict(zip(identifiers.keys(), identifiers.values())), table)


def _mapped(path: Path) -> Columns:
    """The columns, mapped into memory.

    Raises:
        ValueError, KeyError, struct.error: another format.
    """
    file = open(path, "rb")
    # Private and writable: numba compiles everything once more for read-only arrays
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    reader = Reader(data)
    _expect(reader.header("array") == 3 and reader.text() == _MAGIC, "another kind of file")
    _expect(reader.header("number") in _KNOWN_VERSIONS, "another version")
    result = Columns({}, {}, _map=data, _file=file)
    for _ in range(reader.header("map")):
        part = reader.text()
        if part == "identifiers":
            for _ in range(reader.header("map")):
                number = reader.header("number")
                result.identifiers[number] = reader.text()
        elif part == "nrows":
            reader.header("number")
        else:
            _expect(part == "data", f"unknown part {part}")
            for _ in range(reader.header("map")):
                name = reader.text()
                result.columns[name] = _mapped_column(reader, data)
    return result


def _mapped_column(reader: Reader, data: mmap.mmap) -> np.ndarray:
    _expect(reader.header("array") == 2, "not a column")
    kind, shape = _TYPES[reader.text()]
    _expect(reader.header("array") == 2, "not a column")
    rows = reader.header("number")
    start, end = reader.bytes_at()
    _expect(end - start == rows * _row_bytes((np.dtype(kind), shape)), "a column of another size")
    count = rows * int(np.prod(shape, dtype=int))
    return np.frombuffer(data, dtype=kind, count=count, offset=start).reshape(rows, *shape)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _row_bytes(kind: tuple[np.dtype, tuple]) -> int:
    return kind[0].itemsize * int(np.prod(kind[1], dtype=int))
