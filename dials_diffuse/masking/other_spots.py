"""Bright groups of pixels that no known lattice explains: split crystals, salt, ice, cosmic rays.

Groups are 3 x 3 pixels, at least five of them usable and outside of the Bragg mask. A
group is a spot if its mean is far above both

- what groups of its resolution ring have: mean m and standard deviation s, of which the
  threshold m + max(9 s, 6.5 s + 0.76 g) is further out than photons get by chance once in
  1e10 groups. The second part is the quantile of a Poisson distribution to the order of its
  skewness (Cornish & Fisher 1938), z s + (z^2 - 1) g / (6 * 9) for the mean of nine
  pixels of gain g and z = 6.5;
- the scattering around it: twice the median of the pixels 4 to 8 px away. Diffuse
  scattering, halos of Bragg nodes included, is smoother than that.

A region goes on from there to where it has fallen to m + 4 s. Thresholds that high
do not act on diffuse scattering, so that masking by them does not bias the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numba
import numpy as np

from dials_diffuse.adapters.images import read_raw, trusted_bounds
from dials_diffuse.masking.kernels import paint_ellipses
from dials_diffuse.masking.prediction import SpotRows
from dials_diffuse.masking.rings import RingCache, clipped_statistics
from dials_diffuse.masking.survey import check_shape
from dials_diffuse.stills import Still

BRIGHT = 9.0
CHANCE = 6.5
SKEWNESS = (CHANCE**2 - 1) / (6 * 9)
EDGE = 4.0
# Over the median of the pixels this far from the group's centre
CONTRAST = 2.0
FRAME = (4, 8)
# Of the nine pixels of a group
ENOUGH = 5
# A region reaches no further than this from where it was found; longer ones are several
REACH = 8
# Pixels of a row that are looked at together
RUN = 32
# Groups of a ring that tell what is usual there
SAMPLES = 800


@numba.njit(cache=True)
def _group_mean(raw, blocked, low, high, x, y):
    """(mean of the 3 x 3 group around a pixel, number of its usable pixels)."""
    n, total = 0, 0.0
    for j in range(max(0, y - 1), min(raw.shape[0], y + 2)):
        for i in range(max(0, x - 1), min(raw.shape[1], x + 2)):
            value = raw[j, i]
            if not blocked[j, i] and low <= value and value <= high:
                n += 1
                total += value
    return total / max(n, 1), n


@numba.njit(cache=True)
def _sample_groups(raw, blocked, low, high, ring, samples, value, of_ring):
    """Means of the groups around the samples, and their rings; returns their number."""
    n = 0
    for k in range(samples.shape[0]):
        y, x = samples[k] // raw.shape[1], samples[k] % raw.shape[1]
        mean, number = _group_mean(raw, blocked, low, high, x, y)
        if number >= ENOUGH:
            value[n] = mean
            of_ring[n] = ring[y, x]
            n += 1
    return n


@numba.njit(cache=True)
def _median_around(raw, blocked, low, high, x, y, frame):
    """Median of the usable pixels in a square frame around a pixel; -inf without ten of them."""
    inner, outer = FRAME
    n = 0
    for j in range(max(0, y - outer), min(raw.shape[0], y + outer + 1)):
        for i in range(max(0, x - outer), min(raw.shape[1], x + outer + 1)):
            value = raw[j, i]
            if (
                max(abs(i - x), abs(j - y)) >= inner
                and not blocked[j, i] and low <= value and value <= high
            ):
                frame[n] = value
                n += 1
    return np.median(frame[:n]) if n >= 10 else -np.inf


@numba.njit(cache=True)
def _sums_of_three(raw, blocked, low, high, x, y, total, count):
    """Sums and numbers of the usable pixels among three neighbours in a row, around the
    pixels of the 5 x 3 (slow, fast) neighbourhood."""
    for j in range(5):
        for i in range(3):
            total[j, i] = 0.0
            count[j, i] = 0
        v = y + j - 2
        if not 0 <= v < raw.shape[0]:
            continue
        for i in range(5):
            u = x + i - 2
            if not 0 <= u < raw.shape[1] or blocked[v, u]:
                continue
            value = raw[v, u]
            if value < low or value > high:
                continue
            for k in range(max(0, i - 2), min(3, i + 1)):
                total[j, k] += value
                count[j, k] += 1


@numba.njit(cache=True)
def _lowest(threshold, ring, y, begin, end):
    """The smallest threshold of the rings in a run of pixels."""
    a, b, c = ring[y, begin], ring[y, (begin + end) // 2], ring[y, end - 1]
    lowest = threshold[a]
    for r in range(min(a, b, c), max(a, b, c) + 1):
        lowest = min(lowest, threshold[r])
    return lowest


@numba.njit(cache=True)
def _find_regions(raw, blocked, low, high, ring, pixel_threshold, threshold, edge, boxes):
    """Bounding boxes (fast: first, last + 1; slow: first, last + 1) of groups' centres in
    bright regions; returns their number, which may exceed the rows of boxes."""
    n_slow, n_fast = raw.shape
    done = np.zeros((n_slow, n_fast), np.bool_)
    stack = np.empty(((2 * REACH + 1) ** 2, 2), np.int64)
    frame = np.empty((2 * FRAME[1] + 1) ** 2, np.float64)
    total = np.empty((5, 3))
    count = np.empty((5, 3), np.int64)
    found = 0
    for y in range(n_slow):
        for begin in range(0, n_fast, RUN):
            end = min(begin + RUN, n_fast)
            # Most runs hold nothing bright, which the processor sees many pixels at a time
            largest = raw[y, begin]
            for x in range(begin, end):
                largest = max(largest, raw[y, x])
            if largest <= _lowest(pixel_threshold, ring, y, begin, end):
                continue
            for x in range(begin, end):
                value = raw[y, x]
                # One pixel of a group is no darker than its mean
                if value <= pixel_threshold[ring[y, x]] or value > high or blocked[y, x]:
                    continue
                _sums_of_three(raw, blocked, low, high, x, y, total, count)
                for k in range(9):
                    v, u = y + k // 3 - 1, x + k % 3 - 1
                    if not (0 <= v < n_slow and 0 <= u < n_fast) or done[v, u]:
                        continue
                    j, i = k // 3, k % 3
                    number = count[j, i] + count[j + 1, i] + count[j + 2, i]
                    mean = (total[j, i] + total[j + 1, i] + total[j + 2, i]) / max(number, 1)
                    if number < ENOUGH or mean <= threshold[ring[v, u]]:
                        continue
                    if mean <= CONTRAST * _median_around(raw, blocked, low, high, u, v, frame):
                        continue
                    # Grow the region over neighbours above the edge
                    done[v, u] = True
                    stack[0, 0], stack[0, 1] = u, v
                    size, head = 1, 0
                    x0, x1, y0, y1 = u, u, v, v
                    while head < size:
                        a, b = stack[head, 0], stack[head, 1]
                        head += 1
                        x0, x1 = min(x0, a), max(x1, a)
                        y0, y1 = min(y0, b), max(y1, b)
                        for j in range(max(0, b - 1, v - REACH), min(n_slow, b + 2, v + REACH + 1)):
                            for i in range(max(0, a - 1, u - REACH), min(n_fast, a + 2, u + REACH + 1)):
                                if done[j, i]:
                                    continue
                                mean, number = _group_mean(raw, blocked, low, high, i, j)
                                if number >= ENOUGH and mean > edge[ring[j, i]]:
                                    done[j, i] = True
                                    stack[size, 0], stack[size, 1] = i, j
                                    size += 1
                    if found < boxes.shape[0]:
                        boxes[found, 0], boxes[found, 1] = x0, x1 + 1
                        boxes[found, 2], boxes[found, 3] = y0, y1 + 1
                    found += 1
    return found


def bright_regions(
    pixels, blocked, ring, samples, low: float, high: float, gain: float = 1.0
) -> np.ndarray:
    """Bright regions of one panel.

    Args:
        pixels, blocked, ring: (n_slow, n_fast) values, pixels not to look at, resolution rings
        samples: (K,) flat indices of the pixels that stand for their rings
        low, high: trusted values
        gain: ADU of a photon

    Returns:
        (N, 4) bounding boxes of the centres of groups: fast first, last + 1, slow first, last + 1
    """
    value = np.empty(len(samples), np.float32)
    of_ring = np.empty(len(samples), np.int16)
    n = _sample_groups(pixels, blocked, low, high, ring, samples, value, of_ring)
    mean, sigma, _ = clipped_statistics(value[:n], of_ring[:n])
    # Where most groups are empty: counting noise of the mean
    sigma = np.maximum(sigma, np.sqrt(np.maximum(mean, 1e-3 * gain) * gain / 9))
    threshold = mean + np.maximum(BRIGHT * sigma, CHANCE * sigma + SKEWNESS * gain)
    edge = mean + EDGE * sigma
    pixel_threshold = threshold
    if np.issubdtype(pixels.dtype, np.integer):
        # Integers above a number are those above its integer part, and faster to compare
        pixel_threshold = np.minimum(threshold, np.iinfo(pixels.dtype).max // 2).astype(pixels.dtype)
    arguments = (pixels, blocked, low, high, ring, pixel_threshold, threshold, edge)
    boxes = np.empty((1000, 4), np.int64)
    found = _find_regions(*arguments, boxes)
    if found > len(boxes):
        boxes = np.empty((found, 4), np.int64)
        _find_regions(*arguments, boxes)
    return boxes[:found]


@dataclass
class OtherSpots:
    """Looks for bright groups on one image after the other.

    Attributes:
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel
        padding: pixels added to the semi-axes of regions
    """

    good: list[np.ndarray]
    padding: float
    _rings: RingCache = field(default_factory=lambda: RingCache(SAMPLES))

    def __post_init__(self):
        self._shape = np.array([mask.shape for mask in self.good], dtype=np.int64)
        self._start = np.concatenate([[0], np.cumsum(self._shape.prod(axis=1))])
        self._bad = np.concatenate([~mask.ravel() for mask in self.good])

    def find(self, group: Sequence[Still], rows: Sequence[SpotRows]) -> SpotRows:
        """Rows (ellipses around regions, Miller index 0) of what is bright on an image
        besides the spots of its lattices.

        Args:
            group: the stills on the image; rows: their predicted spots

        Raises:
            ValueError: the image can't be read.
        """
        still = group[0]
        raw = read_raw(still.imageset, still.image_index)
        check_shape(raw, still)
        blocked = self._bad.copy()
        for spots in rows:
            paint_ellipses(
                spots.panel, spots.centre, spots.bbox, spots.ellipse, self._shape, self._start, blocked
            )
        rings = self._rings.of(still.detector, still.beam)
        found = []
        for number, pixels in enumerate(raw):
            panel = still.detector[number]
            first, last = self._start[number : number + 2]
            boxes = bright_regions(
                pixels, blocked[first:last].reshape(pixels.shape), rings.number[number],
                rings.samples[number], *trusted_bounds(panel), panel.get_gain() or 1.0,
            )
            if len(boxes):
                found.append(_rows(number, boxes, self.padding))
        return SpotRows.joined(found)


def _rows(panel: int, boxes: np.ndarray, padding: float) -> SpotRows:
    n = len(boxes)
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
