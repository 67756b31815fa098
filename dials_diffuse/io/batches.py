"""Names of the files of a batch."""

from __future__ import annotations

import os
from pathlib import Path


def batch_name(name: str | os.PathLike, number: int, n_batches: int | None) -> str:
    """name for a single batch, else name_0001, name_0002 ... before its suffix.

    Args:
        name: the name asked for
        number: 0-based
        n_batches: how many there are; None: many, the number is not known yet
    """
    if n_batches == 1:
        return os.fspath(name)
    path = Path(name)
    return str(path.with_name(f"{path.stem}_{number + 1:04d}{path.suffix}"))
