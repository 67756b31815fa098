"""Steps that take the observations of all batches together."""

from __future__ import annotations

import pytest
from pipelines import make_run, write_contents

from dials_diffuse.pipeline.steps.whole import absolute, grid, scale


def pairs_of(folder, n):
    return [write_contents(folder / f"{i}.expt", [f"{i}"], [f"{i}.cbf"]) for i in range(n)]


def test_one_pair(tmp_path):
    run = make_run(tmp_path)
    assert grid(run, pairs_of(tmp_path, 1)) == [("diffuse_gridded.expt", "diffuse_gridded.refl")]
    (task,) = run.executor.tasks
    assert task.name == "grid" and task.inputs == ("0.expt", "0.refl") and task.stills == 1
    assert task.outputs == ("diffuse_gridded.expt", "diffuse_gridded.refl")


def test_batches_are_scaled_together_into_one_map(tmp_path):
    run = make_run(tmp_path)
    run.make_batch_folder()
    scaled = scale(run, pairs_of(tmp_path, 2))
    (task,) = run.executor.tasks
    assert task.name == "scale" and task.stills == 2
    assert task.inputs == ("0.expt", "0.refl", "1.expt", "1.refl")
    assert scaled[1] == ("batches/diffuse_scaled_0002.expt", "batches/diffuse_scaled_0002.refl")
    assert task.outputs == (*scaled[0], *scaled[1], "diffuse_merged.refl", "diffuse_merged.h5")
    # the command numbers its files itself
    assert "output.experiments=batches/diffuse_scaled.expt" in task.arguments
    # not one still of all that are there is an error
    assert not task.may_be_empty


def test_the_absolute_scale_needs_the_map(tmp_path):
    run, pairs = make_run(tmp_path), pairs_of(tmp_path, 2)
    with pytest.raises(ValueError, match="absolute needs diffuse_merged.refl"):
        absolute(run, pairs)
    (tmp_path / "diffuse_merged.refl").write_text("a map")
    assert absolute(run, pairs) == [("diffuse_absolute.expt", "diffuse_absolute.refl")]
    (task,) = run.executor.tasks
    assert task.inputs == ("0.expt", "0.refl", "1.expt", "1.refl", "diffuse_merged.refl")
    assert task.outputs[2:] == ("diffuse_absolute.h5",)
