"""Plan the extraction of observations, in batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dials_diffuse.pipeline.batches import batch_size, stills_of_files
from dials_diffuse.pipeline.contents import batches_of, images_of, read_contents
from dials_diffuse.pipeline.run import Run, flattened
from dials_diffuse.pipeline.step_parameters import Files
from dials_diffuse.pipeline.tasks import Task

logger = logging.getLogger("dials.diffuse.pipeline")


def extract(run: Run, pairs: list[Files]) -> list[Files]:
    """Extract the observations of masked stills, unless the step mask has done so.

    Returns:
        the pairs of files with observations
    """
    if run.extracted is not None:
        return run.extracted
    stills = stills_of_files(pairs, run.folder)
    if len(pairs) == 1:
        size = batch_size(stills, pairs, run.params, run.folder)
        n = len(batches_of(stills.keys[0], size))
        if n > 1:
            pairs = _split(run, pairs[0], size, n)
    tasks = [extraction_task(run, pair, number, len(pairs)) for number, pair in enumerate(pairs)]
    usable = run.execute_batches("extract", tasks, "Not one still could be extracted")
    return [task.outputs[:2] for task in usable]


def extraction_task(
    run: Run,
    pair: Files,
    number: int,
    n: int,
    arguments: Sequence[str] = (),
    watched: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Task:
    """The task that extracts batch `number` of n; arguments, watched and outputs as of Run.command."""
    contents = read_contents(Path(run.folder, pair[0]))
    return run.command(
        "extract",
        [pair],
        run.batch_files("extract", number, n),
        len(contents["experiment"]),
        batch=(number, n),
        arguments=arguments,
        outputs=outputs,
        watched=(*watched, *images_of(contents)),
    )


def _split(run: Run, pair: Files, size: int, n: int) -> list[Files]:
    """Write the masked stills of a pair of files as n batches."""
    run.make_batch_folder()
    batches = [run.batch_files("mask", i, n) for i in range(n)]
    logger.info("The stills are processed in %d batches of at most %d", n, size)
    options = ("--size", str(size))
    run.execute(
        "extract", [run.rearrangement("split", "extract", pair, flattened(batches), options)]
    )
    return batches
