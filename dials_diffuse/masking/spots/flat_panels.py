"""Masks of all panels in one array, and ellipses painted into them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numba
import numpy as np


@numba.njit(cache=True)
def _paint(panel, centre, bbox, ellipse, shape, start, flat):
    """Set the pixels within ellipses, clipped to bounding boxes and panels; changes flat in place.

    Args:
        panel, centre, bbox, ellipse: see SpotRows
        shape: (P, 2) n_slow, n_fast of the panels
        start: (P + 1,) where each panel begins in flat
        flat: see FlatPanels
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
    """Masks of a detector as flat arrays: the pixels of one panel after the other, bool.

    Args:
        sizes: (n_slow, n_fast) of every panel
    """

    def __init__(self, sizes: Sequence[tuple[int, int]]):
        self._shape = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        self._start = np.concatenate([[0], np.cumsum(self._shape.prod(axis=1))])

    def paint(self, spots: Iterable, flat: np.ndarray | None = None) -> np.ndarray:
        """Set the pixels within ellipses.

        Args:
            spots: SpotRows, or others with their attributes panel, centre, bbox and ellipse
            flat: a flat mask, changed in place; None: a new one

        Returns:
            the flat mask
        """
        flat = np.zeros(self._start[-1], dtype=bool) if flat is None else flat
        for rows in spots:
            _paint(rows.panel, rows.centre, rows.bbox, rows.ellipse, self._shape, self._start, flat)
        return flat

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Views of a flat mask as an (n_slow, n_fast) array a panel."""
        parts = np.split(flat, self._start[1:-1])
        return [part.reshape(size) for part, size in zip(parts, self._shape)]
