"""Summary of a run: its table, the failed stills, and the plots of batches."""

from __future__ import annotations

import json
import logging

import pytest

from dials_diffuse.pipeline import report
from dials_diffuse.pipeline.result import PipelineResult, StepSummary
from dials_diffuse.pipeline.tasks import TaskResult
from dials_diffuse.report.citations import citations_of_run


def write(path, contents):
    path.write_text(json.dumps(contents))
    return path


def curve(name):
    return {"y": [1, 2], "name": name}


@pytest.fixture
def result(tmp_path):
    """Stills masked in two batches, of which one failed in part, and scaled."""
    for name, size in (("a.expt", 1_000_000), ("a.refl", 2_500_000), ("merged.refl", 400_000)):
        (tmp_path / name).write_bytes(bytes(size))
    first = {
        "stills": [
            {"image": "/data/1.cbf", "error": ""},
            {"image": "/data/2.cbf", "error": "no photons"},
        ],
        "plots": {"profile": {"data": [curve("1"), curve("2")], "layout": {}}},
    }
    second = {
        "failures": {"/data/3.cbf": "unreadable"},
        "plots": {"profile": {"data": [curve("3")], "layout": {}}},
    }
    scaled = {
        "stills": [
            # failed in the first step already: that is where it is told of
            {"identifier": "/data/2.cbf", "excluded": "no overlap"},
            {"identifier": "still-4", "excluded": "b < 0"},
        ],
        "statistics": {"cc_half": 0.9},
        "models": {"still-1": {}},
    }
    mask = StepSummary(
        "mask",
        4,
        [TaskResult("mask_0001", 10.0, memory=200), TaskResult("mask_0002", 5.5, skipped=True)],
        ["a.expt", "a.refl", "b.expt", "b.refl"],
        [write(tmp_path / "1.json", first), write(tmp_path / "2.json", second)],
    )
    scale = StepSummary(
        "scale",
        None,
        [TaskResult("scale", 2.0, memory=300.4)],
        ["a.expt", "a.refl"],
        [write(tmp_path / "s.json", scaled)],
    )
    absent = StepSummary("grid", jsons=[tmp_path / "absent.json"])
    return PipelineResult([mask, scale, absent], merged=tmp_path / "merged.refl")


def test_each_failed_still_once_with_its_first_step(result):
    assert report.failed_stills(result) == [
        report.FailedStill("mask", "/data/2.cbf", "no photons"),
        report.FailedStill("mask", "/data/3.cbf", "unreadable"),
        report.FailedStill("scale", "still-4", "b < 0"),
    ]


def test_a_row_for_each_step_and_map(result, tmp_path):
    rows = report.summary_rows(result, tmp_path)
    assert {len(row) for row in rows} == {8}
    assert rows[1] == ["mask", "4", "2", "1", "15.5", "200", "2 pairs of files", "3.5"]
    assert rows[2] == ["scale", "-", "1", "0", "2.0", "300", "a.expt", "3.5"]
    assert rows[4] == ["merged", "-", "-", "-", "-", "-", "merged.refl", "0.4"]


def test_page_and_numbers(result, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dials.diffuse.pipeline.report"):
        report.write_summary(result, tmp_path, tmp_path / "page.html", tmp_path / "numbers.json")
    contents = json.loads((tmp_path / "numbers.json").read_text())
    assert contents["success"] is True and contents["error"] is None
    assert [step["step"] for step in contents["steps"]] == ["mask", "scale", "grid"]
    # the numbers of a step are those of its one task, without plots, models and stills
    assert [step["numbers"] for step in contents["steps"]] == [
        {},
        {"statistics": {"cc_half": 0.9}},
        {},
    ]
    assert contents["maps"] == {"merged": str(tmp_path / "merged.refl")}
    assert len(contents["failed_stills"]) == 3
    assert contents["citations"] == citations_of_run(False)
    (plot,) = contents["plots"].values()
    assert [data["name"] for data in plot["data"]] == ["1", "2", "3"]
    page = (tmp_path / "page.html").read_text()
    assert "no photons" in page and "Stills that could not be used" in page
    assert "3 still(s) could not be used" in caplog.text and "Please cite" in caplog.text


def test_a_run_that_failed(result, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dials.diffuse.pipeline.report"):
        report.write_summary(
            result, tmp_path, None, tmp_path / "numbers.json", "scale failed: no overlap"
        )
    contents = json.loads((tmp_path / "numbers.json").read_text())
    assert contents["success"] is False and contents["error"] == "scale failed: no overlap"
    assert "Please cite" not in caplog.text
    assert not list(tmp_path.glob("*.html"))


def test_an_absolute_map_rests_on_more(result, tmp_path):
    relative = report.citations(result)
    result.absolute = tmp_path / "absolute.refl"
    assert set(report.citations(result)) > set(relative)
    assert list(report.maps_of(result)) == ["merged", "absolute"]


def test_a_few_curves_of_many_batches(tmp_path):
    jsons = [
        write(
            tmp_path / f"{i}.json",
            {"plots": {"profile": {"data": [curve(f"{i}-{k}") for k in range(20)]}}},
        )
        for i in range(3)
    ]
    result = PipelineResult([StepSummary("mask", 60, [TaskResult("mask")], [], jsons)])
    report.write_summary(result, tmp_path, None, tmp_path / "numbers.json")
    (plot,) = json.loads((tmp_path / "numbers.json").read_text())["plots"].values()
    # twelve of sixty, evenly spread
    assert [data["name"] for data in plot["data"]] == [
        f"{i // 20}-{i % 20}" for i in range(0, 60, 5)
    ]
    # the curves of one task are left as they are
    result.steps[0].jsons = jsons[:1]
    report.write_summary(result, tmp_path, None, tmp_path / "numbers.json")
    (plot,) = json.loads((tmp_path / "numbers.json").read_text())["plots"].values()
    assert len(plot["data"]) == 20
