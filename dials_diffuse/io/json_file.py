"""Write JSON files atomically, with null for NaN, which JSON does not have."""

from __future__ import annotations

import json
import os

import numpy as np

from dials_diffuse.io.atomic import replacing


def write_json(path: str | os.PathLike, contents, indent: int | None = None) -> None:
    """Write a JSON file; numbers that are not finite become null.

    Args:
        path: of the file
        contents: dictionaries, lists, texts, numbers
        indent: spaces a level, None for one line

    Raises:
        ValueError: the folder does not exist or can't be written to.
    """
    with replacing(path) as temporary, open(temporary, "w") as handle:
        handle.write(json.dumps(_finite(contents), allow_nan=False, indent=indent))


def _finite(value):
    """A copy with None for numbers that are not finite, at all levels"""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(type(item) is float for item in value) and np.isfinite(value).all():
            return value
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
