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

  dials.diffuse_extract integrated.expt integrated.refl survey=survey.pickle
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


class _Output:
    """The files of one batch after the other.

    Args:
        params: of the command
        grid: for the experiments
        scratch: where the observations are
        learnt: masks, where the stills are masked as they are read: then the masked files are written too
    """

    def __init__(self, params, grid, scratch, learnt):
        from dials_diffuse.io.table_file import ColumnWriter

        self.params, self.grid, self.scratch, self.learnt = params, grid, scratch, learnt
        self.size = params.output.batch_size
        self.models: dict = {}
        self.number = 0
        self.rows = ColumnWriter(Path(params.output.reflections).absolute().parent)
        self._start()

    def _start(self) -> None:
        from dials_diffuse.masking.spots.prediction import CollectedSpots

        self.rows.close()
        self.experiments, self.places, self.spots = ExperimentList(), [], CollectedSpots()

    def add(self, experiment, still, n_stills: int) -> None:
        """Add a still, of n_stills in all; those that failed stay, without rows, so that ids are those of the input."""
        from dials_diffuse.adapters.stills import Still
        from dials_diffuse.extraction.observations import numbered_rows
        from dials_diffuse.io.batches import stills_a_file

        columns = None
        if not still.error:
            columns = self.scratch.stored(still.place, still.num_observations, still.repeated)
            self.places.append(still.place)
        index = len(self.experiments)
        self.rows.append(numbered_rows(columns, index))
        self.experiments.append(experiment)
        for rows, other in ((still.spots, False), (still.other_spots, True)):
            if rows is not None:
                self.spots.add(rows, index, Still(index, experiment).image_number, other)
        still.spots = still.other_spots = None
        if self.size is None and not self.number and still.num_observations:
            self.size = stills_a_file(still.num_observations, n_stills)
        if self.size is not None and len(self.experiments) >= self.size:
            self.write()

    def write(self) -> None:
        """Write what there is, if there is anything."""
        if not len(self.experiments):
            return
        from dials_diffuse.adapters.experiments import name_experiments

        name_experiments(self.experiments)
        if self.learnt is not None:
            self._write_masked()
        self._write_extracted()
        for place in self.places:
            self.scratch.free(place)
        self.number += 1
        self._start()

    def _name(self, name) -> str:
        from dials_diffuse.io.batches import batch_name

        return batch_name(name, self.number, 1 if self.size is None else None)

    def _write_masked(self) -> None:
        from dials_diffuse.adapters.experiments import read_again
        from dials_diffuse.io.atomic import replacing
        from dials_diffuse.masking.pixels.static import set_lookup_mask

        set_lookup_mask(self.experiments.imagesets(), self.learnt.good, self.learnt.mask)
        output = self.params.output
        expt, refl = self._name(output.masked_experiments), self._name(output.masked_reflections)
        logger.info("Saving %d rows of Bragg spots to %s and %s", len(self.spots), expt, refl)
        with replacing(expt) as new_expt, replacing(refl) as new_refl:
            self.experiments.as_file(new_expt)
            self.spots.write(
                new_refl,
                {i: experiment.identifier for i, experiment in enumerate(self.experiments)},
            )
        for experiment in self.experiments:
            experiment.crystal = read_again(experiment.crystal)

    def _write_extracted(self) -> None:
        from dials_diffuse.extraction.observations import write_derived_columns
        from dials_diffuse.grid.voxel_grid import attach_grid
        from dials_diffuse.io.atomic import replacing
        from dials_diffuse.io.model_copy import models_to_json

        attach_grid(self.experiments, self.grid)
        output = self.params.output
        expt, refl = self._name(output.experiments), self._name(output.reflections)
        logger.info(
            "Saving %d observations of %d stills to %s and %s",
            self.rows.n_rows,
            len(self.experiments),
            expt,
            refl,
        )
        with replacing(expt) as new_expt, replacing(refl) as new_refl:
            self.experiments.as_file(new_expt)
            self.rows.write(
                new_refl,
                {i: experiment.identifier for i, experiment in enumerate(self.experiments)},
            )
            if output.derived:
                write_derived_columns(new_refl, self.experiments, self.grid)
        if output.json:
            self.models |= models_to_json(self.experiments)


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    command = parse_command(args, phil, USAGE, __doc__, other_suffixes=())
    if command is None:
        return
    params = command.params
    command.start_log()

    from dials_diffuse.adapters.experiments import load_experiments, read_again
    from dials_diffuse.adapters.stills import NothingLeft, check_given_once
    from dials_diffuse.adapters.system import resolve_nproc
    from dials_diffuse.extraction import extract
    from dials_diffuse.extraction import report as reports
    from dials_diffuse.geometry.panel import warn_of_unknown_sensors
    from dials_diffuse.io.pixel_file import pixel_file
    from dials_diffuse.masking.survey_file import MaskSurvey
    from dials_diffuse.report.html import plots_of, write_report

    settings = extract.settings_of(params)
    if not command.inputs.pairs:
        raise ValueError("No .expt file in the input")
    everything, seen = ExperimentList(), {}
    for pair in command.inputs.pairs:
        experiments = load_experiments(pair.experiments, check_format=False)
        check_given_once(experiments, pair.experiments, seen)
        everything.extend(experiments)
    learnt = MaskSurvey.from_file(params.survey) if params.survey else None
    if learnt is not None:
        # Everything is as if they had been masked by a command of its own
        for experiment in everything:
            experiment.crystal = experiment.crystal and read_again(experiment.crystal)
    grid = extract.reference_grid(everything, settings)
    warn_of_unknown_sensors(everything[0].detector, everything[0].beam, settings.corrections)
    nproc = resolve_nproc(params.nproc, len(everything))
    logger.info("Extracting %d stills with %d process(es)", len(everything), nproc)
    background = extract.background_for(command.inputs.pairs[0], settings, learnt)

    stills, unmasked = [], {}
    with contextlib.ExitStack() as stack:
        folder = Path(params.output.reflections).absolute().parent
        scratch = stack.enter_context(extract.observation_scratch(everything, folder))
        output = _Output(params, grid, scratch, learnt)
        stack.enter_context(output.rows)
        pixels = None
        if params.output.pixels:
            pixels = stack.enter_context(pixel_file(params.output.pixels))
        for experiment, still in extract.extract_pairs(
            command.inputs.pairs, settings, background, nproc, scratch, learnt
        ):
            if still.unmasked:
                logger.warning(
                    "Still %d (%s) is left out: %s", still.index, still.path, still.error
                )
                unmasked[still.unmasked] = still.error
                continue
            if still.error:
                logger.error("Processing still %d failed: %s", len(stills), still.error)
            elif pixels is not None:
                pixels.add(still.pixels, experiment.identifier, still.path, still.exposure_time)
                still.pixels = None
            stills.append(still)
            output.add(experiment, still, len(everything))
        failed = [still for still in stills if still.error]
        if len(failed) == len(stills):
            reason = failed[0].error if failed else next(iter(unmasked.values()))
            raise NothingLeft(f"Not one still could be extracted: {reason}")
        output.write()

    logger.info("\n%s", tabulate(extract.summary_rows(stills), headers="firstrow", tablefmt="psql"))
    if failed:
        logger.warning(
            "Warning: %d of %d stills failed and have no observations", len(failed), len(stills)
        )
    sections = reports.sections(stills, grid, settings)
    if params.output.html:
        logger.info("Saving the report to %s", params.output.html)
        write_report(params.output.html, "dials.diffuse_extract", sections)
    if params.output.json:
        from dials_diffuse.io.json_file import write_json

        content = {
            "models": output.models,
            "plots": plots_of(sections),
            "stills": reports.numbers(stills),
        }
        if learnt is not None:
            content["failures"] = unmasked
        write_json(params.output.json, content)


if __name__ == "__main__":
    run()
