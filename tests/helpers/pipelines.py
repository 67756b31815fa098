"""Runs of the pipeline whose tasks are not run, and .expt files as the pipeline reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dials_diffuse.pipeline import PipelineResult, TaskResult, parameters
from dials_diffuse.pipeline.run import Run
from dials_diffuse.pipeline.step_parameters import STEPS
from dials_diffuse.pipeline.tasks import Task, identity_of


class WritingExecutor:
    """Writes the outputs of tasks instead of running them, except of those that are empty.

    Attributes:
        tasks: all that were given, in their order
    """

    def __init__(self, empty: Sequence[str] = ()):
        self.empty = empty
        self.tasks: list[Task] = []

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def task(self, name: str) -> Task:
        (task,) = (task for task in self.tasks if task.name == name)
        return task

    def processes_for(self, n_tasks):
        return max(1, 4 // n_tasks)

    def run(self, tasks):
        for task in tasks:
            self.tasks.append(task)
            if task.name in self.empty:
                yield TaskResult(task.name, empty=True, reason="no photons")
                continue
            for name in task.outputs:
                path = task.path(name)
                if path.suffix == ".expt":
                    write_contents(path, [path.stem], [f"{path.stem}.cbf"])
                else:
                    path.write_text("x")
            written = {name: identity_of(task.path(name))[1:] for name in task.outputs}
            yield TaskResult(task.name, outputs=written)


def make_run(
    folder: Path, *assignments: str, empty: Sequence[str] = (), images: Sequence[str] = ()
) -> Run:
    """A run of all steps with a WritingExecutor.

    Args:
        folder: of the run
        assignments: parameters of dials.diffuse_process
        empty: names of tasks that find no usable still
        images: files to index
    """
    phil = dict.fromkeys(STEPS, ("", ()))
    return Run(
        parameters(*assignments),
        folder,
        STEPS,
        images,
        phil,
        WritingExecutor(empty),
        PipelineResult(),
    )


def write_contents(
    path: Path, identifiers: Sequence[str], images: Sequence[str], n_fast: int = 10
) -> tuple[str, str]:
    """Write a .expt file of stills with identifiers, each on an image of its own.

    Returns:
        names of it and of the .refl file beside it, which is not written
    """
    contents = {
        "experiment": [
            {"identifier": name, "imageset": i, "detector": 0} for i, name in enumerate(identifiers)
        ],
        "imageset": [{"images": [image]} for image in images],
        "detector": [{"panels": [{"image_size": [n_fast, 10]}]}],
    }
    path.write_text(json.dumps(contents))
    return (path.name, f"{path.stem}.refl")
