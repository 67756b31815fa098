"""Report and numbers of an exported map."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import uctbx

from dials_diffuse.export import report
from dials_diffuse.export.result import ExportResult
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.maps.merged_map import MergedMap


@pytest.fixture
def result():
    grid = VoxelGrid(
        (2, 2, 2), uctbx.unit_cell((40, 40, 60, 90, 90, 90)), laue_group_from_symbol("P 4")
    )
    voxel = np.array([[1, 2, 3], [2, 0, 5]], dtype=np.int32)
    columns = {"intensity": np.array([1.0, 2.0])}
    return ExportResult(
        MergedMap(voxel, columns, grid, "photons/(s sr)"), {"mtz": "map.mtz"}, {"hk0": {}}
    )


def test_the_report_shows_the_sections(result):
    (section,) = report.sections(result)
    assert section.title == "Sections" and section.plots == {"hk0": {}}


def test_numbers_name_files_and_grid(result):
    numbers = report.numbers(result)
    assert numbers["files"] == {"mtz": "map.mtz"} and numbers["voxels"] == 2
    assert VoxelGrid.from_dict(numbers["grid"]).subdivide == (2, 2, 2)
