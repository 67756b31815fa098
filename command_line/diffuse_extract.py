# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_extract
"""Sum the pixels of stills by voxel, and correct them to one physical scale.

Every usable pixel's photons and its exposure (exposure time x solid angle x polarisation x
detector efficiency x transmission of the air) are added up by still, panel and voxel of a fine grid
in each crystal's own reciprocal lattice. Nothing is divided or fitted yet. Pixels under
the Bragg mask are kept in rows of their own.

Examples:

  dials.diffuse_extract diffuse_masked.expt diffuse_masked.refl

  dials.diffuse_extract diffuse_masked.expt diffuse_masked.refl background=background.expt

  dials.diffuse_extract diffuse_masked.expt diffuse_masked.refl d_min=2 subdivide=2,2,2

  dials.diffuse_extract diffuse_masked.* exposure_time=1 output.batch_size=200
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from dxtbx.model import ExperimentList

from dials.util import tabulate

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.extract import phil_scope

logger = logging.getLogger("dials.diffuse.extract")

USAGE = "dials.diffuse_extract [options] diffuse_masked.expt diffuse_masked.refl"


def _write_batch(params, name_of, experiments, rows, grid) -> dict:
    """Write the experiments and rows of a batch; returns the JSON copy of its models."""
    from dials_diffuse.adapters.experiments import name_experiments
    from dials_diffuse.extraction.observations import write_derived_columns
    from dials_diffuse.grid.voxel_grid import attach_grid
    from dials_diffuse.io.atomic import replacing
    from dials_diffuse.io.model_copy import models_to_json

    attach_grid(experiments, grid)
    name_experiments(experiments)
    expt, refl = name_of(params.output.experiments), name_of(params.output.reflections)
    logger.info("Saving %d observations of %d stills to %s and %s", rows.n_rows, len(experiments), expt, refl)
    with replacing(expt) as new_expt, replacing(refl) as new_refl:
        experiments.as_file(new_expt)
        rows.write(new_refl, {i: experiment.identifier for i, experiment in enumerate(experiments)})
        if params.output.derived:
            write_derived_columns(new_refl, experiments, grid)
    return models_to_json(experiments) if params.output.json else {}


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    command = parse_command(args, phil, USAGE, __doc__, other_suffixes=())
    if command is None:
        return
    params = command.params
    command.start_log()

    from dials_diffuse.adapters.experiments import load_experiments
    from dials_diffuse.adapters.system import resolve_nproc
    from dials_diffuse.extraction import extract, reports
    from dials_diffuse.extraction.observations import numbered_rows
    from dials_diffuse.geometry import warn_of_unknown_sensors
    from dials_diffuse.io.batches import batch_name, stills_a_file
    from dials_diffuse.io.pixel_file import pixel_file
    from dials_diffuse.io.table_file import ColumnWriter
    from dials_diffuse.report.html import plots_of, write_report
    from dials_diffuse.stills import NothingLeft, check_given_once

    settings = extract.settings_of(params)
    if not command.pairs:
        raise ValueError("No .expt file in the input")
    everything, seen = ExperimentList(), {}
    for pair in command.pairs:
        experiments = load_experiments(pair.experiments, check_format=False)
        check_given_once(experiments, pair.experiments, seen)
        everything.extend(experiments)
    grid = extract.reference_grid(everything, settings)
    warn_of_unknown_sensors(everything[0].detector, everything[0].beam, settings.corrections)
    nproc = resolve_nproc(params.nproc, len(everything))
    logger.info("Extracting %d stills with %d process(es)", len(everything), nproc)
    background = extract.background_for(command.pairs[0], settings)

    size = params.output.batch_size
    stills, models, number = [], {}, 0

    def name_of(name):
        return batch_name(name, number, 1 if size is None else None)

    experiments, places = ExperimentList(), []
    with contextlib.ExitStack() as stack:
        folder = Path(params.output.reflections).absolute().parent
        rows = stack.enter_context(ColumnWriter(folder))
        scratch = stack.enter_context(extract.observation_scratch(everything, folder))
        pixels = None
        if params.output.pixels:
            pixels = stack.enter_context(pixel_file(params.output.pixels))
        for experiment, still in extract.extract_pairs(command.pairs, settings, background, nproc, scratch):
            if still.error:
                logger.error("Processing still %d failed: %s", len(stills), still.error)
            elif pixels is not None:
                pixels.add(still.pixels, experiment.identifier, still.path, still.exposure_time)
                still.pixels = None
            # Stills that failed stay, without rows, so that ids are those of the input
            columns = None
            if not still.error:
                columns = scratch.stored(still.place, still.num_observations, still.repeated)
                places.append(still.place)
            rows.append(numbered_rows(columns, len(experiments)))
            stills.append(still)
            experiments.append(experiment)
            if size is None and not number and still.num_observations:
                size = stills_a_file(still.num_observations, len(everything))
            if size is not None and len(experiments) >= size:
                models |= _write_batch(params, name_of, experiments, rows, grid)
                rows.close()
                for place in places:
                    scratch.free(place)
                number, experiments, places = number + 1, ExperimentList(), []
        failed = [still for still in stills if still.error]
        if len(failed) == len(stills):
            raise NothingLeft(f"Not one still could be extracted: {failed[0].error}")
        if len(experiments):
            models |= _write_batch(params, name_of, experiments, rows, grid)

    logger.info("\n%s", tabulate(extract.summary_rows(stills), headers="firstrow", tablefmt="psql"))
    if failed:
        logger.warning("Warning: %d of %d stills failed and have no observations", len(failed), len(stills))
    sections = reports.sections(stills, grid, settings)
    if params.output.html:
        logger.info("Saving the report to %s", params.output.html)
        write_report(params.output.html, "dials.diffuse_extract", sections)
    if params.output.json:
        from dials_diffuse.io.json_file import write_json

        content = {"models": models, "plots": plots_of(sections), "stills": reports.numbers(stills)}
        write_json(params.output.json, content)


if __name__ == "__main__":
    run()
