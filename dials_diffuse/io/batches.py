"""Names of the files of batches of stills, and the number of stills in a file."""

from __future__ import annotations

import os
from pathlib import Path

MOST_ROWS = 40_000_000  # observations; a column of a .refl file can hold four times as many


def batch_name(name: str | os.PathLike, number: int, n_batches: int | None) -> str:
    """File name of a batch: name itself for a single one, else name_0001, name_0002 ... with its suffix.

    Args:
        name: output file name that the user gave
        number: 0-based
        n_batches: number of batches; None: several, not known yet
    """
    if n_batches == 1:
        return os.fspath(name)
    path = Path(name)
    return str(path.with_name(f"{path.stem}_{number + 1:04d}{path.suffix}"))


def stills_a_file(n_rows: int, n_stills: int) -> int | None:
    """Default number of stills in a file: None (all of them) if the next steps can load such a file.

    Args:
        n_rows: observations of one still
        n_stills: number of stills
    """
    if n_rows * n_stills <= MOST_ROWS:
        return None
    return max(1, MOST_ROWS // (2 * n_rows))
