"""The report of an extraction: tables, plots and numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cctbx import sgtbx, uctbx

from dials_diffuse.extraction import report
from dials_diffuse.extraction.profile import Profile
from dials_diffuse.extraction.result import ExtractionResult, StillSummary
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.grid.lattice_settings import LatticeSetting
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.phil.defaults import default_settings


def summary(name):
    values = np.array([1.23456, 2.0, np.nan])
    profile = Profile(np.arange(3.0), values, values, values, values, values + 1, 40)
    return StillSummary(f"images/{name}.cbf", "", 11, 40, 100.0, 0.25, profile)


@pytest.fixture
def result():
    settings = default_settings(ExtractionSettings)
    grid = VoxelGrid(
        (3, 3, 3), uctbx.unit_cell((40, 40, 50, 90, 90, 90)), laue_group_from_symbol("P 4/m")
    )
    stills = [summary("a"), StillSummary("images/b.cbf", "unreadable"), summary("c")]
    return ExtractionResult(settings, grid, stills)


def test_table(result):
    head, *rows = report.table(result.stills)
    assert rows[0] == ["0", "a.cbf", "40", "100", "2.500", "0.25", "11"]
    assert rows[1] == ["1", "b.cbf", "-", "-", "-", "-", "-"]
    assert {len(row) for row in rows} == {len(head)}


def test_sections(result):
    profiles, stills = report.sections(result)
    assert "3x3x3 voxels" in profiles.text
    assert set(profiles.plots) == {"extract_diffuse", "extract_total"}
    lines = profiles.plots["extract_diffuse"]["data"]
    assert [line["name"] for line in lines] == ["still 0", "still 2"]
    assert lines[0]["y"] == [1.235, 2.0, None]
    assert stills.tables == [report.table(result.stills)]


def test_a_background_is_shown(result):
    result.settings = default_settings(ExtractionSettings, background="0.1")
    plots = report.sections(result)[0].plots
    assert {"extract_unsubtracted", "extract_background"} < set(plots)
    assert plots["extract_unsubtracted"]["data"][0]["y"] == [0.5525, 0.6667, None]


def test_curves_of_many_stills(result):
    result.stills = [summary(str(i)) for i in range(100)]
    lines = report.sections(result)[0].plots["extract_diffuse"]["data"]
    assert 10 <= len(lines) <= 12
    assert lines[0]["name"] == "still 0" and lines[-1]["name"] == "still 99"


def test_numbers(result):
    result.failures = {"failures": {"d.cbf": "no spots"}}
    result.models = {"x": {}}
    content = json.loads(json.dumps(report.numbers(result), allow_nan=False))
    assert content["failures"] == {"d.cbf": "no spots"} and content["models"] == {"x": {}}
    first, second, _ = content["stills"]
    assert first["num_pixels"] == 40 and first["error"] is None
    assert first["profile"]["exposure"] == [2.235, 3.0, None]
    assert second == {"image": "images/b.cbf", "error": "unreadable"}


def test_settings_of_the_lattice(result):
    assert report.settings_table(result)[1:] == [["none", "2", "0, 2"]]
    assert "Settings of the lattice" not in [part.title for part in report.sections(result)]
    result.stills[2].reindexed = "h,k,h+l"
    cell = uctbx.unit_cell((40, 40, 50, 90, 90, 90))
    result.setting = LatticeSetting(sgtbx.space_group_info("P 4").group(), cell)
    assert report.settings_table(result)[1:] == [["none", "1", "0"], ["h,k,h+l", "1", "2"]]
    part = next(part for part in report.sections(result) if part.title == "Settings of the lattice")
    assert "P 4" in part.text
    assert report.numbers(result)["stills"][2]["reindexed"] == "h,k,h+l"
