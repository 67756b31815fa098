"""Observations on one grid: symmetry, limits, coarser voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dials_diffuse.adapters.identifiers import matched_ids
from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.extraction.observations import COLUMNS
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.coverage import VoxelAccumulator
from dials_diffuse.gridding.definition import GridDefinition, coarsening
from dials_diffuse.io.table_file import ColumnWriter, read_columns

OBSERVATION_COLUMNS = ("id", *COLUMNS)


def check_observations(table, name: str) -> None:
    """Raises ValueError if the table has not the columns of dials.diffuse_extract."""
    missing = [column for column in OBSERVATION_COLUMNS if column not in table]
    if missing:
        raise ValueError(
            f"{name} holds no diffuse observations (column {missing[0]} is missing): "
            "it must come from dials.diffuse_extract"
        )


def coarser_voxels(voxel: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Voxels (N, 3) of n -> voxels of n/factor (factor odd): floor(v/f + 1/2) in whole numbers"""
    return (voxel + factor // 2) // factor


def _joined(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add up the rows of the same still, panel, voxel and Bragg flag.

    The errors of the background are treated as fully correlated between the rows: they are added
    before they are squared. That is right for a smoothed background. For one that is not smoothed the
    variance is too large, by a factor of the number of rows at most; the rows do not tell the two
    cases apart.
    """
    order = np.lexsort(
        (pack_voxels(columns["voxel"]), columns["bragg"], columns["panel"], columns["id"])
    )
    names = ("id", "panel", "bragg", "voxel")
    sorted_ = {name: columns[name][order] for name in names}
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.any(
        [
            np.any(np.atleast_2d(np.diff(sorted_[name].astype(np.int64), axis=0).T) != 0, axis=0)
            for name in names
        ],
        axis=0,
    )
    starts = np.flatnonzero(first)

    def summed(values):
        return np.add.reduceat(values[order], starts, axis=0, dtype=values.dtype)

    exposure = columns["exposure"]
    total = summed(exposure)
    joined = {name: values[starts] for name, values in sorted_.items()}
    joined["xyzobs.px.value"] = (
        summed(columns["xyzobs.px.value"] * exposure[:, None]) / total[:, None]
    )
    for name in ("num_pixels.valid", "counts", "background"):
        joined[name] = summed(columns[name])
    joined["background.variance"] = summed(np.sqrt(columns["background.variance"])) ** 2
    joined["exposure"] = total
    return joined


def whole_stills(ids: np.ndarray, most: int) -> Iterator[slice | np.ndarray]:
    """Split rows into parts of whole stills: at most some number of rows, but at least one still.

    Args:
        ids: (N,) experiment index of each row
        most: rows of a part

    Yields:
        the rows of a part: a slice if the stills are in order, else indices
    """
    order = None
    if np.any(ids[1:] < ids[:-1]):
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
    ends = np.append(np.flatnonzero(ids[1:] != ids[:-1]) + 1, len(ids))
    start = 0
    while start < len(ids):
        end = ends[
            max(
                np.searchsorted(ends, start + most, "right") - 1,
                np.searchsorted(ends, start, "right"),
            )
        ]
        yield slice(start, end) if order is None else order[start:end]
        start = end


def grid_rows(
    columns: dict[str, np.ndarray],
    extracted: VoxelGrid,
    grid: VoxelGrid,
    excluded: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Put observations on the grid.

    Args:
        columns: OBSERVATION_COLUMNS, of whole stills
        extracted: the grid of the columns
        grid: the new grid; its n divides the extracted
        excluded: experiment indices to leave out

    Returns:
        the columns and asu_voxel, without rows outside the limits
    """
    columns = dict(columns)
    if len(excluded):
        columns = _selected(columns, ~np.isin(columns["id"], list(excluded)))
    factor = coarsening(extracted.subdivide, grid.subdivide)
    if len(columns["id"]) and np.any(factor > 1):
        columns = _joined(
            columns | {"voxel": coarser_voxels(columns["voxel"], factor).astype(np.int32)}
        )
    columns["asu_voxel"] = grid.to_asu(columns["voxel"])
    inside = grid.contains(columns["asu_voxel"])
    return columns if inside.all() else _selected(columns, inside)


def _selected(columns: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}


def grid_file(
    path,
    definition: GridDefinition,
    number: int,
    out: ColumnWriter,
    sums: VoxelAccumulator,
    reindex: Callable[[dict[str, np.ndarray]], None] | None = None,
    n_threads: int = 1,
    rows_at_once: int = 1_000_000,
) -> None:
    """Put the observations of one file on the grid, some stills at a time.

    Args:
        path: of the .refl file
        definition: the grid, the experiments, and the stills to leave out
        number: of the file
        out: takes the rows
        sums: the rows are added to them
        reindex: changes the voxels of stills in another setting, in place
        n_threads: threads that put rows on the grid while others are summed up
        rows_at_once: see whole_stills

    Raises:
        ValueError: unreadable, no diffuse observations, or of other experiments.
    """
    table = read_columns(path, OBSERVATION_COLUMNS)
    check_observations(table.columns, str(path))
    experiments = definition.experiments[number]
    ids = matched_ids(
        table.columns["id"], table.identifiers, experiments, str(path), "the experiments"
    )
    columns = table.columns | {"id": ids}
    if not len(ids):
        out.append(grid_rows(columns, definition.extracted, definition.grid))

    def gridded(rows) -> dict[str, np.ndarray]:
        part = _selected(columns, rows)
        if reindex is not None:
            reindex(part)
        return grid_rows(part, definition.extracted, definition.grid, definition.excluded[number])

    for part in map_in_threads(gridded, whole_stills(ids, rows_at_once), n_threads):
        sums.add(part)
        out.append({name: table.stored(values) for name, values in part.items()})
        table.release()
