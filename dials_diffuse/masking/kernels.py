"""Compiled loops of the masks."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def paint_ellipses(panel, centre, bbox, ellipse, shape, start, flat):
    """Set the pixels within ellipses, clipped to bounding boxes and panels.

    Args:
        panel: (N,) int64
        centre: (N, 2) fast, slow in pixels
        bbox: (N, 4) int32 fast, slow: first, last + 1
        ellipse: (N, 3) coefficients a, b, c in 1/px^2
        shape: (P, 2) n_slow, n_fast of the panels
        start: (P + 1,) where each panel begins in flat
        flat: bool pixels of all panels, one after the other; changed in place
    """
    for i in range(panel.shape[0]):
        p = panel[i]
        n_slow, n_fast = shape[p, 0], shape[p, 1]
        x0, x1 = max(bbox[i, 0], 0), min(bbox[i, 1], n_fast)
        y0, y1 = max(bbox[i, 2], 0), min(bbox[i, 3], n_slow)
        a, b, c = ellipse[i, 0], ellipse[i, 1], ellipse[i, 2]
        for y in range(y0, y1):
            dy = y + 0.5 - centre[i, 1]
            # a dx^2 + 2 b dx dy + c dy^2 <= 1 between two roots
            square = b * b * dy * dy - a * (c * dy * dy - 1.0)
            if not square >= 0.0:
                continue
            root, middle = np.sqrt(square) / a, centre[i, 0] - 0.5 - b * dy / a
            row = start[p] + y * n_fast
            first = max(x0, np.int64(np.ceil(middle - root)))
            last = min(x1 - 1, np.int64(np.floor(middle + root)))
            for at in range(row + first, row + last + 1):
                flat[at] = True


@numba.njit(cache=True)
def within_bounds(raw, good, low, high, out):
    """out = good where low <= raw <= high (arrays of one shape (n_slow, n_fast))."""
    for y in range(raw.shape[0]):
        for x in range(raw.shape[1]):
            value = raw[y, x]
            out[y, x] = good[y, x] and low <= value and value <= high


def trusted_pixels(raw: np.ndarray, good: np.ndarray, low: float, high: float) -> np.ndarray:
    """The good pixels whose value is within [low, high], a new (n_slow, n_fast) bool array."""
    out = np.empty(raw.shape, dtype=bool)
    within_bounds(raw, good, low, high, out)
    return out
