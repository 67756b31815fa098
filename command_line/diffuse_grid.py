# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_grid
"""Put the observations of all stills on one grid of voxels.

Finds the reference cell of the stills, maps the voxels to the asymmetric unit of the Laue group,
leaves out what lies beyond the limits, and tells how often and by how many stills
the voxels were seen. Where the lattice is more symmetric than the Laue group (P4, P3,
...), stills that were indexed in different settings are told apart by their diffuse
intensities and brought to one setting (ambiguity.resolve=False leaves them as they are).
Files are read one pair after the other, so that any number of stills fits in memory.

Usage:

  dials.diffuse_grid diffuse_extracted.expt diffuse_extracted.refl

  dials.diffuse_grid diffuse_extracted_*.expt diffuse_extracted_*.refl

  dials.diffuse_grid diffuse_extracted.expt diffuse_extracted.refl subdivide=1,1,1 d_min=2.5

  dials.diffuse_grid diffuse_extracted.expt diffuse_extracted.refl grid.laue_group=P1
"""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.grid import phil_scope

logger = logging.getLogger("dials.diffuse.grid")

USAGE = "dials.diffuse_grid [options] diffuse_extracted.expt diffuse_extracted.refl [...]"


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_grid."""
    command = parse_command(args, phil, USAGE, __doc__)
    if command is None:
        return
    params = command.params
    command.start_log()

    from dials_diffuse.adapters.experiments import name_experiments
    from dials_diffuse.adapters.system import resolve_nproc
    from dials_diffuse.extraction.observations import write_derived_columns
    from dials_diffuse.grid.voxel_grid import attach_grid
    from dials_diffuse.gridding import ambiguity
    from dials_diffuse.gridding import report as summary
    from dials_diffuse.gridding.coverage import VoxelAccumulator
    from dials_diffuse.gridding.gridding import (
        MOST_THREADS,
        define_grid,
        define_grid_of,
        grid_file,
        settings_of,
        with_index_range,
    )
    from dials_diffuse.io.atomic import replacing
    from dials_diffuse.io.batches import batch_name
    from dials_diffuse.io.json_file import write_json
    from dials_diffuse.io.model_copy import models_to_json
    from dials_diffuse.io.table_file import ColumnWriter
    from dials_diffuse.report.html import plots_of, write_report

    settings = settings_of(params)
    definition = define_grid(command.inputs.pairs, command.inputs.model_copies(), settings)
    resolution = None
    if params.ambiguity.resolve:
        resolution = ambiguity.resolve_files(command.inputs.pairs, definition, params.ambiguity)
        if resolution is not None and resolution.chosen.any():
            for experiments, chosen in zip(definition.experiments, resolution.files):
                ambiguity.reindex_experiments(experiments, chosen, resolution.settings)
            definition = define_grid_of(definition.experiments, settings)
    summary.log_cells(definition)

    n_threads = min(resolve_nproc(params.nproc), MOST_THREADS)
    sums, n_pairs, models = VoxelAccumulator(), len(command.inputs.pairs), {}
    # Nothing is in its place before all is there: .expt and .refl of one run belong together
    with contextlib.ExitStack() as files:
        names = []
        for number, pair in enumerate(command.inputs.pairs):
            experiments, reindex = definition.experiments[number], None
            if resolution is not None and resolution.chosen.any():
                reindex = functools.partial(
                    ambiguity.reindex_rows,
                    chosen=resolution.files[number],
                    settings=resolution.settings,
                )
            name_experiments(experiments)
            expt, refl = (
                batch_name(name, number, n_pairs)
                for name in (params.output.experiments, params.output.reflections)
            )
            new_expt, new_refl = (files.enter_context(replacing(name)) for name in (expt, refl))
            names.append((expt, new_expt))
            with ColumnWriter(Path(refl).absolute().parent) as rows:
                grid_file(
                    pair.reflections,
                    experiments,
                    definition,
                    number,
                    rows,
                    sums,
                    reindex,
                    n_threads,
                )
                logger.info("Saving %d observations to %s", rows.n_rows, refl)
                rows.write(
                    new_refl, {i: experiment.identifier for i, experiment in enumerate(experiments)}
                )
            if params.output.derived:
                write_derived_columns(new_refl, experiments, definition.grid)

        grid = with_index_range(definition.grid, sums)
        rows = summary.log_coverage(sums, grid)
        for experiments, (expt, new_expt) in zip(definition.experiments, names):
            attach_grid(experiments, grid)
            logger.info("Saving %d experiments to %s", len(experiments), expt)
            experiments.as_file(new_expt)
            models |= models_to_json(experiments)

    sections = summary.report_sections(definition, grid, sums, rows)
    if resolution is not None:
        sections.insert(1, summary.ambiguity_section(resolution))
    if params.output.html:
        logger.info("Saving the report to %s", params.output.html)
        write_report(params.output.html, "dials.diffuse_grid", sections)
    if params.output.json:
        content = {
            "models": models,
            "plots": plots_of(sections),
            "coverage": summary.coverage_numbers(rows),
            "cells": summary.cell_numbers(definition),
            "ambiguity": resolution and summary.ambiguity_numbers(resolution),
        }
        write_json(params.output.json, content)


if __name__ == "__main__":
    run()
