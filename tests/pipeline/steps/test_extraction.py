"""Tasks of the step extract: one for all masked stills, or one for each batch."""

from __future__ import annotations

import pytest
from pipelines import make_run, write_contents

from dials_diffuse.pipeline.steps.extraction import extract, extraction_task

MASKED = ("diffuse_masked.expt", "diffuse_masked.refl")


def masked_stills(folder, n):
    """Masked stills, each on an image of its own."""
    names = [f"still-{i}" for i in range(n)]
    write_contents(folder / MASKED[0], names, [f"{name}.cbf" for name in names])
    return [MASKED]


def test_few_stills_are_one_task(tmp_path):
    run = make_run(tmp_path)
    assert extract(run, masked_stills(tmp_path, 3)) == [
        ("diffuse_extracted.expt", "diffuse_extracted.refl")
    ]
    (task,) = run.executor.tasks
    assert task.name == "extract" and task.inputs == MASKED and task.stills == 3
    # other images would give other observations
    folder = tmp_path.resolve()
    assert task.watched == tuple(f"{folder}/still-{i}.cbf" for i in range(3))


def test_many_stills_are_split_into_batches(tmp_path):
    run = make_run(tmp_path, "batch_size=2")
    extracted = extract(run, masked_stills(tmp_path, 5))
    assert run.executor.names == ["split", "extract_0001", "extract_0002", "extract_0003"]
    split = run.executor.task("split")
    assert split.inputs == MASKED and split.arguments[:2] == ("--size", "2")
    for number in (1, 2, 3):
        task = run.executor.task(f"extract_000{number}")
        assert task.inputs == split.outputs[2 * number - 2 : 2 * number]
        assert task.outputs == extracted[number - 1]
        assert task.outputs[0] == f"batches/diffuse_extracted_000{number}.expt"


def test_masked_batches_are_extracted_as_they_are(tmp_path):
    run = make_run(tmp_path, "batch_size=1", empty=("extract_0001",))
    pairs = [
        write_contents(tmp_path / f"{name}.expt", [f"{name}1", f"{name}2"], ["x.cbf", "y.cbf"])
        for name in "ab"
    ]
    run.make_batch_folder()
    extracted = extract(run, pairs)
    assert run.executor.names == ["extract_0001", "extract_0002"]
    # the first batch has no usable still
    assert extracted == [run.executor.task("extract_0002").outputs]


def test_what_was_extracted_while_masking_is_not_extracted_again(tmp_path):
    run = make_run(tmp_path)
    run.extracted = [("a.expt", "a.refl")]
    assert extract(run, [MASKED]) == [("a.expt", "a.refl")] and not run.executor.tasks


def test_arguments_outputs_and_watched_files_of_a_batch(tmp_path):
    pair = write_contents(tmp_path / "a.expt", ["1"], ["/data/x.cbf"])
    run = make_run(tmp_path)
    task = extraction_task(run, pair, 1, 3, ("survey=s",), ("s",), ("m.expt",))
    assert task.name == "extract_0002" and "survey=s" in task.arguments
    assert task.watched == ("s", "/data/x.cbf") and task.outputs[2:] == ("m.expt",)


def test_not_one_still(tmp_path):
    run = make_run(tmp_path, empty=("extract",))
    with pytest.raises(ValueError, match="Not one still could be extracted: no photons"):
        extract(run, masked_stills(tmp_path, 1))
