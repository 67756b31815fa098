"""The steps that run for an input, and what they do with it."""

from __future__ import annotations

import pytest

from dials_diffuse.pipeline import Pipeline, parameters
from dials_diffuse.pipeline import pipeline as module
from dials_diffuse.pipeline.step_parameters import STEPS


def test_input_that_makes_no_sense(tmp_path):
    with pytest.raises(ValueError, match="No .expt file and no image"):
        Pipeline([], parameters(), tmp_path)
    with pytest.raises(ValueError, match="not both"):
        Pipeline([("a.expt", "a.refl")], parameters(), tmp_path, images=["a.cbf"])
    with pytest.raises(ValueError, match="no .refl file for a.expt"):
        Pipeline([("a.expt", None)], parameters(), tmp_path)


def test_without_a_composition_the_map_stays_relative(tmp_path):
    pipeline = Pipeline([("a.expt", "a.refl")], parameters(), tmp_path)
    assert pipeline.steps == ["mask", "extract", "grid", "scale"]
    pipeline = Pipeline([("a.expt", "a.refl")], parameters("composition.formula=C 1"), tmp_path)
    assert pipeline.steps == [step for step in STEPS if step != "index"]


@pytest.fixture
def called(monkeypatch):
    """The steps that ran, with the files that each was given; each writes the files of its name."""
    calls = []

    def step_function(step):
        def function(run, pairs):
            calls.append((step, pairs))
            return [(f"{step}.expt", f"{step}.refl")]

        return function

    monkeypatch.setattr(module, "STEP_FUNCTIONS", {step: step_function(step) for step in STEPS})
    return calls


def test_each_step_gets_the_files_of_the_step_before(tmp_path, called):
    for name in ("diffuse_merged.refl", "diffuse_merged.h5"):
        (tmp_path / name).write_text("a map")
    pair = (str(tmp_path / "a.expt"), str(tmp_path / "a.refl"))
    result = Pipeline([pair], parameters("mp.nproc=1"), tmp_path).run()
    assert called == [
        ("mask", [pair]),
        ("extract", [("mask.expt", "mask.refl")]),
        ("grid", [("extract.expt", "extract.refl")]),
        ("scale", [("grid.expt", "grid.refl")]),
    ]
    assert result.pairs == [("scale.expt", "scale.refl")]
    assert result.merged == tmp_path / "diffuse_merged.refl" and result.absolute is None


def test_a_later_step_takes_what_an_earlier_run_has_left(tmp_path, called):
    params = parameters("mp.nproc=1", "steps=grid")
    with pytest.raises(ValueError, match="steps: grid needs diffuse_extracted.expt"):
        Pipeline([("a.expt", "a.refl")], params, tmp_path).run()
    files = ("diffuse_extracted.expt", "diffuse_extracted.refl")
    for name in files:
        (tmp_path / name).touch()
    Pipeline([("a.expt", "a.refl")], params, tmp_path).run()
    assert called == [("grid", [files])]


def test_a_map_that_is_missing_is_an_error(tmp_path, called):
    with pytest.raises(ValueError, match="diffuse_merged.refl is not there after scale"):
        Pipeline([("a.expt", "a.refl")], parameters("mp.nproc=1"), tmp_path).run()
