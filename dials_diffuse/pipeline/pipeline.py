"""From integrated stills to a map: which commands run on which files, and in which order."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills_processor import check_available
from dials_diffuse.adapters.system import resolve_nproc
from dials_diffuse.phil.process import STEP_SCOPES
from dials_diffuse.pipeline.executors import DaskExecutor, LocalExecutor
from dials_diffuse.pipeline.result import PipelineResult
from dials_diffuse.pipeline.run import Run, flattened
from dials_diffuse.pipeline.state import folder_lock
from dials_diffuse.pipeline.step_parameters import (
    STEPS,
    Files,
    has_composition,
    step_phil,
    with_short_forms,
)
from dials_diffuse.pipeline.steps.extraction import extract
from dials_diffuse.pipeline.steps.indexing import index
from dials_diffuse.pipeline.steps.masking import mask
from dials_diffuse.pipeline.steps.whole import absolute, grid, scale

logger = logging.getLogger("dials.diffuse.pipeline")

STEP_FUNCTIONS = {
    "index": index,
    "mask": mask,
    "extract": extract,
    "grid": grid,
    "scale": scale,
    "absolute": absolute,
}


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
        executor = self._make_executor(lock)
        try:
            self._run_steps(
                Run(
                    self.params,
                    self.folder,
                    self.steps,
                    self.images,
                    self._phil,
                    executor,
                    self._result,
                )
            )
            self._name_maps()
        finally:
            executor.close()
        return self._result

    @property
    def result(self) -> PipelineResult:
        """What there is so far, also after a failure"""
        return self._result

    def _make_executor(self, lock: int) -> LocalExecutor | DaskExecutor:
        mp = self.params.mp
        nproc = resolve_nproc(mp.nproc)
        if mp.method == "dask":
            return DaskExecutor(mp.scheduler, nproc, mp.retries)
        if mp.scheduler is not None:
            raise ValueError("mp.scheduler is for mp.method=dask")
        return LocalExecutor(nproc, mp.retries, inherit=(lock,))

    def _run_steps(self, run: Run) -> None:
        if not self.params.resume:
            run.state.forget_steps(self.steps)
        # The given files take the place of those that the step index writes
        files: list[Files] | None = self.pairs
        for before, step in zip(("", *STEPS), STEPS):
            if step not in self.steps:
                if self.images or step != "index":
                    files = None
                continue
            if files is None:
                files = _files_of_earlier_run(run, before, step)
            files = STEP_FUNCTIONS[step](run, files)
            run.state.set_pairs(step, files)
            self._result.pairs = files
            run.summary(step).outputs = list(flattened(files))

    def _name_maps(self) -> None:
        """Enter the maps into the result.

        Raises:
            ValueError: a map is missing or empty.
        """
        for step, stem, table, volume in (
            ("scale", "diffuse_merged", "merged", "map"),
            ("absolute", "diffuse_absolute", "absolute", "absolute_map"),
        ):
            if step not in self.steps:
                continue
            for attribute, suffix in ((table, ".refl"), (volume, ".h5")):
                path = Path(self.folder, stem + suffix)
                if not path.is_file() or path.stat().st_size == 0:
                    raise ValueError(f"{path} is not there after {step}")
                setattr(self._result, attribute, path)


def _files_of_earlier_run(run: Run, step: str, needed_by: str) -> list[Files]:
    """The files that an earlier run of a step, or its command by hand, has left in the folder.

    Raises:
        ValueError: a file is missing.
    """
    pairs = run.state.pairs(step)
    for name in flattened(pairs):
        if not Path(run.folder, name).is_file():
            raise ValueError(
                f"steps: {needed_by} needs {name}, which is not in {run.folder}: run {step} too"
            )
    return pairs
