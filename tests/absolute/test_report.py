from __future__ import annotations

import numpy as np
import synthetic_crystal
import unit_cells

from cctbx import crystal

from dials_diffuse.absolute import report
from dials_diffuse.absolute.estimate import Estimate

ESTIMATE = Estimate(
    "fit", 4.0, 0.2, (0.3, 0.7), [(0.3, 0.7, 4.0), (0.4, 0.7, 4.2), (0.4, 0.6, 9.0)], {"fit": 0.2}
)


def test_rows_of_estimates():
    (_, row) = report.estimate_rows([ESTIMATE], "fit")
    assert row == ["fit of the profile", "0.30-0.70", "4", "0.2", "5.00", "fit 5.00", "*"]
    assert report.estimate_rows([ESTIMATE], "high_q")[1][-1] == ""
    assert report.scan_rows([ESTIMATE])[2] == ["fit of the profile", "0.40", "0.70", "4.2"]


def test_scan_keeps_one_end_fixed():
    (trace,) = report.scan_plot([ESTIMATE])["data"]
    assert trace["x"] == [0.3, 0.4] and trace["y"] == [4.0, 4.2]


def test_rows_of_the_unit_cell():
    symmetry = crystal.symmetry(synthetic_crystal.CELL, "P41212")
    inventory = unit_cells.inventory(symmetry, formula="C 2 H 6 O 1", copies=2)
    header, *_, total = report.inventory_rows(inventory)
    assert header[4:] == ["H", "C", "O"]
    assert total == ["unit cell", "18", "52", "0.09", "12", "4", "2"]


def test_negative_voxels():
    table = {
        "intensity": synthetic_crystal.double_column(np.array([1.0, -1.0, -10.0, -0.1])),
        "variance": synthetic_crystal.double_column(np.ones(4)),
    }
    assert report.negative_voxels(table) == (4, 3, 1)
