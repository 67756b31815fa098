"""The pixels of all panels as one array, and ellipses painted into it."""

from __future__ import annotations

from collections.abc import Sequence

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


class FlatPanels:
    """The pixels of all panels, one panel after the other in one bool array, as ellipses are painted into them.

    Args:
        sizes: (n_slow, n_fast) of every panel
    """

    def __init__(self, sizes: Sequence[tuple[int, int]]):
        self._shape = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        self._start = np.concatenate([[0], np.cumsum(self._shape.prod(axis=1))])

    def blank(self) -> np.ndarray:
        """Pixels that are all False"""
        return np.zeros(self._start[-1], dtype=bool)

    def paint(self, flat: np.ndarray, panel, centre, bbox, ellipse) -> None:
        """Set the pixels within ellipses; see paint_ellipses."""
        paint_ellipses(panel, centre, bbox, ellipse, self._shape, self._start, flat)

    def of_panels(self, flat: np.ndarray) -> list[np.ndarray]:
        """Views of the pixels as an (n_slow, n_fast) array a panel"""
        return [
            flat[a:b].reshape(size)
            for a, b, size in zip(self._start[:-1], self._start[1:], self._shape)
        ]
