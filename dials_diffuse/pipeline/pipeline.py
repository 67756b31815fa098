"""From integrated stills to a map: which commands run on which files, and in which order."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import libtbx

from dials.util import progress

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.system import resolve_nproc
from dials_diffuse.io.batches import MOST_ROWS, batch_name
from dials_diffuse.phil.process import STEP_SCOPES
from dials_diffuse.pipeline.batch_size import (
    automatic_batch_size,
    index_batch_size,
    most_stills_of_a_batch,
)
from dials_diffuse.pipeline.contents import (
    batches_of,
    has_sweeps,
    image_keys,
    images_of,
    n_pixels,
    read_contents,
)
from dials_diffuse.pipeline.executors import DaskExecutor, LocalExecutor
from dials_diffuse.pipeline.result import PipelineResult, StepSummary
from dials_diffuse.pipeline.state import State, folder_lock
from dials_diffuse.pipeline.steps import (
    STEP_FILES,
    STEPS,
    Files,
    has_composition,
    index_phil,
    step_phil,
    step_values,
    with_short_forms,
)
from dials_diffuse.pipeline.tasks import Task, TaskResult

logger = logging.getLogger("dials.diffuse.pipeline")


@dataclass
class _Stills:
    """What is in some .expt files.

    Attributes:
        keys: of each file, see image_keys
        n_pixels: of the largest detector
        shared: some image is in more than one file
    """

    keys: list[list] = field(default_factory=list)
    n_pixels: int = 0
    shared: bool = False


class Pipeline:
    """All steps from integrated stills (or a sweep) to a map.

    >>> from dials_diffuse.pipeline import Pipeline, parameters
    >>> params = parameters("mp.nproc=2", "extract.d_min=2", "composition.sequence=protein.fasta")
    >>> result = Pipeline([("integrated.expt", "integrated.refl")], params).run()  # doctest: +SKIP
    >>> result.merged  # doctest: +SKIP
    PosixPath('/data/run1/diffuse_merged.refl')

    Args:
        pairs: .expt and .refl files; none where images are given
        params: of `parameters`, or the extract of dials_diffuse.phil.process.phil_scope
        folder: where everything is written, and what names in the parameters are relative to
        images: image files to index and integrate with dials.stills_process

    Raises:
        ValueError: parameters that contradict each other, no input.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str | os.PathLike, str | os.PathLike] | DataPair],
        params,
        folder: str | os.PathLike = ".",
        images: Sequence[str | os.PathLike] = (),
    ):
        if pairs and images:
            raise ValueError("Give images, or .expt and .refl files, not both")
        if not pairs and not images:
            raise ValueError("No .expt file and no image in the input")
        self.images = [str(Path(image).absolute()) for image in images]
        self.pairs = []
        for pair in pairs:
            expt, refl = (
                (pair.experiments, pair.reflections) if isinstance(pair, DataPair) else pair
            )
            if refl is None:
                raise ValueError(f"There is no .refl file for {expt}: give both files")
            self.pairs.append((str(Path(expt).absolute()), str(Path(refl).absolute())))
        self.params = with_short_forms(params)
        self.folder = Path(folder).absolute()
        self.steps = [
            step for step in STEPS if step in self.params.steps and (images or step != "index")
        ]
        if not self.steps:
            raise ValueError("steps: no step was chosen")
        if "absolute" in self.steps and not has_composition(self.params):
            self.steps.remove("absolute")
            if not self.steps:
                raise ValueError("The absolute scale needs composition.model, sequence or formula")
            logger.info(
                "No composition is given: the map stays on a relative scale (composition.model, sequence or "
                "formula would bring it to electrons^2)"
            )
        self._phil = {step: step_phil(step, self.params, self.folder) for step in STEP_SCOPES}
        if "index" in self.steps:
            from dials_diffuse.adapters.stills_processor import check_available

            check_available()
            if (
                params.unit_cell is None or params.space_group is None
            ) and params.step_phil.index is None:
                raise ValueError("Images are indexed with unit_cell= and space_group=: give both")
        self._result = PipelineResult()

    def run(self, lock: int | None = None) -> PipelineResult:
        """Run the steps.

        Args:
            lock: descriptor of `folder_lock`, where the caller holds the folder already

        Raises:
            ValueError: bad input, a step that failed (TaskError), another run in the same folder.
        """
        if lock is None:
            with folder_lock(self.folder) as lock:
                return self.run(lock)
        self._result = PipelineResult()
        self._extracted: list[Files] | None = None
        self._state = State(self.folder)
        self._executor = self._make_executor(lock)
        try:
            self._run_steps()
            self._check_map()
        finally:
            self._executor.close()
        return self._result

    def _check_map(self) -> None:
        """Name the maps that are there now."""
        for step, table, volume in (
            ("scale", "merged", "map"),
            ("absolute", "absolute", "absolute_map"),
        ):
            if step not in self.steps:
                continue
            stem = f"diffuse_{'merged' if step == 'scale' else 'absolute'}"
            for attribute, suffix in ((table, ".refl"), (volume, ".h5")):
                path = Path(self.folder, stem + suffix)
                if not path.is_file() or path.stat().st_size == 0:
                    raise ValueError(f"{path} is not there after {step}")
                setattr(self._result, attribute, path)

    @property
    def result(self) -> PipelineResult:
        """What there is so far, also after a failure"""
        return self._result

    def _make_executor(self, lock: int):
        mp = self.params.mp
        nproc = resolve_nproc(mp.nproc)
        if mp.method == "dask":
            return DaskExecutor(mp.scheduler, nproc, mp.retries)
        if mp.scheduler is not None:
            raise ValueError("mp.scheduler is for mp.method=dask")
        return LocalExecutor(nproc, mp.retries, inherit=(lock,))

    # How each step is made of tasks

    def _run_steps(self) -> None:
        work = {
            "index": self._index,
            "mask": self._mask,
            "extract": self._extract,
            "grid": self._grid,
            "scale": self._scale,
            "absolute": self._absolute,
        }
        if not self.params.resume:
            self._state.forget_steps(self.steps)
        # What is given stands in for what index, or nothing, has made
        files: list[Files] | None = self.pairs
        for before, step in zip(("", *STEPS), STEPS):
            if step not in self.steps:
                if self.images or step != "index":
                    files = None
                continue
            if files is None:
                files = self._earlier(before, step)
            files = work[step](files)
            self._state.set_pairs(step, files)
            self._result.pairs = files
            self._summary(step).outputs = [name for pair in files for name in pair]

    def _earlier(self, step: str, needed_by: str) -> list[Files]:
        """What an earlier run, or the step's command by hand, has left in the folder.

        Raises:
            ValueError: nothing, or not all of it.
        """
        pairs = self._state.pairs(step)
        for name in (name for pair in pairs for name in pair):
            if not Path(self.folder, name).is_file():
                raise ValueError(
                    f"steps: {needed_by} needs {name}, which is not in {self.folder}: run {step} too"
                )
        return pairs

    def _index(self, _: list[Files]) -> list[Files]:
        batches = self._batches_to_index()
        n = len(batches)
        if n > 1:
            Path(self.folder, self.params.output.batches).mkdir(exist_ok=True)
        phil = index_phil(self.params, self.folder)
        reference = self.params.reference_geometry
        tasks = []
        for number, (images, part) in enumerate(batches):
            out = self._batch_files("index", number, n)
            name = batch_name("index", number, n)
            numbers = os.path.join(os.path.dirname(out[0]), f"dials.diffuse_{name}.json")
            log = os.path.join(os.path.dirname(out[0]), f"dials.diffuse_{name}.log")
            arguments = ["--output", *out, "--json", numbers, "--log", log]
            if part is not None:
                arguments += ["--part", *map(str, part)]
            if reference is not None:
                arguments += ["--reference", str(Path(self.folder, reference))]
            tasks.append(
                Task(
                    name=name,
                    step="index",
                    module="dials_diffuse.pipeline.index_images",
                    folder=str(self.folder),
                    inputs=tuple(images),
                    outputs=out,
                    arguments=tuple(arguments),
                    phil=phil,
                    phil_file="diffuse_index.phil",
                    log=log,
                    json=numbers,
                    may_be_empty=n > 1,
                    stills=len(images) if part is None else part[1] - part[0],
                    watched=() if reference is None else (str(Path(self.folder, reference)),),
                )
            )
        return self._batches_left(
            tasks, self._run("index", tasks), "Not one image could be integrated"
        )

    def _batches_to_index(self) -> list[tuple[list[str], tuple[int, int] | None]]:
        """Files that are indexed together, or one file of several images and which of them: from, to."""
        from dials_diffuse.adapters.stills_processor import count_images

        numbers = {name: count_images(name) for name in self.images}
        size = self.params.batch_size
        if size is None or size is libtbx.Auto:
            size = index_batch_size(sum(numbers.values()))
        alone = [name for name, number in numbers.items() if number == 1]
        batches = [(alone[i : i + size], None) for i in range(0, len(alone), size)]
        for name, number in numbers.items():
            if number > 1:
                batches += [([name], (i, min(i + size, number))) for i in range(0, number, size)]
        return batches

    def _batches_left(
        self, tasks: list[Task], results: dict[str, TaskResult], message: str
    ) -> list[Files]:
        """Files of the batches that hold something.

        Raises:
            ValueError: none does.
        """
        left = []
        for task in tasks:
            if results[task.name].empty:
                self._result.empty[task.name] = results[task.name].reason
                logger.warning(
                    "Warning: not one of the %d stills of %s could be used: %s",
                    task.stills,
                    task.name,
                    results[task.name].reason,
                )
            else:
                left.append(task.outputs[:2])
        if not left:
            raise ValueError(f"{message}: {next(iter(self._result.empty.values()))}")
        return left

    def _mask(self, pairs: list[Files]) -> list[Files]:
        pairs = self._as_stills(pairs)
        stills = self._stills_of(pairs)
        size = self._batch_size(stills, pairs)
        n_stills = sum(len(keys) for keys in stills.keys)
        if n_stills > size:
            return self._mask_in_batches(pairs, stills, size)
        if len(pairs) > 1:
            pairs = [self._joined(pairs, ("diffuse_joined.expt", "diffuse_joined.refl"))]
        out = STEP_FILES["mask"]
        more = ("pixels.mask",) if self._mask_values().survey is None else ()
        self._run("mask", [self._task("mask", "mask", pairs, out, more=more, stills=n_stills)])
        return [out]

    def _mask_values(self):
        """Parameters of dials.diffuse_mask"""
        return step_values("mask", self.params, self.folder)

    def _joined(self, pairs: Sequence[Files], out: Files, name: str = "join") -> Files:
        files = tuple(name for pair in pairs for name in pair)
        self._run("mask", [self._rearrange(name, "mask", files, out)])
        return out

    def _mask_in_batches(self, pairs: list[Files], stills: _Stills, size: int) -> list[Files]:
        """The spots' size and the pixels to leave out are measured on some of all stills, and used for all
        batches."""
        if stills.shared:
            # The lattices of an image must come together
            pairs = [self._joined(pairs, ("diffuse_joined.expt", "diffuse_joined.refl"))]
            stills = self._stills_of(pairs)
        Path(self.folder, self.params.output.batches).mkdir(exist_ok=True)
        # Each inner list is read together: one pair that is split, or several that make a batch
        runs: list[list[int]] = []
        for number, keys in enumerate(stills.keys):
            together = sum(len(stills.keys[i]) for i in runs[-1]) + len(keys) if runs else size + 1
            if together > size:
                runs.append([number])
            else:
                runs[-1].append(number)
        batches = [batches_of([key for i in run for key in stills.keys[i]], size) for run in runs]
        n = sum(len(parts) for parts in batches)
        logger.info("The stills are processed in %d batches of at most %d", n, size)
        names: list[Files] = []
        tasks = []
        for run, parts in zip(runs, batches):
            if len(run) == len(parts) == 1:
                names.append(pairs[run[0]])
                continue
            numbers = range(len(names), len(names) + len(parts))
            made = [
                self._numbered(("diffuse_stills.expt", "diffuse_stills.refl"), i, n)
                for i in numbers
            ]
            inputs = tuple(name for i in run for name in pairs[i])
            outputs = tuple(name for pair in made for name in pair)
            more = ("--size", str(size)) if len(run) == 1 else ()
            name = batch_name("split" if more else "join", len(names), None)
            tasks.append(self._rearrange(name, "mask", inputs, outputs, more))
            names += made
        self._run("mask", tasks)
        values = self._mask_values()
        survey: tuple[str, ...] = ()
        if values.survey is None:
            survey = (self._survey(names, values.dynamic.n_images),)
        if "extract" in self.steps and values.bragg.method != "shoebox":
            return self._mask_while_extracting(names, *(survey or (values.survey,)))
        tasks = []
        for number, (name, batch) in enumerate(zip(names, (b for parts in batches for b in parts))):
            out = self._batch_files("mask", number, n)
            task = self._task(
                "mask",
                batch_name("mask", number, n),
                [name],
                out,
                batch=True,
                stills=len(batch),
                nproc=self._executor.processes_for(n),
            )
            tasks.append(
                dataclasses.replace(
                    task,
                    arguments=(*task.arguments, *(f"survey={path}" for path in survey)),
                    watched=(*task.watched, *survey),
                )
            )
        return self._batches_left(tasks, self._run("mask", tasks), "Not one still could be masked")

    def _mask_while_extracting(self, names: list[Files], survey: str) -> list[Files]:
        """Masks and observations of batches in one go, so that every image is read once.

        Args:
            names: integrated stills, a pair a batch
            survey: file of what was learnt on some of them

        Returns:
            the masked batches; the extracted ones are kept for _extract
        """
        n = len(names)
        tasks = []
        for number, name in enumerate(names):
            masked = self._batch_files("mask", number, n)
            more = (
                f"survey={survey}",
                f"output.masked_experiments={masked[0]}",
                f"output.masked_reflections={masked[1]}",
            )
            tasks.append(self._extraction(number, n, name, more, (survey,), masked))
        extracted = self._batches_left(
            tasks, self._run("extract", tasks), "Not one still could be extracted"
        )
        self._extracted = extracted
        self._summary("mask").stills = sum(task.stills for task in tasks)
        return [task.outputs[2:4] for task in tasks if task.outputs[:2] in extracted]

    def _survey(self, names: list[Files], n_images: int) -> str:
        """Mask some stills of all batches; the file of what was learnt."""
        files = tuple(name for pair in names for name in pair)
        chosen = ("diffuse_survey.expt", "diffuse_survey.refl")
        self._run(
            "mask", [self._rearrange("survey", "mask", files, chosen, ("--spread", str(n_images)))]
        )
        survey = "diffuse_survey.pickle"
        out = tuple(
            self._in_batches(
                ("diffuse_survey_masked.expt", "diffuse_survey_masked.refl"), len(names)
            )
        )
        task = self._task("mask", "mask", [chosen], out, more=("pixels.mask", survey))
        # All processors for this one task
        task = dataclasses.replace(task, arguments=(*task.arguments, f"output.survey={survey}"))
        self._run("mask", [task])
        return survey

    def _stills_of(self, pairs: Sequence[Files]) -> _Stills:
        """What is in .expt files, which are read one after the other.

        Raises:
            ValueError: unreadable, or one experiment twice.
        """
        found = _Stills()
        identifiers: dict[str, str] = {}
        images: dict = {}
        for number, (expt, _) in enumerate(pairs):
            contents = read_contents(Path(self.folder, expt))
            keys = image_keys(contents)
            for experiment, key in zip(contents["experiment"], keys):
                name = experiment.get("identifier")
                if name and identifiers.setdefault(name, expt) != expt:
                    raise ValueError(
                        f"{expt} holds an experiment that {identifiers[name]} holds too ({name}): give each "
                        "still once"
                    )
                found.shared |= images.setdefault(key, number) != number
            found.keys.append(keys)
            found.n_pixels = max(found.n_pixels, n_pixels(contents))
        return found

    def _number_of_stills(self, pairs: Sequence[Files]) -> int:
        return sum(len(read_contents(Path(self.folder, expt))["experiment"]) for expt, _ in pairs)

    def _batch_size(self, stills: _Stills, pairs: Sequence[Files]) -> int:
        size = self.params.batch_size
        if size is None or size is libtbx.Auto:
            size = automatic_batch_size(stills.n_pixels)
        # Of few pixels, no number of stills that a run has is too many
        if size * stills.n_pixels <= MOST_ROWS:
            return size
        first = load_experiments(Path(self.folder, pairs[0][0]), check_format=False)[0]
        if first.crystal is None:
            return size
        extract = step_values("extract", self.params, self.folder)
        most = most_stills_of_a_batch(first, extract.subdivide, extract.d_min)
        if size > most:
            logger.info(
                "Batches of %d stills at most: the observations of more don't fit into one file",
                most,
            )
        return min(size, most)

    def _as_stills(self, pairs: list[Files]) -> list[Files]:
        """The input with sweeps converted."""
        tasks, converted = [], []
        for number, pair in enumerate(pairs):
            if not has_sweeps(read_contents(Path(self.folder, pair[0]))):
                converted.append(pair)
                continue
            experiments = load_experiments(Path(self.folder, pair[0]), check_format=False)
            if not any(e.scan is not None and e.scan.get_num_images() > 1 for e in experiments):
                converted.append(pair)
                continue
            _check_sweep(experiments, pair[0])
            out = tuple(
                batch_name(name, number, len(pairs)) for name in ("stills.expt", "stills.refl")
            )
            converted.append(out)
            tasks.append(
                Task(
                    name=batch_name("stills", number, len(pairs)),
                    step="stills",
                    module="dials.command_line.sequence_to_stills",
                    folder=str(self.folder),
                    inputs=pair,
                    outputs=out,
                    arguments=(f"output.experiments={out[0]}", f"output.reflections={out[1]}"),
                )
            )
        if tasks:
            logger.info(
                "%d of %d inputs are sweeps, which are converted to stills", len(tasks), len(pairs)
            )
            self._run("stills", tasks)
        return converted

    def _extract(self, files: list[Files]) -> list[Files]:
        if self._extracted is not None:
            return self._extracted
        stills = self._stills_of(files)
        if len(files) == 1:
            size = self._batch_size(stills, files)
            n = len(batches_of(stills.keys[0], size))
            if n > 1:
                files = self._split(files[0], size, n)
        tasks = [
            self._extraction(number, len(files), masked) for number, masked in enumerate(files)
        ]
        return self._batches_left(
            tasks, self._run("extract", tasks), "Not one still could be extracted"
        )

    def _extraction(
        self,
        number: int,
        n: int,
        files: Files,
        arguments: tuple[str, ...] = (),
        watched: tuple[str, ...] = (),
        outputs: tuple[str, ...] = (),
    ) -> Task:
        """The task that extracts batch `number` of n.

        Args:
            arguments, watched, outputs: further ones
        """
        contents = read_contents(Path(self.folder, files[0]))
        task = self._task(
            "extract",
            batch_name("extract", number, n),
            [files],
            self._batch_files("extract", number, n),
            more=outputs,
            batch=n > 1,
            stills=len(contents["experiment"]),
            nproc=self._executor.processes_for(n),
        )
        return dataclasses.replace(
            task,
            arguments=(*task.arguments, *arguments),
            watched=(*task.watched, *watched, *images_of(contents)),
        )

    def _split(self, masked: Files, size: int, n: int) -> list[Files]:
        """The masked stills in n batches."""
        Path(self.folder, self.params.output.batches).mkdir(exist_ok=True)
        names = [self._batch_files("mask", i, n) for i in range(n)]
        logger.info("The stills are processed in %d batches of at most %d", n, size)
        flat = tuple(name for pair in names for name in pair)
        self._run(
            "extract", [self._rearrange("split", "extract", masked, flat, ("--size", str(size)))]
        )
        return names

    def _grid(self, files: list[Files]) -> list[Files]:
        return self._on_all("grid", files)

    def _scale(self, files: list[Files]) -> list[Files]:
        return self._on_all("scale", files, ("diffuse_merged.refl", "diffuse_merged.h5"))

    def _on_all(self, step: str, files: list[Files], more: tuple[str, ...] = ()) -> list[Files]:
        """Run a command that takes all pairs together and writes as many."""
        n = len(files)
        outputs = [self._batch_files(step, i, n) for i in range(n)]
        task = self._task(
            step,
            step,
            files,
            self._in_batches(STEP_FILES[step], n),
            more=more,
            stills=self._number_of_stills(files),
        )
        flat = tuple(name for pair in outputs for name in pair)
        self._run(step, [dataclasses.replace(task, outputs=(*flat, *more))])
        return outputs

    def _absolute(self, files: list[Files]) -> list[Files]:
        merged = "diffuse_merged.refl"
        if not Path(self.folder, merged).is_file():
            raise ValueError(
                f"steps: absolute needs {merged}, which is not in {self.folder}: run scale too"
            )
        out, volume = STEP_FILES["absolute"], "diffuse_absolute.h5"
        task = self._task(
            "absolute", "absolute", files, out, more=(volume,), stills=self._number_of_stills(files)
        )
        self._run("absolute", [dataclasses.replace(task, inputs=(*task.inputs, merged))])
        return [out]

    # Files and tasks

    def _in_batches(self, files: Files, n: int) -> Files:
        """The same names in the folder of batches, where there are several"""
        if n == 1:
            return files
        return tuple(os.path.join(self.params.output.batches, name) for name in files)

    def _batch_files(self, step: str, number: int, n: int) -> Files:
        return self._numbered(STEP_FILES[step], number, n)

    def _numbered(self, files: Files, number: int, n: int) -> Files:
        return tuple(batch_name(name, number, n) for name in self._in_batches(files, n))

    def _rearrange(
        self,
        name: str,
        step: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        more: Sequence[str] = (),
    ) -> Task:
        return Task(
            name=name,
            step=step,
            module="dials_diffuse.pipeline.rearrange",
            folder=str(self.folder),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            arguments=(*more, "--output", *outputs),
        )

    def _task(
        self,
        step: str,
        name: str,
        pairs: Sequence[Files],
        out: Files,
        more: tuple[str, ...] = (),
        batch: bool = False,
        stills: int = 0,
        nproc: int | None = None,
    ) -> Task:
        """The task of a step's command.

        Args:
            name: of the task
            pairs: input
            out: .expt and .refl to write
            more: further outputs, which the command writes by itself
            batch: one of several: its log and numbers are in the folder of batches, and the report is
                left to the pipeline
            nproc: None: all processes there are
        """
        phil, named_files = self._phil[step]
        knows_nproc = any(item.name == "nproc" for item in STEP_SCOPES[step].objects)
        folder = self.params.output.batches if batch else ""
        log = os.path.join(folder, f"dials.diffuse_{name}.log")
        numbers = os.path.join(folder, f"dials.diffuse_{name}.json")
        arguments = [
            f"output.experiments={out[0]}",
            f"output.reflections={out[1]}",
            f"output.log={log}",
            f"output.json={numbers}",
        ]
        if batch:
            arguments.append("output.html=None")
        return Task(
            name=name,
            step=step,
            module=f"dials_diffuse.command_line.diffuse_{step}",
            folder=str(self.folder),
            inputs=tuple(name for pair in pairs for name in pair),
            outputs=(*out, *more),
            arguments=tuple(arguments),
            phil=phil,
            phil_file=f"diffuse_{step}.phil" if phil.strip() else None,
            log=log,
            json=numbers,
            nproc=(nproc or self._executor.processes_for(1)) if knows_nproc else None,
            may_be_empty=batch,
            stills=stills,
            watched=named_files,
        )

    def _summary(self, step: str) -> StepSummary:
        for summary in self._result.steps:
            if summary.step == step:
                return summary
        self._result.steps.append(StepSummary(step))
        return self._result.steps[-1]

    def _run(self, step: str, tasks: list[Task]) -> dict[str, TaskResult]:
        """Run those tasks that are not finished.

        Returns:
            task name -> result

        Raises:
            TaskError: one failed.
        """
        summary = self._summary(step)
        keys = {task.name: task.key() for task in tasks}
        results: dict[str, TaskResult] = {}
        to_run = []
        for task in tasks:
            found = self._state.finished(task, keys[task.name]) if self.params.resume else None
            if found is None:
                self._state.forget(task.name)
                to_run.append(task)
            else:
                results[task.name] = found
        if results:
            logger.info(
                "%s: %s from an earlier run", step, _count(len(results), "task is", "tasks are")
            )
        for result in (
            progress(self._executor.run(to_run), desc=step, total=len(to_run)) if to_run else ()
        ):
            results[result.name] = result
            self._state.add(result, keys[result.name])
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


def _check_sweep(experiments, name: str) -> None:
    """Raises ValueError where dials.sequence_to_stills could not convert the experiments."""
    for index, experiment in enumerate(experiments):
        n_images = experiment.scan.get_num_images() if experiment.scan is not None else 0
        if experiment.crystal is None:
            raise ValueError(
                f"Experiment {index} of {name} has no crystal: index and integrate it first"
            )
        if experiment.crystal.num_scan_points != n_images + 1:
            raise ValueError(
                f"Experiment {index} of {name} is a sweep without a scan-varying crystal, which "
                "dials.sequence_to_stills needs: refine it with dials.refine scan_varying=True"
            )


def _count(n: int, one: str, several: str) -> str:
    return f"{n} {one if n == 1 else several}"
