"""Write maps as text with a line for each voxel."""

from __future__ import annotations

import os

import numpy as np

from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.maps.merged_map import MergedMap

_ROWS_AT_ONCE = 100_000


def write_hkl(path: str | os.PathLike, merged: MergedMap) -> None:
    """Write h, k, l (r.l.u., voxel centres) and all columns ("nan" where a half set is absent).

    Lines that begin with # describe the grid; numpy.loadtxt ignores them.

    Args:
        path: file to write
        merged: the map

    Raises:
        ValueError: folder not writable.
    """
    columns = merged.columns
    formats = ["%11.6f"] * 3
    formats += ["%8d" if values.dtype.kind in "iu" else "%14.7g" for values in columns.values()]
    lines = [*merged.describe(), " ".join(["h k l", *columns])]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(f"# {line}\n" for line in lines)
        for start in range(0, len(merged), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            hkl = merged.grid.hkl_of_voxel(merged.voxel[part])
            rows = np.column_stack([hkl, *(values[part] for values in columns.values())])
            np.savetxt(handle, rows, fmt=formats)
