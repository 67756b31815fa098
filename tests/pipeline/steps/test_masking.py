"""Tasks of the step mask: all stills at once, or batches that use one survey."""

from __future__ import annotations

import pytest
from pipelines import make_run, write_contents

from dials_diffuse.pipeline.steps.masking import JOINED, mask

SURVEY = "diffuse_survey.pickle"


def pairs_of(folder, *numbers):
    """Pairs of files with so many stills each, all on images of their own."""
    pairs = []
    for file, number in enumerate(numbers):
        names = [f"{file}-{i}" for i in range(number)]
        pairs.append(
            write_contents(folder / f"{file}.expt", names, [f"{name}.cbf" for name in names])
        )
    return pairs


def test_one_pair_is_masked_at_once(tmp_path):
    run = make_run(tmp_path)
    assert mask(run, pairs_of(tmp_path, 3)) == [("diffuse_masked.expt", "diffuse_masked.refl")]
    (task,) = run.executor.tasks
    assert task.name == "mask" and task.inputs == ("0.expt", "0.refl") and task.stills == 3
    assert task.outputs[2:] == ("pixels.mask",)


def test_pairs_of_a_few_stills_are_joined(tmp_path):
    run = make_run(tmp_path)
    mask(run, pairs_of(tmp_path, 2, 3))
    join, task = run.executor.tasks
    assert join.inputs == ("0.expt", "0.refl", "1.expt", "1.refl") and join.outputs == JOINED
    assert task.inputs == JOINED and task.stills == 5


def test_bad_pixels_are_those_of_the_survey_that_is_given(tmp_path):
    run = make_run(tmp_path, "mask.survey=earlier.pickle")
    mask(run, pairs_of(tmp_path, 1))
    (task,) = run.executor.tasks
    assert task.outputs == ("diffuse_masked.expt", "diffuse_masked.refl")


def test_batches_are_masked_while_they_are_extracted(tmp_path):
    run = make_run(tmp_path, "batch_size=2")
    masked = mask(run, pairs_of(tmp_path, 5))
    assert run.executor.names == [
        "split_0001",
        "survey",
        "mask",
        "extract_0001",
        "extract_0002",
        "extract_0003",
    ]
    split, survey = run.executor.task("split_0001"), run.executor.task("survey")
    assert len(split.outputs) == 6 and survey.inputs == split.outputs
    assert run.executor.task("mask").inputs == survey.outputs
    assert f"output.survey={SURVEY}" in run.executor.task("mask").arguments
    for number in (1, 2, 3):
        task = run.executor.task(f"extract_000{number}")
        assert task.inputs == split.outputs[2 * number - 2 : 2 * number]
        assert f"survey={SURVEY}" in task.arguments and SURVEY in task.watched
        assert run.extracted[number - 1] == task.outputs[:2]
        assert masked[number - 1] == task.outputs[2:]
        assert f"output.masked_experiments={task.outputs[2]}" in task.arguments


@pytest.mark.parametrize("reason", ["no extraction", "shoeboxes"])
def test_batches_are_masked_alone(tmp_path, reason):
    assignments = ["mask.bragg.method=shoebox"] if reason == "shoeboxes" else []
    run = make_run(tmp_path, "batch_size=2", *assignments, empty=("mask_0001",))
    if reason == "no extraction":
        run.steps = ["mask"]
    masked = mask(run, pairs_of(tmp_path, 3))
    assert run.executor.names == ["split_0001", "survey", "mask", "mask_0001", "mask_0002"]
    task = run.executor.task("mask_0002")
    assert f"survey={SURVEY}" in task.arguments and SURVEY in task.watched
    # the first batch has no usable still
    assert masked == [task.outputs] and run.extracted is None


def test_a_survey_that_is_given_is_used(tmp_path):
    run = make_run(tmp_path, "batch_size=2", "mask.survey=earlier.pickle")
    mask(run, pairs_of(tmp_path, 3))
    assert run.executor.names == ["split_0001", "extract_0001", "extract_0002"]
    assert "survey=earlier.pickle" in run.executor.task("extract_0001").arguments


def test_files_that_fit_are_batches_and_small_ones_are_joined(tmp_path):
    run = make_run(tmp_path, "batch_size=3")
    mask(run, pairs_of(tmp_path, 3, 1, 2))
    assert run.executor.names[:2] == ["join_0002", "survey"]
    assert run.executor.task("join_0002").inputs == ("1.expt", "1.refl", "2.expt", "2.refl")
    assert run.executor.task("extract_0001").inputs == ("0.expt", "0.refl")
    assert run.executor.task("extract_0002").inputs == run.executor.task("join_0002").outputs


def test_lattices_of_an_image_in_two_files_are_brought_together(tmp_path):
    pairs = [
        write_contents(tmp_path / "0.expt", ["a", "b"], ["/x.cbf", "/y.cbf"]),
        write_contents(tmp_path / "1.expt", ["c", "d"], ["/y.cbf", "/z.cbf"]),
    ]
    run = make_run(tmp_path, "batch_size=2")
    mask(run, pairs)
    join = run.executor.tasks[0]
    assert join.name == "join" and join.outputs == JOINED
    assert join.inputs == ("0.expt", "0.refl", "1.expt", "1.refl")
