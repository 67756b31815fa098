"""Write maps as CCP4/MRC files."""

from __future__ import annotations

import os

import numpy as np

from dials_diffuse.grid.expand import dense_rows
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.maps.merged_map import MergedMap

# Reciprocal lengths are tiny beside the Angstroms that viewers of densities expect
SCALE = 1000.0


def map_cell(grid: VoxelGrid, shape: tuple[int, ...]) -> tuple[float, ...]:
    """The header's cell: edges of the whole box in 0.001/A, reciprocal angles in degrees."""
    a, b, c, *angles = grid.unit_cell.reciprocal_parameters()
    edges = (SCALE * edge * n / step for edge, n, step in zip((a, b, c), shape, grid.subdivide))
    return (*edges, *angles)


def _header(
    grid: VoxelGrid, values: np.ndarray, rows: np.ndarray, first: np.ndarray, labels: list[str]
) -> bytes:
    """The 1024 bytes of the CCP4 format (Cheng et al. 2015, J. Struct. Biol. 192, 146)."""
    shape = rows.shape
    header = np.zeros(256, dtype="<i4")
    real = header.view("<f4")
    header[0:3] = shape
    header[3] = 2  # 32-bit reals
    header[4:7] = first
    header[7:10] = shape
    real[10:16] = map_cell(grid, shape)
    header[16:19] = (1, 2, 3)  # h runs fastest
    use = np.isfinite(values)
    if use.any():
        times = np.bincount(rows.reshape(-1) + 1, minlength=len(values) + 1)[1:][use]
        found = values[use].astype(float)
        mean = np.average(found, weights=times)
        real[19:22] = found.min(), found.max(), mean
        real[54] = np.sqrt(np.average((found - mean) ** 2, weights=times))
    else:  # the values by which the format marks them as unknown
        real[19:22], real[54] = (0, -1, -2), -1
    header[22] = 1  # space group P1: the box does not repeat by symmetry
    header[27] = 20140  # version of the format
    header[52] = int.from_bytes(b"MAP ", "little")
    header[53] = int.from_bytes(b"\x44\x44\x00\x00", "little")  # little-endian
    header[55] = len(labels)
    text = b"".join(label.encode("ascii", "replace")[:80].ljust(80) for label in labels)
    return header.tobytes()[:224] + text.ljust(800)


def write_ccp4(
    path: str | os.PathLike,
    merged: MergedMap,
    column: str = "intensity",
    full: bool = True,
    unmeasured: float = np.nan,
) -> None:
    """Write one column of a map as a CCP4 map (mode 2, 32-bit reals).

    Grid point (i, j, k), counted from the header's start, is voxel (i, j, k). The cell is that
    of the whole box, 1 A for 0.001/A, so that nothing repeats within it and the origin of
    reciprocal space is at the origin of the map.

    Args:
        path: file to write
        merged: the map
        column: name of the column
        full: the whole sphere; else only the voxels of the table
        unmeasured: value where nothing was measured

    Raises:
        ValueError: no such column, folder not writable.
    """
    if column not in merged.columns:
        raise ValueError(f"The map has no column {column}: it has {', '.join(merged.columns)}")
    grid = merged.grid
    rows, first = dense_rows(merged.voxel, grid, expand=full)
    values = np.append(merged.columns[column], unmeasured).astype("<f4")  # row -1
    labels = [*merged.describe(), f"This map: {column}; 1 A of its cell is {1 / SCALE:g}/A"]
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        handle.write(_header(grid, values[:-1], rows, first, labels))
        for layer in range(rows.shape[2]):
            handle.write(values[rows[:, :, layer].T].tobytes())
