"""Observations of all stills on one grid: symmetry, limits, coarser voxels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import sgtbx, uctbx

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.tables import (
    as_numpy,
    bool_column,
    double_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.reference_cell import (
    ReferenceCell,
    common_space_group,
    reference_cell,
)
from dials_diffuse.grid.symmetry import laue_group_from_symbol, laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.io.model_copy import restore_models

logger = logging.getLogger("dials.diffuse.grid.gridding")

OBSERVATION_COLUMNS = (
    "id", "panel", "voxel", "xyzobs.px.value", "bragg", "num_pixels.valid", "counts",
    "background", "background.variance", "exposure",
)  # fmt: skip


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


def _joined(table, voxel: np.ndarray):
    """Rows of the same still, panel, voxel and Bragg flag added up."""
    columns = {name: as_numpy(table[name]) for name in OBSERVATION_COLUMNS if name != "voxel"}
    order = np.lexsort(
        (pack_voxels(voxel), columns["bragg"], columns["panel"], columns["id"])
    )
    keys = np.stack(
        [columns["id"], columns["panel"].astype(np.int64), columns["bragg"], pack_voxels(voxel)], axis=1
    )[order]
    starts = np.flatnonzero(np.r_[True, np.any(keys[1:] != keys[:-1], axis=1)])

    def summed(values):
        return np.add.reduceat(values[order], starts, axis=0)

    exposure = columns["exposure"]
    total = summed(exposure)
    position = summed(columns["xyzobs.px.value"] * exposure[:, None]) / total[:, None]
    joined = flex.reflection_table()
    joined["id"] = int_column(columns["id"][order][starts])
    joined["panel"] = size_t_column(columns["panel"][order][starts])
    joined["voxel"] = miller_index_column(voxel[order][starts])
    joined["xyzobs.px.value"] = vec3_column(position)
    joined["bragg"] = bool_column(columns["bragg"][order][starts])
    joined["num_pixels.valid"] = int_column(summed(columns["num_pixels.valid"]))
    for name in ("counts", "background", "background.variance"):
        joined[name] = double_column(summed(columns[name]))
    joined["exposure"] = double_column(total)
    return joined


def grid_table(table, extracted: VoxelGrid, grid: VoxelGrid, excluded: Sequence[int] = ()):
    """Put the observations of one file on the grid.

    Args:
        table: observations of dials.diffuse_extract
        extracted: the grid they were extracted on
        grid: the grid wanted; its n divides the extracted
        excluded: experiment indices to leave out

    Returns:
        a new table with the column asu_voxel, without rows outside the limits; the
        experiment identifiers are those of the input
    """
    identifiers = dict(
        zip(table.experiment_identifiers().keys(), table.experiment_identifiers().values())
    )
    if len(excluded):
        table = table.select(bool_column(~np.isin(as_numpy(table["id"]), list(excluded))))
    factor = coarsening(extracted.subdivide, grid.subdivide)
    if table.size() and np.any(factor > 1):
        table = _joined(table, coarser_voxels(as_numpy(table["voxel"]), factor))
    asu = grid.to_asu(as_numpy(table["voxel"]))
    table["asu_voxel"] = miller_index_column(asu)
    inside = grid.contains(asu)
    if not inside.all():
        table = table.select(bool_column(inside))
    for number in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[number]
    for number, name in identifiers.items():
        table.experiment_identifiers()[number] = name
    return table


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
        ValueError: no input or no tables, different space groups or grids, n that can't be
            had, no still left, no overlap with the limits.
    """
    if not pairs:
        raise ValueError("No .expt file in the input")
    if any(pair.reflections is None for pair in pairs):
        raise ValueError(
            "No .refl file in the input: dials.diffuse_grid needs the observations of dials.diffuse_extract"
        )
    lists = []
    for pair in pairs:
        experiments = load_experiments(pair.experiments, check_format=False)
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
            f"The cell {grid.unit_cell} does not have the symmetry of Laue group {grid.laue_group.info()}"
        )
    coarsening(extracted.subdivide, grid.subdivide)
    outlier = cell.outlier if settings.max_cell_deviation is not None else np.zeros(len(everything), bool)
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
        raise ValueError(
            "No observation lies on the grid outside the Bragg mask: check d_min, d_max and the mask"
        )
    return grid.replace(
        index_range=tuple(
            (int(low), int(high)) for low, high in zip(voxel.min(axis=0), voxel.max(axis=0))
        )
    )
