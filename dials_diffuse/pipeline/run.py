"""A run of the pipeline in its folder: names of files, tasks of steps, and their results."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dials.util import progress

from dials_diffuse.io.batches import batch_name
from dials_diffuse.phil.process import STEP_SCOPES
from dials_diffuse.pipeline.contents import read_contents
from dials_diffuse.pipeline.executors import DaskExecutor, LocalExecutor
from dials_diffuse.pipeline.result import PipelineResult, StepSummary
from dials_diffuse.pipeline.state import State
from dials_diffuse.pipeline.step_parameters import STEP_FILES, Files, step_values
from dials_diffuse.pipeline.tasks import Task, TaskResult

logger = logging.getLogger("dials.diffuse.pipeline")


def flattened(pairs: Sequence[Files]) -> tuple[str, ...]:
    """The names of all files of some pairs, in their order."""
    return tuple(name for pair in pairs for name in pair)


class Run:
    """What the steps of one run share.

    Attributes:
        params: extract of dials_diffuse.phil.process
        folder: where everything is written
        steps: names of the steps that run
        images: image files to index
        executor: where tasks run
        result: filled while the run goes on
        state: the tasks that are finished, in a file
        extracted: files of observations, where the step mask has written them too

    Args:
        phil: step -> (its PHIL, files that are named in it), see step_phil
    """

    def __init__(
        self,
        params,
        folder: Path,
        steps: Sequence[str],
        images: Sequence[str],
        phil: Mapping[str, tuple[str, tuple[str, ...]]],
        executor: LocalExecutor | DaskExecutor,
        result: PipelineResult,
    ):
        self.params = params
        self.folder = folder
        self.steps = steps
        self.images = images
        self.executor = executor
        self.result = result
        self.state = State(folder)
        self.extracted: list[Files] | None = None
        self._phil = phil

    def values(self, step: str):
        """Parameters of a step's command, as an extract of its scope."""
        return step_values(step, self.params, self.folder)

    def make_batch_folder(self) -> None:
        """Make the folder of the files of batches."""
        Path(self.folder, self.params.output.batches).mkdir(exist_ok=True)

    def in_batch_folder(self, files: Files, n: int) -> Files:
        """Names of files, in the folder of batches where there are n > 1 batches."""
        if n == 1:
            return files
        return tuple(os.path.join(self.params.output.batches, name) for name in files)

    def numbered(self, files: Files, number: int, n: int) -> Files:
        """Names of the files of batch `number` of n."""
        return tuple(batch_name(name, number, n) for name in self.in_batch_folder(files, n))

    def batch_files(self, step: str, number: int, n: int) -> Files:
        """Names of the files that a step writes for batch `number` of n."""
        return self.numbered(STEP_FILES[step], number, n)

    def number_of_stills(self, pairs: Sequence[Files]) -> int:
        """Number of experiments in some .expt files."""
        return sum(len(read_contents(Path(self.folder, expt))["experiment"]) for expt, _ in pairs)

    def rearrangement(
        self,
        name: str,
        step: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        options: Sequence[str] = (),
    ) -> Task:
        """The task that joins pairs of files, or with options splits them or takes some stills."""
        return Task(
            name=name,
            step=step,
            module="dials_diffuse.pipeline.rearrange",
            folder=str(self.folder),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            arguments=(*options, "--output", *outputs),
        )

    def command(
        self,
        step: str,
        pairs: Sequence[Files],
        files: Files,
        stills: int,
        batch: tuple[int, int] | None = None,
        arguments: Sequence[str] = (),
        outputs: Sequence[str] = (),
        watched: Sequence[str] = (),
    ) -> Task:
        """The task of a step's command.

        Args:
            step: its name
            pairs: input
            files: .expt and .refl to write
            stills: number of stills in the input
            batch: number of the batch, and how many there are. Where they are several, log and
                numbers are in the folder of batches, the report is left to the pipeline, and the
                processes are shared. None: all stills
            arguments: further arguments
            outputs: further files that the command writes
            watched: further files that the result depends on
        """
        number, n = batch or (0, 1)
        phil, named_files = self._phil[step]
        knows_nproc = any(item.name == "nproc" for item in STEP_SCOPES[step].objects)
        name = batch_name(step, number, n)
        folder = self.params.output.batches if n > 1 else ""
        log = os.path.join(folder, f"dials.diffuse_{name}.log")
        numbers = os.path.join(folder, f"dials.diffuse_{name}.json")
        report = ("output.html=None",) if n > 1 else ()
        return Task(
            name=name,
            step=step,
            module=f"dials_diffuse.command_line.diffuse_{step}",
            folder=str(self.folder),
            inputs=flattened(pairs),
            outputs=(*files, *outputs),
            arguments=(
                f"output.experiments={files[0]}",
                f"output.reflections={files[1]}",
                f"output.log={log}",
                f"output.json={numbers}",
                *report,
                *arguments,
            ),
            phil=phil,
            phil_file=f"diffuse_{step}.phil" if phil.strip() else None,
            log=log,
            json=numbers,
            nproc=self.executor.processes_for(n) if knows_nproc else None,
            may_be_empty=n > 1,
            stills=stills,
            watched=(*named_files, *watched),
        )

    def summary(self, step: str) -> StepSummary:
        """The summary of a step, which is made with its first task."""
        for summary in self.result.steps:
            if summary.step == step:
                return summary
        self.result.steps.append(StepSummary(step))
        return self.result.steps[-1]

    def execute(self, step: str, tasks: list[Task]) -> dict[str, TaskResult]:
        """Run those tasks that are not finished.

        Returns:
            task name -> result

        Raises:
            TaskError: one failed.
        """
        keys = {task.name: task.key() for task in tasks}
        results = self._results_of_earlier_runs(tasks, keys)
        to_run = [task for task in tasks if task.name not in results]
        if results:
            tasks_are = "task is" if len(results) == 1 else "tasks are"
            logger.info("%s: %d %s from an earlier run", step, len(results), tasks_are)
        summary = self.summary(step)
        for result in (
            progress(self.executor.run(to_run), desc=step, total=len(to_run)) if to_run else ()
        ):
            results[result.name] = result
            self.state.add(result, keys[result.name])
            logger.info(
                "%s in %.1f s, %.0f Mbyte (%d of %d)",
                result.name,
                result.seconds,
                result.memory,
                len(results),
                len(tasks),
            )
        summary.tasks += [results[task.name] for task in tasks]
        summary.jsons += [task.path(task.json) for task in tasks if task.json]
        summary.stills = sum(task.stills for task in tasks) or summary.stills
        return results

    def _results_of_earlier_runs(
        self, tasks: list[Task], keys: Mapping[str, str]
    ) -> dict[str, TaskResult]:
        """Results of the tasks that are finished; the others are struck from the state."""
        results = {}
        for task in tasks:
            result = self.state.finished(task, keys[task.name]) if self.params.resume else None
            if result is None:
                self.state.forget(task.name)
            else:
                results[task.name] = result
        return results

    def execute_batches(self, step: str, tasks: list[Task], message: str) -> list[Task]:
        """Run the tasks of batches; those whose batch has no usable still get a warning.

        Args:
            message: of the error where no batch has a usable still

        Returns:
            the tasks of the other batches

        Raises:
            ValueError: no batch has a usable still.
            TaskError: a task failed.
        """
        results = self.execute(step, tasks)
        for task in tasks:
            result = results[task.name]
            if result.empty:
                self.result.empty[task.name] = result.reason
                logger.warning(
                    "Warning: not one of the %d stills of %s could be used: %s",
                    task.stills,
                    task.name,
                    result.reason,
                )
        usable = [task for task in tasks if not results[task.name].empty]
        if not usable:
            raise ValueError(f"{message}: {next(iter(self.result.empty.values()))}")
        return usable
