"""Tasks of a run: names of files, what is run again, and batches without a usable still."""

from __future__ import annotations

import pytest
from pipelines import make_run

from dials_diffuse.pipeline.steps.masking import JOINED


def batches_of(run, n=3):
    run.make_batch_folder()
    pair = ("a.expt", "a.refl")
    return [
        run.command("mask", [pair], run.batch_files("mask", i, n), 5, batch=(i, n))
        for i in range(n)
    ]


def test_a_command_for_all_stills_and_one_for_a_batch(tmp_path):
    run = make_run(tmp_path)
    (whole,) = batches_of(run, 1)
    assert whole.name == "mask" and whole.log == "dials.diffuse_mask.log" and whole.nproc == 4
    assert whole.outputs == ("diffuse_masked.expt", "diffuse_masked.refl")
    assert not whole.may_be_empty and "output.html=None" not in whole.arguments
    first, second = batches_of(run, 2)
    assert second.name == "mask_0002" and second.log == "batches/dials.diffuse_mask_0002.log"
    assert second.outputs[0] == "batches/diffuse_masked_0002.expt" and second.nproc == 2
    assert first.may_be_empty and "output.html=None" in first.arguments


def test_finished_tasks_are_not_run_again(tmp_path):
    first = make_run(tmp_path)
    first.execute("mask", batches_of(first))
    (tmp_path / "batches/diffuse_masked_0002.refl").write_text("changed")
    resumed = make_run(tmp_path, "resume=True")
    results = resumed.execute("mask", batches_of(resumed))
    assert resumed.executor.names == ["mask_0002"]
    assert [results[f"mask_000{i}"].skipped for i in (1, 2, 3)] == [True, False, True]
    assert resumed.summary("mask").stills == 15
    again = make_run(tmp_path)
    again.execute("mask", batches_of(again))
    assert len(again.executor.names) == 3


def test_batches_without_a_usable_still_are_left_out(tmp_path):
    run = make_run(tmp_path, empty=("mask_0001",))
    usable = run.execute_batches("mask", batches_of(run), "Nothing is left")
    assert [task.name for task in usable] == ["mask_0002", "mask_0003"]
    assert run.result.empty == {"mask_0001": "no photons"}
    run = make_run(tmp_path, empty=("mask_0001", "mask_0002"))
    with pytest.raises(ValueError, match="Nothing is left: no photons"):
        run.execute_batches("mask", batches_of(run, 2), "Nothing is left")


def test_files_are_joined_by_one_task(tmp_path):
    task = make_run(tmp_path).rearrangement("join", "mask", ["a.expt", "a.refl"], JOINED)
    assert task.arguments == ("--output", *JOINED) and task.outputs == JOINED
