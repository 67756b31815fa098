"""Write files atomically: under a temporary name that is replaced when the file is complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
    """A temporary name in the folder of path, renamed to path when the block succeeds
    and removed when it fails, so that no half-written file ever has the final name.

    The name keeps the suffix of path, because DIALS chooses formats by it; the file is not there yet.

    Raises:
        ValueError: the folder does not exist or can't be written to.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
    except OSError as error:
        raise ValueError(f"Can't write {path}: {error.strerror}") from error
    os.close(handle)
    # The writer creates the file: ext4 waits for the disk when an existing file that was truncated is closed
    os.unlink(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove temporary files that `replacing(path)` left behind in a killed process.

    To be called only when no other process can be writing to path.
    """
    path = Path(path)
    for leftover in path.parent.glob(f".{path.stem}-{'?' * 8}{path.suffix}"):
        leftover.unlink(missing_ok=True)
