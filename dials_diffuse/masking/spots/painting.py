"""Paint the Bragg masks of stills from the rows of their reflection table.

A row has all that is needed to paint its pixels again: ``panel``; ``xyzcal.px``, the centre (xc, yc)
in pixels; ``bbox``, within which pixels are painted; and ``mask.ellipse``, the coefficients
(a, b, c): pixels whose centre (x, y) = (fast + 1/2, slow + 1/2) fulfils

    a (x - xc)^2 + 2 b (x - xc)(y - yc) + c (y - yc)^2 <= 1

are masked. Tables with saved shoeboxes have the column ``shoebox`` instead, whose foreground
pixels are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dials.algorithms.shoebox import MaskCode

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking.spots.flat_panels import FlatPanels
from dials_diffuse.masking.spots.rows import ELLIPSE


class _Ellipses(NamedTuple):
    """The columns that are painted; see SpotRows."""

    panel: np.ndarray
    centre: np.ndarray
    bbox: np.ndarray
    ellipse: np.ndarray


class BraggRows:
    """The Bragg rows of a table, sorted by experiment and image.

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
        if ELLIPSE in reflections:
            images = np.floor(as_numpy(reflections["xyzcal.px"])[:, 2]).astype(np.int64)
        else:
            # a shoebox may be on several images: only its id says where to look
            images = np.zeros(len(ids), dtype=np.int64)
        self._order = np.lexsort((images, ids))
        self._ids, self._images = ids[self._order], images[self._order]
        self._ellipses = self._shoeboxes = None
        if ELLIPSE in reflections:
            self._ellipses = _Ellipses(
                as_numpy(reflections["panel"])[self._order].astype(np.int64),
                as_numpy(reflections["xyzcal.px"])[self._order][:, :2].copy(),
                as_numpy(reflections["bbox"])[self._order][:, :4].copy(),
                as_numpy(reflections[ELLIPSE])[self._order],
            )
        else:
            self._shoeboxes = reflections["shoebox"]

    def paint(
        self, stills: Sequence[tuple[int, int]], panel_sizes: Sequence[tuple[int, int]]
    ) -> list[np.ndarray]:
        """Paint the rows of some stills (the lattices of one image).

        Args:
            stills: (value of the column id, array index of the image) of each, see Still.key
            panel_sizes: (n_slow, n_fast) of every panel

        Returns:
            a (n_slow, n_fast) bool array a panel, True = under Bragg
        """
        panels = FlatPanels(panel_sizes)
        if self._ellipses is not None:
            ranges = [self._of_image(*key) for key in stills]
            rows = (_Ellipses(*(column[some] for column in self._ellipses)) for some in ranges)
            return panels.split(panels.paint(rows))
        masks = panels.split(panels.paint(()))
        for number, image in stills:
            some = slice(*np.searchsorted(self._ids, [number, number + 1]))
            for row in self._order[some]:
                _paint_shoebox(self._shoeboxes[int(row)], image, masks)
        return masks

    def _of_image(self, number: int, image: int) -> slice:
        first, last = np.searchsorted(self._ids, [number, number + 1])
        images = self._images[first:last]
        return slice(*(first + np.searchsorted(images, [image, image + 1])))


def _paint_shoebox(shoebox, image: int, masks: Sequence[np.ndarray]) -> None:
    """Set the foreground pixels of a shoebox on an image in the masks of the panels, in place.

    A shoebox of one image is that of a still, whatever number the image has.
    """
    x0, _, y0, _, z0, z1 = shoebox.bbox
    mask = masks[shoebox.panel]
    foreground = (shoebox.mask.as_numpy_array() & MaskCode.Foreground) != 0
    if z1 - z0 > 1:
        foreground = foreground[image - z0 : image - z0 + 1] if z0 <= image < z1 else foreground[:0]
    foreground = foreground.any(axis=0)
    y, x = np.nonzero(foreground) + np.array([[y0], [x0]])
    inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
    mask[y[inside], x[inside]] = True


def paint_bragg(rows, panel_sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Paint all Bragg rows of a table, those of one image.

    Args:
        rows: reflection table with the rows of all stills on the image
        panel_sizes: (n_slow, n_fast) of every panel

    Returns:
        a (n_slow, n_fast) bool array a panel, True = under Bragg

    Raises:
        ValueError: the table has neither ellipses nor shoeboxes.
    """
    z = as_numpy(rows["xyzcal.px"])[:, 2] if ELLIPSE in rows else np.zeros(rows.size())
    keys = np.unique(np.column_stack([as_numpy(rows["id"]), np.floor(z)]).astype(int), axis=0)
    return BraggRows(rows).paint([tuple(key) for key in keys], panel_sizes)
