"""Parameters that hold either a file name or a value."""

from __future__ import annotations

import os
from pathlib import Path


def names_a_file(text: str | os.PathLike) -> bool:
    """Whether a text is the name of an existing file."""
    try:
        return Path(text).is_file()
    except OSError:  # too long for a file name, such as the sequence of a protein
        return False
