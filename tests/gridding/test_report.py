"""Tables, plots and numbers of the gridding report, from known cells and counts."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from cctbx import sgtbx, uctbx
from dxtbx.model import Crystal, Experiment, ExperimentList

from dials_diffuse.grid.reference_cell import reference_cell
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding import report
from dials_diffuse.gridding.ambiguity import Resolution
from dials_diffuse.gridding.coverage import VoxelAccumulator, coverage
from dials_diffuse.gridding.definition import GridDefinition
from dials_diffuse.gridding.indexing import possible_settings
from dials_diffuse.gridding.result import GriddingResult

# of which the third is an outlier
LENGTHS = (40.0, 40.0, 44.0, 40.0, 40.0)
SPACE_GROUP = sgtbx.space_group_info("P 4").group()


def definition_of(excluded) -> GridDefinition:
    """Five stills in two files."""
    stills = [
        Experiment(crystal=Crystal((a, 0, 0), (0, a, 0), (0, 0, 60), SPACE_GROUP)) for a in LENGTHS
    ]
    cells = [still.crystal.get_unit_cell() for still in stills]
    grid = VoxelGrid(
        (2, 2, 2), uctbx.unit_cell((40, 40, 60, 90, 90, 90)), laue_group_from_symbol("P 4"), 10.0
    )
    lists = [ExperimentList(stills[:2]), ExperimentList(stills[2:])]
    return GridDefinition(grid, grid, reference_cell(cells, SPACE_GROUP), lists, excluded)


@pytest.fixture
def result() -> GriddingResult:
    """Four voxels, of which three stills saw one; the outlier is kept, and the fourth still reindexed."""
    definition = definition_of([[], []])
    voxel = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [2, 1, 1], [1, 0, 2], [3, 1, 0]], np.int32)
    sums = VoxelAccumulator()
    sums.add(
        {
            "id": np.array([0, 1, 2, 2, 3, 4], np.int32),
            "asu_voxel": voxel,
            "bragg": np.zeros(6, bool),
            "counts": np.full(6, 5.0),
            "background": np.ones(6),
            "exposure": np.full(6, 2.0),
        }
    )
    settings = possible_settings(definition.grid, SPACE_GROUP, 2.0)
    resolution = Resolution(
        settings,
        definition.grid,
        np.array([0, 0, 0, 1, 0]),
        np.array([3.0, 4.0, 5.0, 0.12345, 2.0]),
        12.5,
    )
    rows = coverage(sums, definition.grid, n_shells=2)
    return GriddingResult(definition, resolution, definition.grid, sums, rows, {"one": {}})


def section(result, title):
    (found,) = (part for part in report.sections(result) if part.title == title)
    return found


def test_sections(result):
    titles = [part.title for part in report.sections(result)]
    assert titles == ["Unit cells", "Indexing ambiguity", "Coverage", "Preview of the map"]
    result.resolution = None
    assert "Indexing ambiguity" not in [part.title for part in report.sections(result)]
    json.dumps([part.plots for part in report.sections(result)])


def test_cells_and_outliers(result):
    cells, outliers = section(result, "Unit cells").tables
    assert cells[1] == ["a (A)", "40.0000", "0.0000"] and cells[3][:2] == ["c (A)", "60.0000"]
    assert outliers[1:] == [["2", "44.00, 44.00, 60.00, 90.00, 90.00, 90.00", "10.00 %", "kept"]]
    result.definition = definition_of([[], [0]])
    assert section(result, "Unit cells").tables[1][1][-1] == "left out"
    plot = section(result, "Unit cells").plots["cells"]
    a, b, c = plot["data"]
    assert sum(a["y"]) == sum(c["y"]) == len(LENGTHS)
    # the outlier has the last bin, 10 % above the others
    assert a["y"][-2:].count(1) == b["y"][-2:].count(1) == 1 and max(c["y"]) == 5


def test_coverage_has_a_row_for_each_shell_and_all(result):
    table = section(result, "Coverage").tables[0]
    assert len(table) == 1 + 2 + 1 and {len(row) for row in table} == {len(table[0])}
    overall = dict(zip(table[0], table[-1]))
    assert overall["d (A)"] == "overall"
    assert (overall["seen"], overall["observations"]) == (4, 6)
    assert overall["multiplicity"] == "1.50" and overall["stills"] == "1.50"
    assert overall["3 or more"] == "0.250"
    plot = section(result, "Coverage").plots["coverage"]
    assert [len(curve["x"]) for curve in plot["data"]] == [2, 2, 2]


def test_settings_of_the_stills(result):
    part = section(result, "Indexing ambiguity")
    assert part.tables == [[["setting", "stills"], ["h,k,l", 4], [part.tables[0][2][0], 1]]]
    assert sum(part.plots["ambiguity"]["data"][0]["y"]) == 5


def test_numbers_are_those_of_the_tables(result):
    numbers = report.numbers(result)
    json.dumps(numbers)
    assert numbers["models"] == {"one": {}}
    overall = numbers["coverage"][-1]
    assert (overall["shell"], overall["seen"], overall["observations"]) == ("overall", 4, 6)
    assert overall["three_stills"] == 1
    assert overall["completeness"] == pytest.approx(4 / overall["possible"])
    assert numbers["cells"]["reference"] == pytest.approx([40, 40, 60, 90, 90, 90])
    assert numbers["cells"]["outliers"] == [2] and numbers["cells"]["excluded"] == [[], []]
    ambiguity = numbers["ambiguity"]
    assert ambiguity["chosen"] == [0, 0, 0, 1, 0] and ambiguity["significance"] == 12.5
    assert ambiguity["gain"][3] == 0.123 and ambiguity["settings"][0] == "h,k,l"
    result.resolution.significance = np.nan
    assert report.numbers(result)["ambiguity"]["significance"] is None
    result.resolution = None
    assert report.numbers(result)["ambiguity"] is None


def test_the_log_warns_of_outliers(result, caplog):
    with caplog.at_level(logging.INFO, "dials.diffuse.gridding.report"):
        report.log_cells(result.definition)
        report.log_coverage(result.coverage)
    assert "Laue group P 4/m, 2 x 2 x 2 voxels a reciprocal cell" in caplog.text
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert warning.getMessage().startswith("1 stills have an outlying unit cell")
    assert "10.00 %" in caplog.text and "overall" in caplog.text
