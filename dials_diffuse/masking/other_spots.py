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
from dials_diffuse.masking.kernels import FlatPanels
from dials_diffuse.masking.prediction import SpotRows
from dials_diffuse.masking.rings import PanelRings, RingCache, clipped_statistics
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
SAMPLES = 500


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
    """Means of the groups around the samples (flat indices, ascending), and their rings; returns their number."""
    n_slow, n_fast = raw.shape
    flat, flat_blocked, flat_ring = raw.reshape(raw.size), blocked.reshape(raw.size), ring.reshape(raw.size)
    width, one = np.uint64(n_fast), np.uint64(1)
    n = y = start = 0
    for k in range(samples.shape[0]):
        at = samples[k]
        while at >= start + n_fast:
            y += 1
            start += n_fast
        if 0 < y < n_slow - 1 and 0 < at - start < n_fast - 1:
            # Without a branch that can't be foretold
            number, total = 0, raw.dtype.type(0) * 1
            for j in range(np.uint64(3)):
                first = np.uint64(at) - width - one + j * width
                for i in range(np.uint64(3)):
                    pixel = flat[first + i]
                    good = (not flat_blocked[first + i]) & (low <= pixel) & (pixel <= high)
                    number += good
                    total += pixel if good else raw.dtype.type(0)
            mean = total / max(number, 1)
        else:
            mean, number = _group_mean(raw, blocked, low, high, at - start, y)
        if number >= ENOUGH:
            value[n] = mean
            of_ring[n] = flat_ring[at]
            n += 1
    return n


@numba.njit(cache=True)
def _stands_out(raw, blocked, low, high, x, y, limit):
    """True unless half of the usable pixels in a square frame around a pixel reach the limit: their median is below
    it; and True without ten of them."""
    inner, outer = FRAME
    n = darker = 0
    for j in range(max(0, y - outer), min(raw.shape[0], y + outer + 1)):
        for i in range(max(0, x - outer), min(raw.shape[1], x + outer + 1)):
            value = raw[j, i]
            good = (max(abs(i - x), abs(j - y)) >= inner) & (not blocked[j, i]) & (low <= value) & (value <= high)
            n += good
            darker += good & (value < limit)
    return n < 10 or 2 * darker > n


@numba.njit(cache=True)
def _lowest_thresholds(threshold, rings_of_runs, lowest, of_pixels):
    """The smallest threshold of the rings in each run of a row.

    Args:
        rings_of_runs: (n, 2) first and last ring
        lowest: (n,), of_pixels: (n, RUN), filled
    """
    for run in range(np.uint64(lowest.size)):
        first, last = rings_of_runs[run, 0], rings_of_runs[run, 1]
        least = threshold[first]
        for ring in range(first + 1, last + 1):
            least = min(least, threshold[ring])
        lowest[run] = least
        for x in range(np.uint64(RUN)):
            of_pixels[run, x] = least


@numba.njit(cache=True)
def _sum_across(raw, blocked, low, high, most, lowest, values, sums):
    """Sums over three neighbours in a row of what is usable; what is not counts as the lowest threshold there.

    So the sum over a group is above nine times the lowest threshold around if the mean of its usable pixels is. In
    loops of one kind of work each, the processor looks at many pixels at a time.

    Args:
        raw, blocked: (n_fast,) of the row
        most: what larger values count as
        lowest: (n,) of pixels, n at least n_fast
        values: (n + 2,), filled with the pixels, from the second on
        sums: (n,), filled
    """
    one, two, n_fast = np.uint64(1), np.uint64(2), np.uint64(raw.size)
    for x in range(n_fast):
        value = raw[x]
        # written so that NaN is bad
        bad = blocked[x] | (not ((value >= low) & (value <= high)))
        value = value if value < most else most
        values[x + one] = lowest[x] if bad else value
    values[0] = lowest[0]
    values[raw.size + 1 :] = lowest[-1]
    for x in range(np.uint64(sums.size)):
        sums[x] = values[x] + values[x + one] + values[x + two]


@numba.njit(cache=True)
def _bright_runs(above, middle, below, lowest, groups, largest, runs, limits):
    """The runs of a row with a group above nine times the lowest threshold around; returns their number.

    Args:
        above, middle, below: (n RUN,) sums of _sum_across for the rows of the groups
        lowest: (3, n) thresholds of these rows
        groups: (n, RUN), filled with the sums over the groups; largest: (n,), room
        runs, limits: (n,), filled with the numbers of the runs and with what their groups were compared to
    """
    flat = groups.reshape(groups.size)
    for x in range(flat.size):
        flat[x] = above[x] + middle[x] + below[x]
    for run in range(largest.size):
        most = groups[run, 0]
        for x in range(RUN):
            group = groups[run, np.uint64(x)]
            most = group if group > most else most
        largest[run] = most
    n = 0
    for run in range(largest.size):
        # Of what is not usable, groups at the ends of the run have some of the next run
        limit = lowest[1, run]
        for near in range(max(run - 1, 0), min(run + 2, largest.size)):
            limit = min(limit, lowest[0, near], lowest[1, near], lowest[2, near])
        if largest[run] > 9 * limit:
            runs[n], limits[n] = run, 9 * limit
            n += 1
    return n


@numba.njit(cache=True)
def _grow_region(raw, blocked, low, high, ring, edge, x, y, done, stack):
    """Bounding box (fast first, last + 1, slow first, last + 1) of the groups around (x, y) that are above the edge."""
    n_slow, n_fast = raw.shape
    done[y, x] = True
    stack[0, 0], stack[0, 1] = x, y
    size, head = 1, 0
    x0, x1, y0, y1 = x, x, y, y
    while head < size:
        a, b = stack[head, 0], stack[head, 1]
        head += 1
        x0, x1 = min(x0, a), max(x1, a)
        y0, y1 = min(y0, b), max(y1, b)
        for j in range(max(0, b - 1, y - REACH), min(n_slow, b + 2, y + REACH + 1)):
            for i in range(max(0, a - 1, x - REACH), min(n_fast, a + 2, x + REACH + 1)):
                if done[j, i]:
                    continue
                mean, number = _group_mean(raw, blocked, low, high, i, j)
                if number >= ENOUGH and mean > edge[ring[j, i]]:
                    done[j, i] = True
                    stack[size, 0], stack[size, 1] = i, j
                    size += 1
    return x0, x1 + 1, y0, y1 + 1


@numba.njit(cache=True)
def _find_regions(
    raw, blocked, low, high, most, ring, rings_of_runs, quick_threshold, threshold, edge, boxes
):  # fmt: skip
    """Bounding boxes (fast: first, last + 1; slow: first, last + 1) of groups' centres in
    bright regions; returns their number, which may exceed the rows of boxes.

    Args:
        most: what larger pixels count as when groups are looked over
        rings_of_runs: (n_slow, n, 2) first and last ring in each run of RUN pixels
        quick_threshold: no larger than threshold and below most, of the type of raw
    """
    n_slow, n_fast = raw.shape
    done = np.zeros((n_slow, n_fast), np.bool_)
    stack = np.empty(((2 * REACH + 1) ** 2, 2), np.int64)
    n_runs = rings_of_runs.shape[1]
    lowest, largest = np.empty((3, n_runs), raw.dtype), np.empty(n_runs, raw.dtype)
    of_pixels, values = np.empty((n_runs, RUN), raw.dtype), np.empty(n_runs * RUN + 2, raw.dtype)
    sums, groups = np.empty((3, n_runs * RUN), raw.dtype), np.empty((n_runs, RUN), raw.dtype)
    runs, limits = np.empty(n_runs, np.int64), np.empty(n_runs, raw.dtype)
    found = 0
    # Groups are centred on the row before the one that is read; beyond the edges nothing is usable
    for y in range(-1, n_slow + 1):
        now, before, earlier = (y + 3) % 3, (y + 2) % 3, (y + 1) % 3
        if 0 <= y < n_slow:
            _lowest_thresholds(quick_threshold, rings_of_runs[y], lowest[now], of_pixels)
            _sum_across(
                raw[y], blocked[y], low, high, most, of_pixels.reshape(n_runs * RUN), values, sums[now]
            )
        else:
            beside = min(max(y, 0), n_slow - 1)
            _lowest_thresholds(quick_threshold, rings_of_runs[beside], lowest[now], of_pixels)
            sums[now] = 3 * of_pixels.reshape(n_runs * RUN)
        v = y - 1
        if v < 0:
            continue
        n_bright = _bright_runs(
            sums[earlier], sums[before], sums[now], lowest, groups, largest, runs, limits
        )
        for k in range(n_bright):
            run = runs[k]
            for u in range(run * RUN, min((run + 1) * RUN, n_fast)):
                if groups[run, u - run * RUN] <= limits[k] or done[v, u]:
                    continue
                mean, number = _group_mean(raw, blocked, low, high, u, v)
                if number < ENOUGH or mean <= threshold[ring[v, u]]:
                    continue
                if not _stands_out(raw, blocked, low, high, u, v, mean / CONTRAST):
                    continue
                box = _grow_region(raw, blocked, low, high, ring, edge, u, v, done, stack)
                if found < boxes.shape[0]:
                    for axis in range(4):
                        boxes[found, axis] = box[axis]
                found += 1
    return found


def bright_regions(
    pixels, blocked, rings: PanelRings, low: float, high: float, gain: float = 1.0
) -> np.ndarray:
    """Bright regions of one panel.

    Args:
        pixels, blocked: (n_slow, n_fast) values, pixels not to look at
        rings: resolution rings of the panel
        low, high: trusted values
        gain: ADU of a photon

    Returns:
        (N, 4) bounding boxes of the centres of groups: fast first, last + 1, slow first, last + 1
    """
    whole = np.issubdtype(pixels.dtype, np.integer)
    if whole:
        # Comparisons of whole numbers are the faster ones
        smallest, largest = np.iinfo(pixels.dtype).min, np.iinfo(pixels.dtype).max
        low = pixels.dtype.type(np.clip(np.ceil(low), smallest, largest))
        high = pixels.dtype.type(np.clip(np.floor(high), smallest, largest))
    value = np.empty(len(rings.samples), np.float32)
    of_ring = np.empty(len(rings.samples), np.int16)
    n = _sample_groups(pixels, blocked, low, high, rings.number, rings.samples, value, of_ring)
    mean, sigma, _ = clipped_statistics(value[:n], of_ring[:n])
    # Where most groups are empty: counting noise of the mean
    sigma = np.maximum(sigma, np.sqrt(np.maximum(mean, 1e-3 * gain) * gain / 9))
    threshold = mean + np.maximum(BRIGHT * sigma, CHANCE * sigma + SKEWNESS * gain)
    edge = mean + EDGE * sigma
    # Nine of them are a number of that type too
    most = pixels.dtype.type(2**27 if whole else 1e30)
    quick_threshold = np.minimum(np.floor(threshold) if whole else threshold, most - 1).astype(pixels.dtype)
    arguments = (
        pixels, blocked, low, high, most, rings.number, rings.runs(RUN), quick_threshold, threshold, edge
    )  # fmt: skip
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
        self._pixels = FlatPanels([mask.shape for mask in self.good])
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
        return self.find_in(raw, still, self.painted(rows))

    def painted(self, rows: Sequence[SpotRows], flat: np.ndarray | None = None) -> np.ndarray:
        """The pixels under rows, those of all panels one after the other, bool.

        Args:
            flat: such pixels to add to, changed; None: new ones
        """
        flat = self._pixels.blank() if flat is None else flat
        for spots in rows:
            self._pixels.paint(flat, spots.panel, spots.centre, spots.bbox, spots.ellipse)
        return flat

    def of_panels(self, flat: np.ndarray) -> list[np.ndarray]:
        """Such pixels as an (n_slow, n_fast) array a panel"""
        return self._pixels.of_panels(flat)

    def find_in(self, raw: Sequence[np.ndarray], still: Still, known: np.ndarray) -> SpotRows:
        """Rows of what is bright among the pixels of an image, besides those that are known.

        Args:
            raw: an (n_slow, n_fast) array a panel
            still: one of those on the image
            known: pixels under spots, see painted
        """
        blocked = self.of_panels(self._bad | known)
        rings = self._rings.of(still.detector, still.beam)
        found = []
        for number, pixels in enumerate(raw):
            panel = still.detector[number]
            boxes = bright_regions(
                pixels, blocked[number], rings.panels[number], *trusted_bounds(panel), panel.get_gain() or 1.0
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
