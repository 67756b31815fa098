"""The step dials.diffuse_simulate: from parameters to images, experiments, reflections, truth."""

from __future__ import annotations

import logging
from pathlib import Path

from dials.util import tabulate

from dials_diffuse.adapters.inputs import Inputs
from dials_diffuse.adapters.parameters import settings_from
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json
from dials_diffuse.report.html import write_outputs
from dials_diffuse.simulation import report
from dials_diffuse.simulation.settings import SimulationSettings
from dials_diffuse.simulation.simulate import SimulatedSet, simulate, truth_record

logger = logging.getLogger("dials.diffuse.simulation.workflow")


def run(inputs: Inputs, params) -> SimulatedSet:
    """Simulate stills and write all files.

    Args:
        inputs: must be empty
        params: extract of phil/simulate.py

    Raises:
        ValueError: files are given, settings contradict each other, or a file can't be written.
    """
    if inputs.pairs or inputs.others:
        raise ValueError("dials.diffuse_simulate takes parameters only, no files")
    settings = settings_from(SimulationSettings, params)
    result = simulate(settings, Path(params.output.images))
    logger.info("\n%s\n", tabulate(report.rows(result)))
    save(result, params.output)
    if params.output.html or params.output.json:
        write_outputs(
            params.output, "dials.diffuse_simulate", report.sections(result), report.numbers(result)
        )
    return result


def save(result: SimulatedSet, output) -> None:
    """Write experiments, reflections and truth, each file whole or not at all.

    Args:
        result: of the simulation
        output: extracted output scope, which names the files
    """
    for content, path, title in (
        (result.experiments, output.experiments, "experiments"),
        (result.reflections, output.reflections, "reflections"),
        (result.background, output.background, "empty shots"),
        (result.sequence, output.sequence, "the sweep"),
        (result.sequence_reflections, output.sequence_reflections, "the sweep's reflections"),
    ):
        if content is not None:
            logger.info("Saving %s to %s", title, path)
            with replacing(path) as name:
                content.as_file(name)
    logger.info("Saving the truth to %s", output.truth)
    write_json(output.truth, truth_record(result.simulator), indent=1)
