"""The grid of a run: found from the experiments of all files and the user's choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dxtbx.model import ExperimentList

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import check_given_once
from dials_diffuse.grid.lattice_settings import FEW, LatticeSetting, check_settings
from dials_diffuse.grid.reference_cell import ReferenceCell, common_space_group, reference_cell
from dials_diffuse.grid.symmetry import laue_group_from_symbol, laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.gridding.coverage import VoxelAccumulator
from dials_diffuse.gridding.settings import GridSettings
from dials_diffuse.io.model_copy import restore_models


def coarsening(extracted: Sequence[int], subdivide: Sequence[int]) -> np.ndarray:
    """Number of extracted voxels in a coarser voxel along each axis, (3,).

    It must be odd: both grids have a voxel centred on each node, and only then is a coarse voxel a
    union of whole fine ones.

    Args:
        extracted: n of the observations
        subdivide: n of the coarser voxels

    Raises:
        ValueError: the number is not whole, or even.
    """
    factor = np.array(extracted) // np.maximum(subdivide, 1)
    if np.any(factor * np.array(subdivide) != extracted) or np.any(factor % 2 == 0):
        choices = [[n // f for f in range(1, n + 1, 2) if n % f == 0] for n in extracted]
        raise ValueError(
            f"subdivide={','.join(map(str, subdivide))} can't be made of the extracted "
            f"{','.join(map(str, extracted))}: possible are "
            + ", ".join(f"{'abc'[i]}: {' or '.join(map(str, c))}" for i, c in enumerate(choices))
            + " (extract again for others)"
        )
    return factor


@dataclass
class GridDefinition:
    """The grid of a run, and the experiments it was found from.

    Attributes:
        grid: the new grid; its index range is not known yet
        extracted: the grid of the observations
        cell: reference cell and outliers of all stills
        experiments: a list for each file
        excluded: experiment indices to leave out, a list for each file
    """

    grid: VoxelGrid
    extracted: VoxelGrid
    cell: ReferenceCell
    experiments: list[ExperimentList]
    excluded: list[list[int]]


def load_experiment_lists(
    pairs: Sequence[DataPair], model_copies: Sequence[Path]
) -> list[ExperimentList]:
    """Read the experiments of all files.

    Args:
        pairs: the files; only the experiments are read
        model_copies: JSON files to take lost scaling models from

    Raises:
        ValueError: no input, no tables, or a still in two files.
    """
    if not pairs:
        raise ValueError("No .expt file in the input")
    if any(pair.reflections is None for pair in pairs):
        raise ValueError(
            "No .refl file in the input: dials.diffuse_grid needs the observations of dials.diffuse_extract"
        )
    lists: list[ExperimentList] = []
    seen: dict[str, object] = {}
    for pair in pairs:
        experiments = load_experiments(pair.experiments, check_format=False)
        check_given_once(experiments, pair.experiments, seen)
        for path in model_copies:
            restore_models(experiments, path)
        lists.append(experiments)
    return lists


def define_grid(lists: list[ExperimentList], settings: GridSettings) -> GridDefinition:
    """Find the grid of some stills.

    Args:
        lists: experiments, a list for each file
        settings: the user's choices

    Raises:
        ValueError: different space groups or grids, n that the extracted voxels can't give, unknown
            Laue group, no still left, no overlap with the limits.
    """
    everything = [experiment for experiments in lists for experiment in experiments]
    extracted = grid_of(everything, any_cell=True)
    crystals = [experiment.crystal for experiment in everything]
    space_group = common_space_group(crystals)
    _check_lattices(crystals, settings)
    cells = [crystal.get_unit_cell() for crystal in crystals]
    shared = settings.grid
    cell = reference_cell(cells, space_group, shared.reference_cell, shared.max_cell_deviation)
    d_min, d_max = _limits(settings, extracted)
    grid = extracted.replace(
        subdivide=settings.subdivide or extracted.subdivide,
        unit_cell=cell.unit_cell,
        laue_group=laue_group_from_symbol(shared.laue_group, shared.friedel)
        if shared.laue_group
        else laue_group_of(space_group, shared.friedel),
        d_min=d_min,
        d_max=d_max,
        index_range=None,
    )
    if not grid.laue_group.is_compatible_unit_cell(grid.unit_cell):
        raise ValueError(
            f"The cell {grid.unit_cell!s} does not have the symmetry of Laue group {grid.laue_group.info()}"
        )
    coarsening(extracted.subdivide, grid.subdivide)
    leave_out = cell.outlier & (shared.max_cell_deviation is not None)
    if leave_out.all():
        raise ValueError(
            f"All stills deviate from the reference cell by more than {shared.max_cell_deviation:g}: "
            "give a larger grid.max_cell_deviation"
        )
    ends = np.cumsum([len(experiments) for experiments in lists])[:-1]
    excluded = [np.flatnonzero(part).tolist() for part in np.split(leave_out, ends)]
    return GridDefinition(grid, extracted, cell, lists, excluded)


def _check_lattices(crystals: Sequence, settings: GridSettings) -> None:
    """Refuse stills whose voxels can't be merged.

    Raises:
        ValueError: crystals in other settings of the lattice, or too many with another cell.
    """
    setting = LatticeSetting.most_frequent(crystals)
    other = check_settings(crystals, setting)
    if other:
        raise ValueError(
            f"{len(other)} of {len(crystals)} stills are indexed in another setting of the lattice (experiment "
            f"{other[0]}: {crystals[other[0]].get_unit_cell()}, most: {setting.unit_cell}): extract all stills in one "
            "run of dials.diffuse_extract, which brings them to one setting"
        )
    far = [i for i, model in enumerate(crystals) if setting.is_far(model.get_unit_cell())]
    chosen = settings.grid.max_cell_deviation is not None or settings.grid.reference_cell
    if len(far) > 1 and len(far) > FEW * len(crystals) and not chosen:
        raise ValueError(
            f"{len(far)} of {len(crystals)} stills have another cell (experiment {far[0]}: "
            f"{crystals[far[0]].get_unit_cell()}, most: {setting.unit_cell}): reduce them apart, or leave them out with "
            "grid.max_cell_deviation=0.05"
        )


def _limits(settings: GridSettings, extracted: VoxelGrid) -> tuple[float | None, float | None]:
    """d_min and d_max, the narrower ones of settings and extraction.

    Raises:
        ValueError: nothing lies between them.
    """
    d_min = max((d for d in (settings.d_min, extracted.d_min) if d), default=None)
    d_max = min((d for d in (settings.d_max, extracted.d_max) if d), default=None)
    if d_min and d_max and d_min >= d_max:
        raise ValueError(
            f"Nothing lies between d_max={d_max:g} and d_min={d_min:g}: the limits exclude the extracted range"
        )
    return d_min, d_max


def with_index_range(grid: VoxelGrid, sums: VoxelAccumulator) -> VoxelGrid:
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
