"""The result of a run of the pipeline, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dials_diffuse.pipeline.step_parameters import Files
from dials_diffuse.pipeline.tasks import TaskResult


@dataclass
class StepSummary:
    """How a step went.

    Attributes:
        step: its name
        stills: number of stills that came out of it, None where it is not known
        tasks: results of its tasks
        outputs: files that are there now
        jsons: of its tasks, for reports
    """

    step: str
    stills: int | None = None
    tasks: list[TaskResult] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    jsons: list[Path] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time of all tasks together, in this run or in that which finished them"""
        return sum(task.seconds for task in self.tasks)

    @property
    def memory(self) -> float:
        """The most that one process had, Mbyte"""
        return max((task.memory for task in self.tasks), default=0.0)

    @property
    def skipped(self) -> int:
        """Tasks that an earlier run had finished"""
        return sum(task.skipped for task in self.tasks)


@dataclass
class PipelineResult:
    """What came out.

    Attributes:
        steps: in the order in which they ran
        pairs: the last .expt/.refl pairs of observations
        merged, map: the merged map as table and as HDF5 volume, None if scaling was not asked for
        absolute, absolute_map: the same on the absolute scale
        empty: names of batches without a usable still, and why
    """

    steps: list[StepSummary] = field(default_factory=list)
    pairs: list[Files] = field(default_factory=list)
    merged: Path | None = None
    map: Path | None = None
    absolute: Path | None = None
    absolute_map: Path | None = None
    empty: dict[str, str] = field(default_factory=dict)
