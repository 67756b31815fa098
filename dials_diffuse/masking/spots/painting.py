"""The Bragg part of a still's mask: ellipses on panels, kept as table rows and painted.

A row says all that is needed to paint its pixels again: ``panel``; ``xyzcal.px``, the
centre (xc, yc) in pixels; ``bbox``, within which to paint; and ``mask.ellipse``, the
coefficients (a, b, c): pixels whose centre (x, y) = (fast + 1/2, slow + 1/2) fulfils

    a (x - xc)^2 + 2 b (x - xc)(y - yc) + c (y - yc)^2 <= 1

are masked. Tables made from saved shoeboxes have the column ``shoebox`` instead, whose
foreground pixels are masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials.algorithms.shoebox import MaskCode

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking.spots.flat_panels import FlatPanels

ELLIPSE = "mask.ellipse"


class BraggRows:
    """The Bragg rows of a table as numpy arrays, those of one experiment together.

    Args:
        reflections: table written by dials.diffuse_mask

    Raises:
        ValueError: the table has neither ellipses nor shoeboxes.
    """

    def __init__(self, reflections):
        if ELLIPSE not in reflections and "shoebox" not in reflections:
            raise ValueError(
                "The reflections hold no Bragg mask (neither mask.ellipse nor shoebox): "
                "run dials.diffuse_mask first"
            )
        ids = as_numpy(reflections["id"])
        # A stable sort keeps the order in which rows were written
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._order = order
        self._shoeboxes = None
        if ELLIPSE in reflections:
            self._panel = as_numpy(reflections["panel"])[order].astype(np.int64)
            self._centre = as_numpy(reflections["xyzcal.px"])[order][:, :2].copy()
            self._bbox = as_numpy(reflections["bbox"])[order][:, :4].copy()
            self._ellipse = as_numpy(reflections[ELLIPSE])[order].copy()
        else:
            self._shoeboxes = reflections["shoebox"]

    def paint(self, experiment_ids: Sequence[int], panel_sizes) -> list[np.ndarray]:
        """The pixels under the rows of some experiments (the lattices of one image).

        Args:
            experiment_ids: values of the column id
            panel_sizes: (n_slow, n_fast) of every panel

        Returns:
            a (n_slow, n_fast) bool array a panel, True = under Bragg
        """
        pixels = FlatPanels(panel_sizes)
        flat = pixels.blank()
        masks = pixels.of_panels(flat)
        for number in experiment_ids:
            first, last = np.searchsorted(self._ids, [number, number + 1])
            if first == last:
                continue
            if self._shoeboxes is not None:
                self._paint_shoeboxes(first, last, masks)
            else:
                rows = slice(first, last)
                pixels.paint(
                    flat,
                    self._panel[rows],
                    self._centre[rows],
                    self._bbox[rows],
                    self._ellipse[rows],
                )
        return masks

    def _paint_shoeboxes(self, first, last, masks):
        for row in self._order[first:last]:
            box = self._shoeboxes[int(row)]
            x0, x1, y0, y1, _, _ = box.bbox
            mask = masks[box.panel]
            n_slow, n_fast = mask.shape
            foreground = (box.mask.as_numpy_array() & MaskCode.Foreground) != 0
            inside = foreground.any(axis=0)[
                max(0, -y0) : max(0, n_slow - y0), max(0, -x0) : max(0, n_fast - x0)
            ]
            mask[
                max(0, y0) : max(0, y0) + inside.shape[0], max(0, x0) : max(0, x0) + inside.shape[1]
            ] |= inside


def paint_bragg(rows, panel_sizes) -> list[np.ndarray]:
    """The pixels under the Bragg rows of one image.

    Args:
        rows: reflection table with the rows of all stills on the image
        panel_sizes: (n_slow, n_fast) of every panel

    Returns:
        a (n_slow, n_fast) bool array a panel, True = under Bragg

    Raises:
        ValueError: the table has neither ellipses nor shoeboxes.
    """
    found = BraggRows(rows)
    return found.paint(np.unique(as_numpy(rows["id"])), panel_sizes)
