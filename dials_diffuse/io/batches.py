"""Names of the files of a batch."""

from __future__ import annotations

import os
from pathlib import Path

MOST_ROWS = 40_000_000  # observations; a column of a .refl file ends at four times as many


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


def stills_a_file(n_rows: int, n_stills: int) -> int | None:
    """How many stills go to a file if nobody says so: all of them, None, as long as that is a file that
    the next steps can load.

    Args:
        n_rows: observations of one still
        n_stills: how many there are
    """
    if n_rows * n_stills <= MOST_ROWS:
        return None
    return max(1, MOST_ROWS // (2 * n_rows))
