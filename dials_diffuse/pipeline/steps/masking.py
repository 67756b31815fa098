"""Plan the masking of stills: all at once, or in batches with one survey of some of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dials_diffuse.io.batches import batch_name
from dials_diffuse.pipeline.batches import (
    Portion,
    StillsOfFiles,
    batch_size,
    check_beams_of_files,
    plan_portions,
    stills_of_files,
)
from dials_diffuse.pipeline.run import Run, flattened
from dials_diffuse.pipeline.step_parameters import STEP_FILES, Files
from dials_diffuse.pipeline.steps.extraction import extraction_task

logger = logging.getLogger("dials.diffuse.pipeline")

JOINED = ("diffuse_joined.expt", "diffuse_joined.refl")


def mask(run: Run, pairs: list[Files]) -> list[Files]:
    """Mask the stills (or the images of sweeps) of some pairs of files.

    Returns:
        the pairs of files with masked stills
    """
    polarization = "extract" in run.steps and run.values("extract").corrections.polarization
    check_beams_of_files(pairs, run.folder, polarization)
    stills = stills_of_files(pairs, run.folder)
    size = batch_size(stills, pairs, run.params, run.folder)
    if stills.number > size:
        return _mask_in_batches(run, pairs, stills, size)
    if len(pairs) > 1:
        pairs = [_join(run, pairs)]
    files = STEP_FILES["mask"]
    outputs = ("pixels.mask",) if run.values("mask").survey is None else ()
    run.execute("mask", [run.command("mask", pairs, files, stills.number, outputs=outputs)])
    return [files]


def _join(run: Run, pairs: Sequence[Files]) -> Files:
    run.execute("mask", [run.rearrangement("join", "mask", flattened(pairs), JOINED)])
    return JOINED


def _mask_in_batches(run: Run, pairs: list[Files], stills: StillsOfFiles, size: int) -> list[Files]:
    """Mask in batches, which use one survey: the sizes of spots and the bad pixels.

    Where the step extract follows, each batch is masked while it is extracted, so that every image
    is read once.
    """
    if stills.shared:
        # The lattices of an image must be in one batch
        pairs = [_join(run, pairs)]
        stills = stills_of_files(pairs, run.folder)
    run.make_batch_folder()
    portions = plan_portions(stills.keys, size)
    sizes = [n_stills for portion in portions for n_stills in portion.batches]
    logger.info("The stills are processed in %d batches of at most %d", len(sizes), size)
    batches = _rearrange(run, pairs, portions, size, len(sizes))
    values = run.values("mask")
    own_survey = values.survey is None
    survey = _survey(run, batches, values.dynamic.n_images) if own_survey else values.survey
    if "extract" in run.steps and values.bragg.method != "shoebox":
        return _mask_while_extracting(run, batches, survey)
    n = len(batches)
    tasks = [
        run.command(
            "mask",
            [pair],
            run.batch_files("mask", number, n),
            n_stills,
            batch=(number, n),
            arguments=(f"survey={survey}",) if own_survey else (),
            watched=(survey,) if own_survey else (),
        )
        for number, (pair, n_stills) in enumerate(zip(batches, sizes))
    ]
    usable = run.execute_batches("mask", tasks, "Not one still could be masked")
    return [task.outputs[:2] for task in usable]


def _rearrange(
    run: Run, pairs: list[Files], portions: list[Portion], size: int, n: int
) -> list[Files]:
    """Write the files of n batches, where a batch is not already a pair of files.

    Returns:
        the pair of files of each batch
    """
    batches: list[Files] = []
    tasks = []
    for portion in portions:
        if len(portion.files) == len(portion.batches) == 1:
            batches.append(pairs[portion.files[0]])
            continue
        made = [
            run.numbered(("diffuse_stills.expt", "diffuse_stills.refl"), len(batches) + i, n)
            for i in range(len(portion.batches))
        ]
        options = ("--size", str(size)) if len(portion.files) == 1 else ()
        name = batch_name("split" if options else "join", len(batches), None)
        inputs = flattened([pairs[i] for i in portion.files])
        tasks.append(run.rearrangement(name, "mask", inputs, flattened(made), options))
        batches += made
    run.execute("mask", tasks)
    return batches


def _survey(run: Run, batches: list[Files], n_images: int) -> str:
    """Mask the stills of some images of all batches.

    Returns:
        name of the file with the survey
    """
    chosen = ("diffuse_survey.expt", "diffuse_survey.refl")
    options = ("--spread", str(n_images))
    run.execute("mask", [run.rearrangement("survey", "mask", flattened(batches), chosen, options)])
    survey = "diffuse_survey.pickle"
    masked = ("diffuse_survey_masked.expt", "diffuse_survey_masked.refl")
    task = run.command(
        "mask",
        [chosen],
        run.in_batch_folder(masked, len(batches)),
        0,
        arguments=(f"output.survey={survey}",),
        outputs=("pixels.mask", survey),
    )
    run.execute("mask", [task])
    return survey


def _mask_while_extracting(run: Run, batches: list[Files], survey: str) -> list[Files]:
    """Mask and extract batches in one go.

    Args:
        batches: integrated stills, a pair of files for each batch
        survey: file of the survey

    Returns:
        the masked batches; the extracted ones are in run.extracted
    """
    n = len(batches)
    tasks = []
    for number, pair in enumerate(batches):
        masked = run.batch_files("mask", number, n)
        arguments = (
            f"survey={survey}",
            f"output.masked_experiments={masked[0]}",
            f"output.masked_reflections={masked[1]}",
        )
        tasks.append(extraction_task(run, pair, number, n, arguments, (survey,), masked))
    usable = run.execute_batches("extract", tasks, "Not one still could be extracted")
    run.extracted = [task.outputs[:2] for task in usable]
    run.summary("mask").stills = sum(task.stills for task in tasks)
    return [task.outputs[2:4] for task in usable]
