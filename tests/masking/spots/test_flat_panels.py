from __future__ import annotations

import numpy as np

from dials_diffuse.masking.spots.flat_panels import FlatPanels
from dials_diffuse.masking.spots.rows import SpotRows

SIZES = [(20, 30), (25, 15)]


def random_rows(n=60):
    rng = np.random.default_rng(8)
    panel = rng.integers(0, 2, n)
    centre = rng.uniform(-5, 30, (n, 2))
    axes = rng.uniform(0.3, 6, (n, 2))
    angle = rng.uniform(0, np.pi, n)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1)
    turn = turn.reshape(n, 2, 2)
    form = turn @ (np.eye(2) / axes[:, None] ** 2) @ turn.transpose(0, 2, 1)
    ellipse = form[:, [0, 0, 1], [0, 1, 1]]
    x, y = np.floor(centre.T).astype(np.int32)
    # Some boxes cut their ellipses
    bbox = np.stack([x - 4, x + 5, y - 6, y + 7], axis=1)
    return SpotRows(panel, np.zeros((n, 3), np.int32), centre, bbox, ellipse)


def brute_force(rows):
    masks = [np.zeros(size, bool) for size in SIZES]
    for i, panel in enumerate(rows.panel):
        y, x = np.indices(SIZES[panel])
        dx, dy = x + 0.5 - rows.centre[i, 0], y + 0.5 - rows.centre[i, 1]
        a, b, c = rows.ellipse[i]
        x0, x1, y0, y1 = rows.bbox[i]
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        masks[panel] |= inside & (a * dx**2 + 2 * b * dx * dy + c * dy**2 <= 1)
    return masks


def test_ellipses_are_painted_within_boxes_and_panels():
    rows, panels = random_rows(), FlatPanels(SIZES)
    for got, want in zip(panels.split(panels.paint([rows])), brute_force(rows)):
        assert got.shape == want.shape and np.array_equal(got, want) and 0 < want.sum() < want.size


def test_a_mask_is_added_to_in_place_and_split_into_views():
    panels = FlatPanels(SIZES)
    flat = panels.paint([])
    assert flat.shape == (20 * 30 + 25 * 15,) and not flat.any()
    panels.split(flat)[1][0, 0] = True
    assert np.flatnonzero(flat).tolist() == [600]
    assert panels.paint([random_rows()], flat) is flat and flat[600] and flat.sum() > 1
