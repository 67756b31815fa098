"""Bright groups of pixels that no known lattice explains: split crystals, salt, ice, cosmic rays.

Groups are 3 x 3 pixels, at least five of them usable and outside of the Bragg mask, whose
mean is 9 standard deviations above that of all groups of their resolution ring; a
region goes on to where it has fallen to 4. A threshold that high does not act on
diffuse scattering, so that masking by it does not bias the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from scipy.ndimage import find_objects, label

from dials_diffuse.adapters.images import read_raw, trusted_bounds
from dials_diffuse.masking.bragg import paint_bragg
from dials_diffuse.masking.kernels import trusted_pixels
from dials_diffuse.masking.prediction import SpotRows, detector_d_min, spots_table
from dials_diffuse.masking.still_mask import panel_sizes
from dials_diffuse.masking.survey import (
    N_RINGS,
    check_shape,
    ring_numbers,
    ring_statistics,
)
from dials_diffuse.stills import Still

BRIGHT = 9.0
# and at least this much a pixel (ADU): of empty surroundings a few counts are no spot
LEAST = 1.0
EDGE = 4.0
# Of the nine pixels of a group
ENOUGH = 5


@numba.njit(cache=True)
def _group_means(raw, use, mean, enough):
    n_slow, n_fast = raw.shape
    for y in range(n_slow):
        for x in range(n_fast):
            n, total = 0, 0.0
            for j in range(max(0, y - 1), min(n_slow, y + 2)):
                for i in range(max(0, x - 1), min(n_fast, x + 2)):
                    if use[j, i]:
                        n += 1
                        total += raw[j, i]
            enough[y, x] = n >= ENOUGH
            mean[y, x] = total / max(n, 1)


def bright_regions(pixels, use, ring) -> np.ndarray:
    """(N, 4) bounding boxes (fast: first, last + 1; slow: first, last + 1) of the bright
    regions of one panel.

    Args:
        pixels, use, ring: (n_slow, n_fast) values, pixels to look at, resolution rings
    """
    groups = np.empty(pixels.shape, np.float32)
    enough = np.empty(pixels.shape, bool)
    _group_means(pixels, use, groups, enough)
    mean, sigma, _ = ring_statistics(groups, enough, ring, N_RINGS, 5)
    # Where most groups are empty: counting noise of the mean
    sigma = np.maximum(sigma, np.sqrt(np.maximum(mean, 1e-3) / 9))
    bright = enough & (groups > (mean + np.maximum(BRIGHT * sigma, LEAST))[ring])
    if not bright.any():
        return np.zeros((0, 4), np.int64)
    labels, number = label(
        enough & (groups > (mean + EDGE * sigma)[ring]), structure=np.ones((3, 3))
    )
    chosen = np.zeros(number + 1, bool)
    chosen[labels[bright]] = True
    chosen[0] = False
    boxes = [
        (x.start, x.stop, y.start, y.stop)
        for keep, (y, x) in zip(chosen[1:], find_objects(labels))
        if keep
    ]
    return np.array(boxes, np.int64)


def find_other_spots(
    group: Sequence[Still], rows: Sequence[SpotRows], good: list[np.ndarray], padding: float
) -> SpotRows:
    """Rows (ellipses around regions, Miller index 0) of what is bright on an image
    besides the spots of its lattices.

    Args:
        group: the stills on the image; rows: their predicted spots
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel
        padding: pixels added to the semi-axes

    Raises:
        ValueError: the image can't be read.
    """
    still = group[0]
    raw = read_raw(still.imageset, still.image_index)
    check_shape(raw, still)
    sizes = panel_sizes(still.detector)
    bragg = [np.zeros(size, bool) for size in sizes]
    for spots in rows:
        for mask, painted in zip(bragg, paint_bragg(spots_table(spots, 0, 0.5), sizes)):
            mask |= painted
    rings = ring_numbers(still.detector, still.beam, 1 / detector_d_min(still.detector, still.beam))
    found = []
    for number, pixels in enumerate(raw):
        use = trusted_pixels(pixels, good[number], *trusted_bounds(still.detector[number]))
        use &= ~bragg[number]
        found.append(_rows(number, bright_regions(pixels, use, rings[number]), padding))
    parts = zip(*((r.panel, r.miller_index, r.centre, r.bbox, r.ellipse, r.q, r.excitation, r.to_pixels) for r in found))
    return SpotRows(*(np.concatenate(part) for part in parts))


def _rows(panel: int, boxes: np.ndarray, padding: float) -> SpotRows:
    n = len(boxes)
    if n == 0:
        return SpotRows.none()
    centre = np.stack([boxes[:, :2].mean(axis=1), boxes[:, 2:].mean(axis=1)], axis=1)
    side = np.stack([boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]], axis=1)
    # Around the corners of the box, which are centres of groups
    half = side / np.sqrt(2) + 1 + padding
    bbox = np.stack(
        [
            np.floor(centre[:, 0] - half[:, 0]), np.ceil(centre[:, 0] + half[:, 0]),
            np.floor(centre[:, 1] - half[:, 1]), np.ceil(centre[:, 1] + half[:, 1]),
        ],
        axis=1,
    )
    ellipse = np.stack([1 / half[:, 0] ** 2, np.zeros(n), 1 / half[:, 1] ** 2], axis=1)
    return SpotRows(
        np.full(n, panel, np.int64), np.zeros((n, 3), np.int32), centre, bbox.astype(np.int32),
        ellipse, np.zeros(n), np.zeros(n), np.zeros((n, 2, 2)),
    )
