"""Pass large results from one process to another through a file."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass

from dials_diffuse.io.table_file import write_all

# Arrays begin at multiples of this many bytes: compiled code relies on it
_ALIGNED = 64


@dataclass
class Handover:
    """An object whose numpy arrays are in a file, to be pickled and sent to another process.

    The receiver maps the file into memory. Through a pipe every byte would be copied five times.

    Attributes:
        pickled: the object without its arrays
        path: of the file
        sizes: bytes of each array
    """

    pickled: bytes
    path: str
    sizes: list[int]

    @classmethod
    def store(cls, value, folder: str | os.PathLike) -> Handover:
        """Write the arrays of an object to a new file.

        Raises:
            OSError: the disk is full; names the folder.
        """
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
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
        """Restore the object, once. The file is removed; its bytes stay as long as one of the arrays is in use."""
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
