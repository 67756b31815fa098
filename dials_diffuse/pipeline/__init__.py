"""All steps in one go, for dials.diffuse_process and for Python programs.

    from dials_diffuse.pipeline import Pipeline, parameters

    params = parameters("mp.nproc=4", "composition.sequence=protein.fasta", "resume=True")
    result = Pipeline([("integrated.expt", "integrated.refl")], params, folder="run1").run()
    print(result.merged, result.absolute)

Each step runs as its own command in a process of its own, so that the files, logs and reports are
those of the commands by hand. See `Pipeline`, `PipelineResult`, `Task`.
"""

from __future__ import annotations

import importlib

_HOME = {
    "Pipeline": "pipeline",
    "PipelineResult": "result",
    "StepSummary": "result",
    "Task": "tasks",
    "TaskError": "tasks",
    "TaskResult": "tasks",
    "folder_lock": "state",
    "parameters": "step_parameters",
    "write_summary": "report",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    # The processes of tasks import this package too and need none of these
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
