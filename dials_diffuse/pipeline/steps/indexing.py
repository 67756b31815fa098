"""Plan the indexing and integration of images with dials.stills_process, in batches."""

from __future__ import annotations

import os
from pathlib import Path

import libtbx

from dials_diffuse.adapters.stills_processor import count_images
from dials_diffuse.io.batches import batch_name
from dials_diffuse.pipeline.batches import index_batch_size
from dials_diffuse.pipeline.run import Run
from dials_diffuse.pipeline.step_parameters import Files, index_phil
from dials_diffuse.pipeline.tasks import Task


def index(run: Run, _: list[Files]) -> list[Files]:
    """Index and integrate the images of a run.

    Returns:
        the pairs of files with integrated stills
    """
    batches = _batches_of_images(run.images, run.params.batch_size)
    if len(batches) > 1:
        run.make_batch_folder()
    tasks = [
        _index_task(run, images, part, number, len(batches))
        for number, (images, part) in enumerate(batches)
    ]
    usable = run.execute_batches("index", tasks, "Not one image could be integrated")
    return [task.outputs[:2] for task in usable]


def _batches_of_images(
    images: list[str], size: int | None
) -> list[tuple[list[str], tuple[int, int] | None]]:
    """Files that are indexed together, or one file of several images and which of them: from, to."""
    numbers = {name: count_images(name) for name in images}
    if size is None or size is libtbx.Auto:
        size = index_batch_size(sum(numbers.values()))
    alone = [name for name, number in numbers.items() if number == 1]
    batches = [(alone[i : i + size], None) for i in range(0, len(alone), size)]
    for name, number in numbers.items():
        if number > 1:
            batches += [([name], (i, min(i + size, number))) for i in range(0, number, size)]
    return batches


def _index_task(
    run: Run, images: list[str], part: tuple[int, int] | None, number: int, n: int
) -> Task:
    files = run.batch_files("index", number, n)
    name = batch_name("index", number, n)
    numbers = os.path.join(os.path.dirname(files[0]), f"dials.diffuse_{name}.json")
    log = os.path.join(os.path.dirname(files[0]), f"dials.diffuse_{name}.log")
    arguments = ["--output", *files, "--json", numbers, "--log", log]
    watched = ()
    if part is not None:
        arguments += ["--part", *map(str, part)]
    if run.params.reference_geometry is not None:
        watched = (str(Path(run.folder, run.params.reference_geometry)),)
        arguments += ["--reference", *watched]
    return Task(
        name=name,
        step="index",
        module="dials_diffuse.pipeline.index_images",
        folder=str(run.folder),
        inputs=tuple(images),
        outputs=files,
        arguments=tuple(arguments),
        phil=index_phil(run.params, run.folder),
        phil_file="diffuse_index.phil",
        log=log,
        json=numbers,
        may_be_empty=n > 1,
        stills=len(images) if part is None else part[1] - part[0],
        watched=watched,
    )
