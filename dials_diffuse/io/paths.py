"""Parameters that are a file's name or a value themselves."""

from __future__ import annotations

import os
from pathlib import Path


def names_a_file(text: str | os.PathLike) -> bool:
    """Whether a text is the name of a file that there is, and not a value itself."""
    try:
        return Path(text).is_file()
    except OSError:  # a protein's sequence is longer than a name may be
        return False
