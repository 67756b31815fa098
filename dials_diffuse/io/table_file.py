"""Reflection files column by column: what DIALS writes and reads, without the whole table in memory.

A .refl file is MessagePack: ["dials::af::reflection_table", 1, {"identifiers": {id: name}, "nrows": n,
"data": {column: [type, [n, bytes]]}}]. DIALS reads and writes it through copies of all columns, which takes
longer than to sum the pixels of the stills they come from. Here columns go to the file as they
are, and come from it mapped into memory.
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

from dials_diffuse.adapters.experiments import load_reflections
from dials_diffuse.adapters.system import free_range
from dials_diffuse.adapters.tables import as_column, as_numpy

_MAGIC = "dials::af::reflection_table"
_VERSION = 1  # which every DIALS reads
# 2 has other shoeboxes, and those are left to DIALS anyway
_KNOWN_VERSIONS = (1, 2)
# Name of a column's type in the file -> numpy type and values a row
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
# The length of a column is a number of 32 bits
_MOST_BYTES = 2**32 - 1
_REPEATED = 1 << 20  # bytes of a repeated row that are written together
_IN_MEMORY = 500_000_000  # bytes of columns kept before they go to temporary files


@dataclass(frozen=True)
class StoredColumn:
    """Rows of a column that lie in a file.

    Attributes:
        dtype, shape: as of the numpy array that they would be
        file: an open file, with a descriptor
        offset: of the first byte
        temporary: the file is to let go of the rows once they are copied, so that a table and what it is
            made from need no more room together than the table
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
            OSError: the disk is full; what was stored is not there any more.
        """
        source, offset, left = self.file.fileno(), self.offset, self.nbytes
        while left:
            try:
                # Within the system, where it can
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


def is_repeated(array) -> bool:
    """True for an array of one row that numpy.broadcast_to has repeated"""
    return isinstance(array, np.ndarray) and len(array) > 1 and array.strides[0] == 0


def _write_repeated(out: IO[bytes], array: np.ndarray) -> None:
    """Append such an array to an unbuffered file, a part at a time."""
    part = np.ascontiguousarray(array[: max(1, _REPEATED // max(1, array[:1].nbytes))])
    for start in range(0, len(array), len(part)):
        write_all(out, part[: len(array) - start])


class ColumnWriter:
    """Collects the rows of a table part by part and writes them as one .refl file.

    Of long tables, what does not fit into some memory waits in temporary files, one a column.

    Args:
        folder: for the temporary files
        in_memory: bytes that may wait in memory
    """

    def __init__(self, folder: str | os.PathLike = ".", in_memory: int = _IN_MEMORY):
        self._folder = folder
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
        """Forget all rows."""
        for handle in self._files.values():
            handle.close()
        self._files, self._pieces, self._bytes, self.n_rows = {}, {}, 0, 0

    def append(self, columns: Mapping[str, np.ndarray | StoredColumn]) -> None:
        """Add rows; the arrays (N,) or (N, 2, 3 or 6) are kept, not copied, and what is stored in a file
        stays there until the table is written. Rows that are all alike, made by numpy.broadcast_to, take no room.

        Raises:
            ValueError: other columns than before, or of a kind that reflection tables don't have, or
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
            if not isinstance(array, StoredColumn) and not is_repeated(array):
                array = np.ascontiguousarray(array)
                self._bytes += array.nbytes
            self._pieces.setdefault(name, []).append(array)
        if self._bytes > self._in_memory:
            for name, pieces in self._pieces.items():
                self._pieces[name] = [self._stored(name, piece) for piece in pieces]
            self._bytes = 0

    def _stored(self, name: str, piece: np.ndarray | StoredColumn) -> StoredColumn:
        if isinstance(piece, StoredColumn) or is_repeated(piece):
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
        """Write a new file. (That it is there whole or not at all is for `replacing`.)

        Args:
            identifiers: experiment identifiers by id

        Raises:
            OSError: the disk is full, or the folder can't be written to.
        """
        with open(path, "wb", buffering=0) as out:
            write_all(
                out, b"\x93" + _text(_MAGIC) + _number(_VERSION) + b"\x83" + _text("identifiers")
            )
            write_all(out, _map(len(identifiers)))
            write_all(
                out, b"".join(_number(number) + _text(name) for number, name in identifiers.items())
            )
            write_all(
                out, _text("nrows") + _number(self.n_rows) + _text("data") + _map(len(self._kinds))
            )
            for name, kind in sorted(self._kinds.items()):
                size = self.n_rows * _row_bytes(kind)
                write_all(
                    out,
                    _text(name) + b"\x92" + _text(_NAMES[kind]) + b"\x92" + _number(self.n_rows),
                )
                write_all(out, b"\xc6" + struct.pack(">I", size))
                for piece in self._pieces.get(name, ()):
                    if isinstance(piece, StoredColumn):
                        piece.copy_to(out)
                    elif is_repeated(piece):
                        _write_repeated(out, piece)
                    else:
                        write_all(out, piece)


@dataclass
class Columns:
    """A .refl file as numpy arrays.

    Attributes:
        columns: name -> (N,) or (N, 2, 3 or 6) array, not to be written to
        identifiers: experiment identifiers by id
        table: the reflection table, where the file had to be read through DIALS
    """

    columns: dict[str, np.ndarray]
    identifiers: dict[int, str]
    table: object = None
    _map: mmap.mmap | None = None
    _file: IO[bytes] | None = None

    def stored(self, array: np.ndarray) -> np.ndarray | StoredColumn:
        """Where in the file the array lies, if it is a part of a column as it was read; else the array."""
        if self._map is None or not array.flags.c_contiguous or not array.size:
            return array
        start = np.frombuffer(self._map, dtype=np.uint8).ctypes.data
        offset = array.ctypes.data - start
        if not 0 <= offset < len(self._map):
            return array
        return StoredColumn(array.dtype, array.shape, self._file, offset)

    def release(self) -> None:
        """Let the system take back the memory of what was read; it is read again when needed."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def write(
        self,
        path: str | os.PathLike,
        identifiers: Mapping[int, str],
        more: Mapping[str, np.ndarray],
    ) -> None:
        """Write the rows as they are with other columns added or replaced.

        Args:
            path: of a new file; what does not change is copied from file to file
            identifiers: experiment identifiers by id
            more: name -> (N,) or (N, 2, 3 or 6)

        Raises:
            ValueError: a column is too long for a file.
            OSError: the disk is full, or the folder can't be written to.
        """
        if self.table is not None:
            # ids may have been renumbered
            ids = {"id": self.columns["id"]} if "id" in self.columns else {}
            for name, array in {**ids, **more}.items():
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
                {name: self.stored(array) for name, array in {**self.columns, **more}.items()}
            )
            writer.write(path, identifiers)


def read_columns(path: str | os.PathLike, names: Sequence[str] | None = None) -> Columns:
    """Columns of a .refl file, mapped into memory where the file's format is known,
    else through DIALS. Columns that the file has not are left out.

    The file stays open for as long as somebody holds one of the arrays, or a stored column of it.

    Args:
        names: of the columns wanted; None: all (through DIALS: all that numpy has a type for)

    Raises:
        ValueError: missing or unreadable.
    """
    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path}")
    try:
        found = _mapped(Path(path))
    except (ValueError, KeyError, IndexError, struct.error, UnicodeDecodeError):
        # Another version, or no reflection file at all: DIALS has the last word
        table = load_reflections(path)
        keys, values = (
            table.experiment_identifiers().keys(),
            table.experiment_identifiers().values(),
        )
        columns = {}
        for name in table.keys() if names is None else names:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                columns[name] = as_numpy(table[name])
        return Columns(columns, dict(zip(keys, values)), table)
    if names is not None:
        found.columns = {name: found.columns[name] for name in names if name in found.columns}
    return found


def _row_bytes(kind: tuple[np.dtype, tuple]) -> int:
    return kind[0].itemsize * int(np.prod(kind[1], dtype=int))


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 32:
        return bytes([0xA0 | len(data)]) + data
    return b"\xdb" + struct.pack(">I", len(data)) + data


def _number(value: int) -> bytes:
    return bytes([value]) if value < 128 else b"\xcf" + struct.pack(">Q", value)


def _map(size: int) -> bytes:
    return bytes([0x80 | size]) if size < 16 else b"\xdf" + struct.pack(">I", size)


class _Reader:
    """As much of MessagePack as reflection files have."""

    _NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
    _TEXTS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
    _BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
    _MAPS = {0xDE: ">H", 0xDF: ">I"}
    _ARRAYS = {0xDC: ">H", 0xDD: ">I"}

    def __init__(self, data):
        self._data = data
        self._at = 0

    def _unpack(self, code: str) -> int:
        (value,) = struct.unpack_from(code, self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def _size(self, codes: dict[int, str], fixed: int, mask: int, what: str) -> int:
        first = self._unpack(">B")
        if first in codes:
            return self._unpack(codes[first])
        if mask and first & ~mask & 0xFF == fixed:
            return first & mask
        raise ValueError(f"{what} expected, found code {first:#x}")

    def number(self) -> int:
        return self._size(self._NUMBERS, 0, 0x7F, "number")

    def text(self) -> str:
        size = self._size(self._TEXTS, 0xA0, 0x1F, "text")
        self._at += size
        return bytes(self._data[self._at - size : self._at]).decode()

    def map(self) -> int:
        return self._size(self._MAPS, 0x80, 0x0F, "map")

    def array(self, size: int) -> None:
        if self._size(self._ARRAYS, 0x90, 0x0F, "array") != size:
            raise ValueError(f"array of {size} expected")

    def values(self, kind: np.dtype, shape: tuple, rows: int) -> np.ndarray:
        size = self._size(self._BYTES, 0, 0, "bytes")
        count = rows * int(np.prod(shape, dtype=int))
        if size != count * kind.itemsize or self._at + size > len(self._data):
            raise ValueError("a column is too short or too long")
        array = np.frombuffer(self._data, dtype=kind, count=count, offset=self._at)
        self._at += size
        return array.reshape(rows, *shape)


def _mapped(path: Path) -> Columns:
    file = open(path, "rb")
    # Private and writable: numba compiles everything once more for read-only arrays
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    reader = _Reader(data)
    reader.array(3)
    if reader.text() != _MAGIC or reader.number() not in _KNOWN_VERSIONS:
        raise ValueError("another kind of file")
    found = Columns({}, {}, _map=data, _file=file)
    for _ in range(reader.map()):
        part = reader.text()
        if part == "identifiers":
            for _ in range(reader.map()):
                number = reader.number()
                found.identifiers[number] = reader.text()
        elif part == "nrows":
            reader.number()
        elif part == "data":
            for _ in range(reader.map()):
                name = reader.text()
                reader.array(2)
                kind, shape = _TYPES[reader.text()]
                reader.array(2)
                rows = reader.number()
                found.columns[name] = reader.values(np.dtype(kind), shape, rows)
        else:
            raise ValueError(f"unknown part {part}")
    return found
