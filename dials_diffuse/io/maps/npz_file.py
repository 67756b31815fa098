"""Write maps as numpy archives."""

from __future__ import annotations

import json
import os

import numpy as np

from dials_diffuse.grid.expand import dense_rows
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.maps.merged_map import MergedMap


def write_npz(path: str | os.PathLike, merged: MergedMap, full: bool = True) -> None:
    """Write all columns as arrays (n_h, n_k, n_l), float32 with NaN or int32 with 0 where nothing
    was measured, with the axes h, k, l (r.l.u.), first_voxel, unit_cell, subdivide, units and the
    grid's definition as JSON text ("grid").

    Args:
        path: file to write
        merged: the map, not expanded
        full: the whole sphere; else only the voxels of the table

    Raises:
        ValueError: folder not writable.
    """
    grid = merged.grid
    rows, first = dense_rows(merged.voxel, grid, expand=full)
    arrays = {}
    for name, values in merged.columns.items():
        whole = values.dtype.kind in "iu"
        with_empty = np.append(values, 0 if whole else np.nan)  # row -1
        arrays[name] = with_empty.astype(np.int32 if whole else np.float32)[rows]
    for i, name in enumerate("hkl"):
        arrays[name] = (first[i] + np.arange(rows.shape[i])) / grid.subdivide[i]
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            **arrays,
            first_voxel=first,
            unit_cell=np.array(grid.unit_cell.parameters()),
            subdivide=np.array(grid.subdivide),
            units=np.array(merged.units),
            grid=np.array(json.dumps(grid.to_dict())),
        )
