from __future__ import annotations

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.tables import int6_column, int_column, size_t_column, vec3_column
from dials_diffuse.masking.spots.painting import BraggRows, paint_bragg


def table_of(ids, panels, centres, ellipses, bboxes):
    table = flex.reflection_table()
    table["id"] = int_column(ids)
    table["panel"] = size_t_column(panels)
    table["xyzcal.px"] = vec3_column([(x, y, 0.5) for x, y in centres])
    table["mask.ellipse"] = vec3_column(ellipses)
    table["bbox"] = int6_column([(*box, 0, 1) for box in bboxes])
    return table


def brute_force(size, centre, ellipse):
    n_slow, n_fast = size
    y, x = np.mgrid[:n_slow, :n_fast] + 0.5
    dx, dy = x - centre[0], y - centre[1]
    a, b, c = ellipse
    return a * dx**2 + 2 * b * dx * dy + c * dy**2 <= 1


def test_ellipses_are_painted_on_their_panels_and_clipped_there():
    sizes = [(20, 30), (25, 15)]
    centres = [(10.2, 8.7), (-1.0, 24.5), (29.9, 0.1)]
    ellipses = [(1 / 16, 0.02, 1 / 9), (1 / 25, 0, 1 / 4), (1 / 9, -0.05, 1 / 16)]
    boxes = [(0, 30, 0, 20), (-10, 10, 15, 35), (20, 40, -5, 10)]
    table = table_of([0, 0, 0], [0, 1, 0], centres, ellipses, boxes)
    painted = paint_bragg(table, sizes)
    expected = [
        brute_force(sizes[0], centres[0], ellipses[0])
        | brute_force(sizes[0], centres[2], ellipses[2]),
        brute_force(sizes[1], centres[1], ellipses[1]),
    ]
    for got, want in zip(painted, expected):
        assert want.any() and np.array_equal(got, want)


def test_rows_are_found_by_experiment_whatever_their_order():
    sizes = [(20, 20)]
    centres = [(4.5, 4.5), (14.5, 4.5), (4.5, 14.5)]
    table = table_of([7, 2, 7], [0] * 3, centres, [(1, 0, 1)] * 3, [(0, 20, 0, 20)] * 3)
    rows = BraggRows(table)
    assert rows.paint([(2, 0)], sizes)[0][4, 14] and rows.paint([(2, 0)], sizes)[0].sum() == 5
    assert rows.paint([(7, 0)], sizes)[0].sum() == 10
    assert rows.paint([(2, 0), (7, 0)], sizes)[0].sum() == 15
    assert rows.paint([(3, 0)], sizes)[0].sum() == 0


def test_shoebox_foreground_is_painted():
    from dials.algorithms.shoebox import MaskCode

    # Shoebox.allocate is not there in every version
    (box,) = flex.shoebox(flex.size_t([0]), flex.int6([(-1, 3, 2, 5, 0, 1)]), allocate=True)
    for y in range(3):
        for x in range(4):
            box.mask[0, y, x] = MaskCode.Valid | MaskCode.Background
    box.mask[0, 1, 0] = MaskCode.Valid | MaskCode.Foreground  # off the panel
    box.mask[0, 1, 2] = MaskCode.Valid | MaskCode.Foreground
    table = flex.reflection_table()
    table["id"] = flex.int(1, 0)
    table["shoebox"] = flex.shoebox(1)
    table["shoebox"][0] = box
    (mask,) = paint_bragg(table, [(8, 8)])
    assert np.argwhere(mask).tolist() == [[3, 1]]


def test_a_table_without_mask_is_refused():
    table = flex.reflection_table()
    table["id"] = flex.int(1, 0)
    with pytest.raises(ValueError, match="run dials.diffuse_mask first"):
        BraggRows(table)
