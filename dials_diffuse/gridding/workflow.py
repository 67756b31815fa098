"""Run dials.diffuse_grid: the observations of all stills on one grid of voxels."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from dials_diffuse.adapters.identifiers import name_experiments
from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.parameters import settings_from
from dials_diffuse.adapters.system import resolve_nproc
from dials_diffuse.extraction.observations import write_derived_columns
from dials_diffuse.grid.voxel_grid import attach_grid
from dials_diffuse.gridding import report
from dials_diffuse.gridding.ambiguity import Resolution, resolve_files
from dials_diffuse.gridding.coverage import VoxelAccumulator, coverage
from dials_diffuse.gridding.definition import (
    GridDefinition,
    define_grid,
    load_experiment_lists,
    with_index_range,
)
from dials_diffuse.gridding.indexing import reindex_experiments, reindex_rows
from dials_diffuse.gridding.result import GriddingResult
from dials_diffuse.gridding.rows import grid_file
from dials_diffuse.gridding.settings import GridSettings
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.batches import batch_name
from dials_diffuse.io.model_copy import models_to_json
from dials_diffuse.io.table_file import ColumnWriter
from dials_diffuse.report.html import write_outputs

logger = logging.getLogger("dials.diffuse.gridding")

# More threads wait for each other, and each holds a million rows
MOST_THREADS = 4


def run(inputs: Inputs, params) -> GriddingResult:
    """Put the observations of all files on one grid, and write the gridded files and the report.

    The files are read one after the other, so that any number of stills fits in memory.

    Args:
        inputs: pairs of .expt and .refl files, copies of scaling models
        params: extract of dials_diffuse.phil.grid

    Raises:
        ValueError: input or parameter that can't be used, or no observation within the limits.
    """
    settings = settings_from(GridSettings, params)
    settings.check()
    lists = load_experiment_lists(inputs.pairs, inputs.model_copies())
    definition = define_grid(lists, settings)
    resolution = resolve_files(inputs.pairs, definition, settings.ambiguity)
    if resolution is not None and resolution.chosen.any():
        for experiments, chosen in zip(lists, resolution.files):
            reindex_experiments(experiments, chosen, resolution.settings)
        definition = define_grid(lists, settings)
    report.log_cells(definition)
    result = _write_files(inputs.pairs, definition, resolution, params)
    write_outputs(
        params.output, "dials.diffuse_grid", report.sections(result), report.numbers(result)
    )
    return result


def _write_files(
    pairs: Sequence[DataPair], definition: GridDefinition, resolution: Resolution | None, params
) -> GriddingResult:
    """Write the gridded files; all get their final names when all are complete."""
    n_threads = min(resolve_nproc(params.nproc), MOST_THREADS)
    output, sums, n_pairs = params.output, VoxelAccumulator(), len(pairs)
    models: dict[str, dict] = {}
    with contextlib.ExitStack() as files:
        new_expts = []
        for number, pair in enumerate(pairs):
            experiments = definition.experiments[number]
            name_experiments(experiments)
            expt = batch_name(output.experiments, number, n_pairs)
            refl = batch_name(output.reflections, number, n_pairs)
            new_expts.append((expt, files.enter_context(replacing(expt))))
            new_refl = files.enter_context(replacing(refl))
            with ColumnWriter(Path(refl).absolute().parent) as rows:
                reindex = _reindexing(resolution, number)
                grid_file(pair.reflections, definition, number, rows, sums, reindex, n_threads)
                logger.info("Saving %d observations to %s", rows.n_rows, refl)
                rows.write(new_refl, dict(enumerate(experiments.identifiers())))
            if output.derived:
                write_derived_columns(new_refl, experiments, definition.grid)
        # The range of the voxels is known now, and goes into every .expt
        grid = with_index_range(definition.grid, sums)
        shells = coverage(sums, grid)
        report.log_coverage(shells)
        for experiments, (expt, new_expt) in zip(definition.experiments, new_expts):
            attach_grid(experiments, grid)
            logger.info("Saving %d experiments to %s", len(experiments), expt)
            experiments.as_file(new_expt)
            models |= models_to_json(experiments)
    return GriddingResult(definition, resolution, grid, sums, shells, models)


def _reindexing(resolution: Resolution | None, number: int) -> Callable | None:
    """The change of voxels of one file to the settings chosen, None where there is none."""
    if resolution is None or not resolution.chosen.any():
        return None
    return functools.partial(
        reindex_rows, chosen=resolution.files[number], settings=resolution.settings
    )
