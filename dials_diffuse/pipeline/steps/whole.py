"""Steps that take the observations of all batches together: grid, scale, absolute."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dials_diffuse.pipeline.run import Run, flattened
from dials_diffuse.pipeline.step_parameters import STEP_FILES, Files


def grid(run: Run, pairs: list[Files]) -> list[Files]:
    """Put the observations of all pairs onto one grid; returns as many pairs."""
    return _on_all_pairs(run, "grid", pairs)


def scale(run: Run, pairs: list[Files]) -> list[Files]:
    """Scale and merge the observations of all pairs; returns as many pairs."""
    return _on_all_pairs(run, "scale", pairs, ("diffuse_merged.refl", "diffuse_merged.h5"))


def _on_all_pairs(
    run: Run, step: str, pairs: list[Files], outputs: Sequence[str] = ()
) -> list[Files]:
    """Run a command that takes all pairs together and writes as many."""
    n = len(pairs)
    written = [run.batch_files(step, i, n) for i in range(n)]
    files = run.in_batch_folder(STEP_FILES[step], n)
    task = run.command(step, pairs, files, run.number_of_stills(pairs))
    run.execute(step, [dataclasses.replace(task, outputs=(*flattened(written), *outputs))])
    return written


def absolute(run: Run, pairs: list[Files]) -> list[Files]:
    """Put the merged map onto the absolute scale; returns one pair.

    Raises:
        ValueError: there is no merged map.
    """
    merged = "diffuse_merged.refl"
    if not Path(run.folder, merged).is_file():
        raise ValueError(
            f"steps: absolute needs {merged}, which is not in {run.folder}: run scale too"
        )
    files = STEP_FILES["absolute"]
    stills = run.number_of_stills(pairs)
    task = run.command("absolute", pairs, files, stills, outputs=("diffuse_absolute.h5",))
    run.execute("absolute", [dataclasses.replace(task, inputs=(*task.inputs, merged))])
    return [files]
