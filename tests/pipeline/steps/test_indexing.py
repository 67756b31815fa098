"""Tasks of the step index: images in batches."""

from __future__ import annotations

import pytest
from pipelines import make_run

from dials_diffuse.pipeline.steps import indexing


@pytest.fixture
def images_in(monkeypatch):
    """Set the number of images in each file by its name; 1 where nothing is set."""
    numbers = {}
    monkeypatch.setattr(indexing, "count_images", lambda name: numbers.get(name, 1))
    return numbers


def options(task):
    """Option -> its values"""
    found = {}
    for argument in task.arguments:
        if argument.startswith("--"):
            values = found.setdefault(argument, [])
        else:
            values.append(argument)
    return found


def test_few_images_are_one_task(tmp_path, images_in):
    run = make_run(tmp_path, images=["a.cbf", "b.cbf"])
    assert indexing.index(run, []) == [("integrated.expt", "integrated.refl")]
    (task,) = run.executor.tasks
    assert task.inputs == ("a.cbf", "b.cbf") and task.stills == 2 and not task.may_be_empty
    assert options(task)["--output"] == list(task.outputs)
    assert options(task)["--json"] == ["dials.diffuse_index.json"]
    assert not {"--part", "--reference"} & set(options(task))


def test_images_in_batches(tmp_path, images_in):
    run = make_run(
        tmp_path, "batch_size=2", images=["a.cbf", "b.cbf", "c.cbf"], empty=("index_0002",)
    )
    pairs = indexing.index(run, [])
    assert [task.inputs for task in run.executor.tasks] == [("a.cbf", "b.cbf"), ("c.cbf",)]
    # the second batch has no usable image
    assert pairs == [run.executor.task("index_0001").outputs]
    assert pairs[0][0].startswith("batches/") and run.result.empty == {"index_0002": "no photons"}


def test_a_file_of_many_images_is_divided(tmp_path, images_in):
    images_in["many.h5"] = 5
    run = make_run(tmp_path, "batch_size=2", images=["many.h5", "a.cbf"])
    indexing.index(run, [])
    parts = [(task.inputs, options(task).get("--part"), task.stills) for task in run.executor.tasks]
    assert parts == [
        (("a.cbf",), None, 1),
        (("many.h5",), ["0", "2"], 2),
        (("many.h5",), ["2", "4"], 2),
        (("many.h5",), ["4", "5"], 1),
    ]


def test_automatic_size_of_batches(tmp_path, images_in):
    run = make_run(tmp_path, images=[f"{i}.cbf" for i in range(10)])
    indexing.index(run, [])
    assert [task.stills for task in run.executor.tasks] == [4, 4, 2]


def test_geometry_symmetry_and_cell(tmp_path, images_in):
    run = make_run(
        tmp_path,
        "reference_geometry=refined.expt",
        "space_group=P41212",
        "unit_cell=40,40,60,90,90,90",
        images=["a.cbf"],
    )
    indexing.index(run, [])
    (task,) = run.executor.tasks
    assert options(task)["--reference"] == [str(tmp_path / "refined.expt")] == list(task.watched)
    assert "P 41 21 2" in task.phil and "unit_cell = 40.0,40.0,60.0" in task.phil
