"""Large results on their way from one process to another."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass

from dials_diffuse.io.table_file import write_all

# Where arrays begin in the file: compiled code relies on it
_ALIGNED = 64


@dataclass
class Handover:
    """An object to be pickled with its numpy arrays in a file, which who takes it maps into memory: through a
    pipe, every byte would be copied five times.

    Attributes:
        pickled: all but the arrays
        path: of the file
        sizes: bytes of each array
    """

    pickled: bytes
    path: str
    sizes: list[int]

    @classmethod
    def of(cls, what, folder: str | os.PathLike) -> Handover:
        """Put an object's arrays into a new file.

        Raises:
            OSError: the disk is full; names the folder.
        """
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(what, protocol=5, buffer_callback=buffers.append)
        handle, path = tempfile.mkstemp(dir=folder, prefix="arrays-")
        try:
            with open(handle, "wb", buffering=0) as file:
                for buffer in buffers:
                    write_all(file, buffer.raw())
                    write_all(file, bytes(-buffer.raw().nbytes % _ALIGNED))
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(folder)) from error
        return cls(pickled, path, [buffer.raw().nbytes for buffer in buffers])

    def take(self):
        """The object. The file is removed; its bytes stay for as long as somebody holds one of the arrays."""
        views = [memoryview(bytearray())] * len(self.sizes)
        if any(self.sizes):
            with open(self.path, "rb") as file:
                # Private copies of the pages that are written to
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            starts = itertools.accumulate(
                (size + -size % _ALIGNED for size in self.sizes), initial=0
            )
            views = [view[start : start + size] for start, size in zip(starts, self.sizes)]
        os.unlink(self.path)
        return pickle.loads(self.pickled, buffers=views)
