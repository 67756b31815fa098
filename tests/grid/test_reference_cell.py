"""The cell that all stills share."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, uctbx
from dxtbx.model import Crystal

from dials_diffuse.grid.reference_cell import common_space_group, reference_cell


def group(symbol):
    return sgtbx.space_group_info(symbol).group()


def cells_around(centre, relative, n=101, seed=3):
    """Lengths and angles scattered about a cell."""
    rng = np.random.default_rng(seed)
    centre = np.array(centre, dtype=float)
    return [uctbx.unit_cell(tuple(centre * (1 + relative * rng.normal(size=6)))) for _ in range(n)]


@pytest.mark.parametrize(
    "symbol, cell",
    [
        ("P 1", (31, 37, 43, 82, 97, 105)),
        ("P 1 2 1", (31, 37, 43, 90, 97, 90)),
        ("P 1 1 2", (31, 37, 43, 90, 90, 105)),
        ("P 43 21 2", (58, 58, 150, 90, 90, 90)),
        ("R 3 :R", (40, 40, 40, 75, 75, 75)),
        ("P 61", (60, 60, 90, 90, 90, 120)),
        ("F 2 3", (80, 80, 80, 90, 90, 90)),
    ],
)
def test_median_that_obeys_the_symmetry(symbol, cell):
    space_group = group(symbol)
    found = reference_cell(cells_around(cell, 0.001), space_group)
    assert space_group.is_compatible_unit_cell(found.unit_cell)
    assert found.unit_cell.parameters() == pytest.approx(cell, rel=0.0005)
    # what the symmetry fixes is fixed exactly, though no still has it
    for i, angle in enumerate(cell[3:]):
        if angle in (90, 120) and symbol != "P 1":
            assert found.unit_cell.parameters()[3 + i] == pytest.approx(angle, abs=1e-9)
    assert found.spread == pytest.approx(0.001 * np.array(cell), rel=0.3)
    assert not found.outlier.any()


def test_outliers_do_not_pull_the_reference_and_are_told():
    cells = cells_around((58, 58, 150, 90, 90, 90), 0.0005)
    wrong = {
        7: (61, 58, 150, 90, 90, 90),
        30: (58, 58, 150, 90, 92, 90),
        64: (116, 58, 150, 90, 90, 90),
    }
    clean = reference_cell(cells, group("P 43 21 2")).unit_cell
    for number, cell in wrong.items():
        cells[number] = uctbx.unit_cell(cell)
    found = reference_cell(cells, group("P 43 21 2"))
    assert np.flatnonzero(found.outlier).tolist() == sorted(wrong)
    assert found.unit_cell.parameters() == pytest.approx(clean.parameters(), rel=2e-4)
    assert found.deviation[7] == pytest.approx(61 / 58 - 1, rel=0.01)
    # degrees would make angles weigh 57 times what lengths do
    assert found.deviation[30] == pytest.approx(np.radians(2), rel=0.05)
    assert found.deviation[64] == pytest.approx(1.0, rel=0.01)


def test_identical_cells_have_no_outliers():
    cells = [uctbx.unit_cell((58, 58, 150, 90, 90, 90))] * 5
    cells.append(uctbx.unit_cell((58.1, 58.1, 150, 90, 90, 90)))
    assert not reference_cell(cells, group("P 4")).outlier.any()
    cells.append(uctbx.unit_cell((58.3, 58.3, 150, 90, 90, 90)))
    assert np.flatnonzero(reference_cell(cells, group("P 4")).outlier).tolist() == [6]


def test_given_cell_and_given_limit():
    given = uctbx.unit_cell((59, 59, 151, 90, 90, 90))
    cells = cells_around((58, 58, 150, 90, 90, 90), 0.0005)
    found = reference_cell(cells, group("P 4"), given=given, max_deviation=0.01)
    assert found.unit_cell.parameters() == pytest.approx(given.parameters())
    assert found.outlier.all()
    assert not reference_cell(cells, group("P 4"), given=given, max_deviation=0.02).outlier.any()
    with pytest.raises(ValueError, match="against the symmetry of space group P 4"):
        reference_cell(cells, group("P 4"), given=uctbx.unit_cell((59, 62, 151, 90, 90, 90)))
    nearly = reference_cell(
        cells, group("P 4"), given=uctbx.unit_cell((58.9, 59.1, 151, 90, 90, 90))
    )
    assert nearly.unit_cell.parameters() == pytest.approx(given.parameters(), rel=1e-5)


def test_space_groups_of_the_stills():
    def crystal(symbol):
        return Crystal((40, 0, 0), (0, 40, 0), (0, 0, 60), space_group_symbol=symbol)

    assert common_space_group([crystal("P 41"), crystal("P 41")]) == group("P 41")
    with pytest.raises(ValueError, match=r"P 41 and P 43 \(experiment 1\)"):
        common_space_group([crystal("P 41"), crystal("P 43")])
