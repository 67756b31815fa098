"""Observations of all stills on one grid: symmetry, limits, coarser voxels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import sgtbx, uctbx

from dials_diffuse.adapters.experiments import load_experiments, matched_ids
from dials_diffuse.adapters.stills import check_given_once
from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.reference_cell import ReferenceCell, common_space_group, reference_cell
from dials_diffuse.grid.symmetry import laue_group_from_symbol, laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.gridding.coverage import VoxelAccumulator
from dials_diffuse.io.model_copy import restore_models
from dials_diffuse.io.table_file import ColumnWriter, read_columns

logger = logging.getLogger("dials.diffuse.grid.gridding")

# More wait for each other, and each holds a million rows
MOST_THREADS = 4

OBSERVATION_COLUMNS = (
    "id",
    "panel",
    "voxel",
    "xyzobs.px.value",
    "bragg",
    "num_pixels.valid",
    "counts",
    "background",
    "background.variance",
    "exposure",
)


@dataclass(frozen=True)
class GridSettings:
    """What the user may choose of the grid.

    Attributes:
        subdivide: n, a divisor of the extracted n; None: as extracted
        d_min, d_max: limits of the voxel centres, Angstrom; None: as extracted
        laue_group: None: that of the crystals
        friedel: take h and -h for equal
        reference_cell: None: median of the stills
        max_cell_deviation: leave out stills whose cell is further from the reference (relative);
            None: report outliers but leave none out
    """

    subdivide: tuple[int, int, int] | None = None
    d_min: float | None = None
    d_max: float | None = None
    laue_group: sgtbx.space_group | None = None
    friedel: bool = True
    reference_cell: uctbx.unit_cell | None = None
    max_cell_deviation: float | None = None


def check_observations(table, name: str) -> None:
    """Raises ValueError if the table has not the columns of dials.diffuse_extract."""
    missing = [column for column in OBSERVATION_COLUMNS if column not in table]
    if missing:
        raise ValueError(
            f"{name} holds no diffuse observations (column {missing[0]} is missing): "
            "it must come from dials.diffuse_extract"
        )


def coarsening(extracted: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """How many extracted voxels a wanted one has along each axis, (3,).

    A coarse voxel is a union of whole fine ones only if that number is odd: both grids
    have a voxel centred on each node.

    Raises:
        ValueError: wanted does not divide extracted an odd number of times.
    """
    factor = np.array(extracted) // np.maximum(wanted, 1)
    if np.any(factor * np.array(wanted) != extracted) or np.any(factor % 2 == 0):
        choices = [[n // f for f in range(1, n + 1, 2) if n % f == 0] for n in extracted]
        raise ValueError(
            f"subdivide={','.join(map(str, wanted))} can't be made of the extracted "
            f"{','.join(map(str, extracted))}: possible are "
            + ", ".join(f"{'abc'[i]}: {' or '.join(map(str, c))}" for i, c in enumerate(choices))
            + " (extract again for others)"
        )
    return factor


def coarser_voxels(voxel: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Voxels (N, 3) of n -> voxels of n/factor (factor odd): floor(v/f + 1/2) in whole numbers"""
    return (voxel + factor // 2) // factor


def _joined(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of the same still, panel, voxel and Bragg flag added up.

    Errors of the background are added before they are squared, as for what neighbouring pixels share. How much
    of the variance is each pixel's own the rows don't tell any more: all is taken for shared, which it is where
    the background was smoothed, and otherwise is too much by the number of rows at most.
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


def whole_stills(ids: np.ndarray, most: int = 1_000_000) -> Iterator[slice | np.ndarray]:
    """Rows in parts of at most some number, or of one still, all rows of a still in one part.

    Args:
        ids: (N,) experiment index of each row
        most: rows of a part

    Yields:
        what picks the rows of a part: a slice, if the stills are in order
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
        extracted: the grid they were extracted on
        grid: the grid wanted; its n divides the extracted
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
    experiments,
    wanted: GridDefinition,
    number: int,
    out: ColumnWriter,
    sums: VoxelAccumulator,
    reindex=None,
    n_threads: int = 1,
) -> None:
    """Put the observations of one file on the grid, some stills at a time.

    Args:
        path: of the .refl file
        experiments: that belong to it
        wanted: the grid, and what to leave out
        number: of the file
        out: takes the rows
        sums: to add them to
        reindex: function(columns) that changes the voxels of stills in another setting
        n_threads: that put rows on the grid while others are summed up

    Raises:
        ValueError: unreadable, no diffuse observations, or of other experiments.
    """
    found = read_columns(path, OBSERVATION_COLUMNS)
    check_observations(found.columns, str(path))
    ids = matched_ids(
        found.columns["id"], found.identifiers, experiments, str(path), "the experiments"
    )
    columns = found.columns | {"id": ids}
    if not len(ids):
        out.append(grid_rows(columns, wanted.extracted, wanted.grid))

    def gridded(rows) -> dict[str, np.ndarray]:
        part = _selected(columns, rows)
        if reindex is not None:
            reindex(part)
        return grid_rows(part, wanted.extracted, wanted.grid, wanted.excluded[number])

    for part in map_in_threads(gridded, whole_stills(ids), n_threads):
        sums.add(part)
        out.append({name: found.stored(values) for name, values in part.items()})
        found.release()


@dataclass
class GridDefinition:
    """The grid of a run and what it was found from.

    Attributes:
        grid: the grid wanted; its index range is not known yet
        extracted: the grid of the observations
        cell: reference cell and outliers over all stills
        experiments: a list a file
        excluded: experiment indices to leave out, a list a file
    """

    grid: VoxelGrid
    extracted: VoxelGrid
    cell: ReferenceCell
    experiments: list
    excluded: list[list[int]]


def settings_of(params) -> GridSettings:
    """Settings from the parameters of dials.diffuse_grid.

    Raises:
        ValueError: unknown Laue group, or d_min beyond d_max.
    """
    if params.d_min and params.d_max and params.d_min >= params.d_max:
        raise ValueError(f"d_min={params.d_min} must be smaller than d_max={params.d_max}")
    group = params.grid.laue_group
    return GridSettings(
        subdivide=params.subdivide and tuple(params.subdivide),
        d_min=params.d_min,
        d_max=params.d_max,
        laue_group=group and laue_group_from_symbol(group, params.grid.friedel),
        friedel=params.grid.friedel,
        reference_cell=params.grid.reference_cell,
        max_cell_deviation=params.grid.max_cell_deviation,
    )


def define_grid(pairs, model_copies, settings: GridSettings) -> GridDefinition:
    """Find the grid from the experiments of all files.

    Args:
        pairs: DataPairs; only the experiments are read
        model_copies: JSON files to take lost scaling models from
        settings: the user's choices

    Raises:
        ValueError: no input or no tables, a still in two files, different space groups or grids,
            n that can't be had, no still left, no overlap with the limits.
    """
    if not pairs:
        raise ValueError("No .expt file in the input")
    if any(pair.reflections is None for pair in pairs):
        raise ValueError(
            "No .refl file in the input: dials.diffuse_grid needs the observations of dials.diffuse_extract"
        )
    lists, seen = [], {}
    for pair in pairs:
        experiments = load_experiments(pair.experiments, check_format=False)
        check_given_once(experiments, pair.experiments, seen)
        for path in model_copies:
            restore_models(experiments, path)
        lists.append(experiments)
    return define_grid_of(lists, settings)


def define_grid_of(lists: list, settings: GridSettings) -> GridDefinition:
    """Find the grid from experiment lists, one a file.

    Raises:
        ValueError: as define_grid.
    """
    everything = [experiment for experiments in lists for experiment in experiments]
    extracted = grid_of(everything, any_cell=True)
    crystals = [experiment.crystal for experiment in everything]
    space_group = common_space_group(crystals)
    cell = reference_cell(
        [crystal.get_unit_cell() for crystal in crystals],
        space_group,
        settings.reference_cell,
        settings.max_cell_deviation,
    )
    d_min = max((d for d in (settings.d_min, extracted.d_min) if d), default=None)
    d_max = min((d for d in (settings.d_max, extracted.d_max) if d), default=None)
    if d_min and d_max and d_min >= d_max:
        raise ValueError(
            f"Nothing lies between d_max={d_max:g} and d_min={d_min:g}: the limits exclude the extracted range"
        )
    grid = extracted.replace(
        subdivide=settings.subdivide or extracted.subdivide,
        unit_cell=cell.unit_cell,
        laue_group=settings.laue_group or laue_group_of(space_group, settings.friedel),
        d_min=d_min,
        d_max=d_max,
        index_range=None,
    )
    if not grid.laue_group.is_compatible_unit_cell(grid.unit_cell):
        raise ValueError(
            f"The cell {grid.unit_cell!s} does not have the symmetry of Laue group {grid.laue_group.info()}"
        )
    coarsening(extracted.subdivide, grid.subdivide)
    outlier = (
        cell.outlier if settings.max_cell_deviation is not None else np.zeros(len(everything), bool)
    )
    if outlier.all():
        raise ValueError(
            f"All stills deviate from the reference cell by more than {settings.max_cell_deviation:g}: "
            "give a larger grid.max_cell_deviation"
        )
    excluded, start = [], 0
    for experiments in lists:
        excluded.append(np.flatnonzero(outlier[start : start + len(experiments)]).tolist())
        start += len(experiments)
    return GridDefinition(grid, extracted, cell, lists, excluded)


def with_index_range(grid: VoxelGrid, sums) -> VoxelGrid:
    """The grid with the range of the voxels that were seen.

    Raises:
        ValueError: none was.
    """
    voxel = sums.voxel
    if not len(voxel):
        d_max = f"{grid.d_max:g}" if grid.d_max else "infinity"
        d_min = f"{grid.d_min:g}" if grid.d_min else "0"
        raise ValueError(
            f"No observation outside the Bragg mask lies between d_max={d_max} and d_min={d_min} A: give other "
            "limits, or see what the mask leaves of the images"
        )
    return grid.replace(
        index_range=tuple(
            (int(low), int(high)) for low, high in zip(voxel.min(axis=0), voxel.max(axis=0))
        )
    )
