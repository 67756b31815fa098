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

from dials_diffuse.adapters.images import check_shape, read_raw, trusted_bounds
from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.bright.rings import PanelRings, RingCache, clipped_statistics
from dials_diffuse.masking.spots.flat_panels import FlatPanels
from dials_diffuse.masking.spots.rows import SpotRows

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
# What larger pixels count as when groups are looked over: 16 times nine of them are a number of 32 bits
MOST = np.int32(2**23)
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
    flat, flat_blocked, flat_ring = (
        raw.reshape(raw.size),
        blocked.reshape(raw.size),
        ring.reshape(raw.size),
    )
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
            good = (
                (max(abs(i - x), abs(j - y)) >= inner)
                & (not blocked[j, i])
                & (low <= value)
                & (value <= high)
            )
            n += good
            darker += good & (value < limit)
    return n < 10 or 2 * darker > n


@numba.njit(cache=True)
def _whole_parts(value, scale):
    """A pixel as a whole number, no smaller than value times scale but at most MOST; scale: None for whole ones."""
    if scale is not None:
        value = max(np.ceil(value * scale), -float(MOST))
    return np.int32(value if value < MOST else MOST)


@numba.njit(cache=True)
def _sum_across(raw, blocked, low, high, scale, packed, sums):
    """Sums over three neighbours in a row: 16 for each whole part of a usable pixel, and 1 for the pixel.

    In loops of one kind of work each, and on small numbers, so that the processor looks at many pixels at a time.

    Args:
        raw, blocked: (n_fast,) of the row
        scale: see _whole_parts
        packed: (n + 2,), n at least n_fast; filled from the second on
        sums: (n,), filled
    """
    one, two, n_fast = np.uint64(1), np.uint64(2), np.uint64(raw.size)
    for x in range(n_fast):
        value = raw[x]
        # written so that NaN is bad
        bad = blocked[x] | (not ((value >= low) & (value <= high)))
        packed[x + one] = 0 if bad else 16 * _whole_parts(value, scale) + 1
    for x in range(np.uint64(sums.size)):
        sums[x] = packed[x] + packed[x + one] + packed[x + two]


@numba.njit(cache=True)
def _lowest_thresholds(threshold, rings_of_runs, of_pixels):
    """The smallest threshold of the rings in each run of a row.

    Args:
        threshold: (N_RINGS,) of the rings
        rings_of_runs: (n, 2) first and last ring
        of_pixels: (n, RUN), filled
    """
    for run in range(np.uint64(of_pixels.shape[0])):
        first, last = rings_of_runs[run, 0], rings_of_runs[run, 1]
        least = threshold[first]
        for ring in range(first + 1, last + 1):
            least = min(least, threshold[ring])
        for x in range(np.uint64(RUN)):
            of_pixels[run, x] = least


@numba.njit(cache=True)
def _bright_runs(above, middle, below, limits, over, runs):
    """The runs of a row with a group whose mean is above the limits; returns their number.

    Args:
        above, middle, below: (n RUN,) sums of _sum_across for the rows of the groups
        limits: (n RUN,) int32, in sixteenths of a part
        over: (n, RUN) int32, filled with what the sums over the groups have beyond the limits
        runs: (n,), filled with the numbers of the runs
    """
    flat = over.reshape(over.size)
    for x in range(np.uint64(flat.size)):
        total = np.int32(above[x] + middle[x] + below[x])
        number = np.int32(total & 15)
        # 16 sum - limit n, of 16 sum + n
        beyond = np.int32(total - np.int32(np.int32(limits[x] + 1) * number))
        flat[x] = beyond if number >= np.int32(ENOUGH) else np.int32(0)
    n = 0
    for run in range(np.uint64(runs.size)):
        largest = np.int32(0)
        for x in range(np.uint64(RUN)):
            beyond = over[run, x]
            largest = beyond if beyond > largest else largest
        if largest > 0:
            runs[n] = run
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
    raw, blocked, low, high, scale, ring, rings_of_runs, quick_threshold, threshold, edge, boxes
):
    """Bounding boxes (fast: first, last + 1; slow: first, last + 1) of groups' centres in
    bright regions; returns their number, which may exceed the rows of boxes.

    Args:
        scale: parts that pixels are counted in when groups are looked over, see _whole_parts
        rings_of_runs: (n_slow, n, 2) first and last ring in each run of RUN pixels
        quick_threshold: int32, sixteenths of parts, no larger than threshold and 16 times MOST
    """
    n_slow, n_fast = raw.shape
    done = np.zeros((n_slow, n_fast), np.bool_)
    stack = np.empty(((2 * REACH + 1) ** 2, 2), np.int64)
    n_runs = rings_of_runs.shape[1]
    # Beyond the edges nothing is usable
    packed, sums = np.zeros(n_runs * RUN + 2, np.int32), np.zeros((3, n_runs * RUN), np.int32)
    limits, over = np.empty((n_runs, RUN), np.int32), np.empty((n_runs, RUN), np.int32)
    runs = np.empty(n_runs, np.int64)
    found = 0
    # Groups are centred on the row before the one that is read
    for y in range(n_slow + 1):
        now, before, earlier = y % 3, (y + 2) % 3, (y + 1) % 3
        if y < n_slow:
            _sum_across(raw[y], blocked[y], low, high, scale, packed, sums[now])
        else:
            sums[now] = 0
        v = y - 1
        if v < 0:
            continue
        _lowest_thresholds(quick_threshold, rings_of_runs[v], limits)
        n_bright = _bright_runs(
            sums[earlier], sums[before], sums[now], limits.reshape(n_runs * RUN), over, runs
        )
        for k in range(n_bright):
            run = runs[k]
            for u in range(run * RUN, min((run + 1) * RUN, n_fast)):
                if over[run, u - run * RUN] <= 0 or done[v, u]:
                    continue
                mean, _ = _group_mean(raw, blocked, low, high, u, v)
                if mean <= threshold[ring[v, u]]:
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
    scale = None if whole else 16.0 / gain
    quick_threshold = np.floor(16 * np.minimum(threshold * (scale or 1.0), MOST)).astype(np.int32)
    arguments = (
        pixels,
        blocked,
        low,
        high,
        scale,
        rings.number,
        rings.runs(RUN),
        quick_threshold,
        threshold,
        edge,
    )
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
        return self._pixels.paint(rows, flat)

    def of_panels(self, flat: np.ndarray) -> list[np.ndarray]:
        """Such pixels as an (n_slow, n_fast) array a panel"""
        return self._pixels.split(flat)

    def find_in(self, raw: Sequence[np.ndarray], still: Still, known: np.ndarray) -> SpotRows:
        """Rows of what is bright among the pixels of an image, besides those that are known.

        Args:
            raw: an (n_slow, n_fast) array a panel
            still: one of those on the image
            known: pixels under spots, see painted
        """
        blocked = self.of_panels(self._bad | known)
        rings = self._rings.get(still.detector, still.beam)
        found = []
        for number, pixels in enumerate(raw):
            panel = still.detector[number]
            boxes = bright_regions(
                pixels,
                blocked[number],
                rings.panels[number],
                *trusted_bounds(panel),
                panel.get_gain() or 1.0,
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
            np.floor(centre[:, 0] - half[:, 0]),
            np.ceil(centre[:, 0] + half[:, 0]),
            np.floor(centre[:, 1] - half[:, 1]),
            np.ceil(centre[:, 1] + half[:, 1]),
        ],
        axis=1,
    )
    ellipse = np.stack([1 / half[:, 0] ** 2, np.zeros(n), 1 / half[:, 1] ** 2], axis=1)
    return SpotRows(
        np.full(n, panel, np.int64),
        np.zeros((n, 3), np.int32),
        centre,
        bbox.astype(np.int32),
        ellipse,
    )
