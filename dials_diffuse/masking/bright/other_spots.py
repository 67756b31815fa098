"""Bright groups of pixels that no known lattice explains: split crystals, salt, ice, cosmic rays.

Groups are 3 x 3 pixels, at least five of them usable and outside of the Bragg mask. A group is a
spot if its mean is far above both

- the groups of its resolution ring, which have mean m and standard deviation s. The threshold
  m + max(9 s, 6.5 s + 0.76 g) is further out than photons get by chance once in 1e10 groups. Its
  second part is the quantile of a Poisson distribution to the order of its skewness (Cornish &
  Fisher 1938), z s + (z^2 - 1) g / (6 * 9) for the mean of nine pixels of gain g and z = 6.5;
- the scattering around it: twice the median of the pixels 4 to 8 px away. Diffuse scattering,
  halos of Bragg nodes included, is smoother than that.

A region continues from there to where it has fallen to m + 4 s. Thresholds that high do not act on
diffuse scattering, so that masking by them does not bias the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numba
import numpy as np

from dials_diffuse.adapters.images import check_shape, read_raw, trusted_bounds
from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.bright.features import CrystalFeatures, RegionCounts
from dials_diffuse.masking.bright.groups import (
    ENOUGH,
    PanelPixels,
    group_mean,
    group_row,
    sum_groups,
)
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
# A region reaches no further than this from where it was found; longer ones are several
REACH = 8
# Groups of a ring from which its statistics are taken
SAMPLES = 500
# Groups closer to the threshold than this part of it are compared in double precision
ROUNDING = 1e-5


@numba.njit(cache=True)
def _sample_groups(raw, blocked, bounds, ring, samples):
    """Means of the groups around the samples that have enough pixels, float32, and their rings."""
    pixels = PanelPixels(raw, blocked, bounds)
    value, of_ring = np.empty(samples.size, np.float32), np.empty(samples.size, np.uint8)
    n = 0
    for k in range(samples.size):
        y, x = divmod(samples[k], raw.shape[1])
        mean, number = group_mean(pixels, x, y)
        if number >= ENOUGH:
            value[n], of_ring[n] = mean, ring[y, x]
            n += 1
    return value[:n], of_ring[:n]


@numba.njit(cache=True)
def _stands_out(pixels, x, y, limit):
    """Whether the median of the usable pixels in a square frame around a pixel is below the limit.

    True if fewer than ten can be used.
    """
    raw, blocked = pixels.raw, pixels.blocked
    low, high = pixels.bounds[0], pixels.bounds[1]
    inner, outer = FRAME
    n = darker = 0
    for j in range(max(0, y - outer), min(raw.shape[0], y + outer + 1)):
        for i in range(max(0, x - outer), min(raw.shape[1], x + outer + 1)):
            value = raw[j, i]
            usable = (
                (max(abs(i - x), abs(j - y)) >= inner)
                & (not blocked[j, i])
                & (low <= value)
                & (value <= high)
            )
            n += usable
            darker += usable & (value < limit)
    return n < 10 or 2 * darker > n


@numba.njit(cache=True)
def _grow_region(pixels, ring, edge, x, y, done):
    """Bounding box of the groups around (x, y) that are above the edge; marks them in done.

    Returns:
        (fast first, last + 1, slow first, last + 1), list of (x, y) of the groups
    """
    n_slow, n_fast = ring.shape
    done[y, x] = True
    queue = [(x, y)]
    x0, x1, y0, y1 = x, x, y, y
    for a, b in queue:
        x0, x1 = min(x0, a), max(x1, a)
        y0, y1 = min(y0, b), max(y1, b)
        for j in range(max(0, b - 1, y - REACH), min(n_slow, b + 2, y + REACH + 1)):
            for i in range(max(0, a - 1, x - REACH), min(n_fast, a + 2, x + REACH + 1)):
                if done[j, i]:
                    continue
                mean, number = group_mean(pixels, i, j)
                if number >= ENOUGH and mean > edge[ring[j, i]]:
                    done[j, i] = True
                    queue.append((i, j))
    return (x0, x1 + 1, y0, y1 + 1), queue


@numba.njit(cache=True)
def _compare(row, ring, quick, above):
    """Mark in above the groups of a row that have enough pixels and a mean above their limit."""
    for x in range(np.uint64(ring.size)):
        enough = row.count[x] >= ENOUGH
        above[x] = enough & (row.total[x] > quick[ring[x]] * row.count[x])


@numba.njit(cache=True)
def _find_regions(raw, blocked, bounds, ring, seed, quick, edge):
    """Bounding boxes of the centres of groups in bright regions, and these groups; see _grow_region.

    Args:
        raw, blocked, bounds: see PanelPixels
        ring: (n_slow, n_fast) ring of each pixel
        seed: (N_RINGS,) a group may be a spot if its mean is above it
        quick: (N_RINGS,) float32, a little less
        edge: (N_RINGS,) groups next to a spot belong to it if their mean is above it
    """
    pixels = PanelPixels(raw, blocked, bounds)
    n_slow, n_fast = raw.shape
    row = group_row(n_fast, np.float32)
    done = np.zeros((n_slow, n_fast), np.bool_)
    above = np.zeros((n_fast + 7) // 8 * 8, np.bool_)
    eight = above.view(np.uint64)
    boxes, groups = [], []
    for y in range(n_slow):
        sum_groups(pixels, y, row)
        _compare(row, ring[y], quick, above)
        for k in range(eight.size):
            # Eight groups at a time, nearly all of them dark: 4 of 20 ms an image less
            if eight[k] == 0:
                continue
            for x in range(8 * k, 8 * k + 8):
                if not above[x] or done[y, x]:
                    continue
                mean, _ = group_mean(pixels, x, y)
                if mean > seed[ring[y, x]] and _stands_out(pixels, x, y, mean / CONTRAST):
                    box, members = _grow_region(pixels, ring, edge, x, y, done)
                    for a, b in members:
                        groups.append((len(boxes), a, b))
                    boxes.append(box)
    return boxes, groups


class BrightRegions(NamedTuple):
    """Bright regions of a panel.

    Attributes:
        boxes: (N, 4) int64, a box for each region around the central pixels of its groups: first and
            last + 1 along fast, first and last + 1 along slow. The groups reach one pixel further
        groups: (M, 3) int64: number of the region, fast, slow of the central pixel of each group
    """

    boxes: np.ndarray
    groups: np.ndarray


def bright_regions(
    raw, blocked, rings: PanelRings, low: float, high: float, gain: float = 1.0
) -> BrightRegions:
    """Find regions of one panel that are far brighter than their surroundings.

    A group is 3 x 3 pixels, at least five of them usable. The module's docstring says which groups are
    bright; neighbouring groups join to a region.

    Args:
        raw: (n_slow, n_fast) values, ADU
        blocked: (n_slow, n_fast) bool, True where a pixel is not used: bad, or under a known spot
        rings: resolution rings of the panel
        low, high: trusted range in ADU, both inclusive; pixels beyond it are not used
        gain: ADU of a photon
    """
    bounds = np.array([low, high])
    if np.issubdtype(raw.dtype, np.integer):
        # Whole numbers are compared in less time
        info = np.iinfo(raw.dtype)
        bounds = np.clip([np.ceil(low), np.floor(high)], info.min, info.max).astype(raw.dtype)
    pixels = raw, blocked, bounds, rings.number
    mean, sigma, _ = clipped_statistics(*_sample_groups(*pixels, rings.samples))
    # Where most groups are empty: counting noise of the mean
    sigma = np.maximum(sigma, np.sqrt(np.maximum(mean, 1e-3 * gain) * gain / 9))
    seed = mean + np.maximum(BRIGHT * sigma, CHANCE * sigma + SKEWNESS * gain)
    quick = np.minimum(seed * (1 - ROUNDING), seed * (1 + ROUNDING)).astype(np.float32)
    boxes, groups = _find_regions(*pixels, seed, quick, mean + EDGE * sigma)
    return BrightRegions(
        np.array(boxes, dtype=np.int64).reshape(-1, 4),
        np.array(groups, dtype=np.int64).reshape(-1, 3),
    )


class OthersOfImage(NamedTuple):
    """What is bright in an image besides the spots of its lattices.

    Attributes:
        rows: ellipses around the regions that are masked, Miller index 0
        counts: numbers of regions
    """

    rows: SpotRows
    counts: RegionCounts


class OtherSpots:
    """Finds bright groups on one image after the other.

    Args:
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel
        padding: pixels added to the semi-axes of regions
        features: tells which regions are the crystal's; None: none is
    """

    def __init__(
        self, good: Sequence[np.ndarray], padding: float, features: CrystalFeatures | None = None
    ):
        self._panels = FlatPanels([mask.shape for mask in good])
        self._bad = np.concatenate([~mask.ravel() for mask in good])
        self._padding, self._features = padding, features
        self._rings = RingCache(SAMPLES)

    def find(self, lattices: Sequence[Still], rows: Iterable[SpotRows]) -> OthersOfImage:
        """Read an image and find what is bright besides the spots of its lattices.

        Args:
            lattices: the stills on the image
            rows: their predicted spots

        Raises:
            ValueError: the image can't be read.
        """
        raw = read_image(lattices[0])
        return self.find_in(raw, lattices, self.painted(rows))

    def painted(self, rows: Iterable[SpotRows], flat: np.ndarray | None = None) -> np.ndarray:
        """The pixels under rows, a flat mask; see FlatPanels.paint."""
        return self._panels.paint(rows, flat)

    def of_panels(self, flat: np.ndarray) -> list[np.ndarray]:
        """A flat mask as an (n_slow, n_fast) array a panel."""
        return self._panels.split(flat)

    def blocked(self, known: np.ndarray) -> list[np.ndarray]:
        """Pixels that are not looked at: bad or under known spots, an (n_slow, n_fast) array a panel."""
        return self._panels.split(self._bad | known)

    def regions_in(self, raw, still: Still, blocked) -> list[BrightRegions]:
        """The bright regions of each panel.

        Args:
            raw: an (n_slow, n_fast) array a panel
            still: one of those on the image
            blocked: see above
        """
        rings = self._rings.get(still.detector, still.beam)
        return [
            bright_regions(
                raw[number],
                blocked[number],
                rings[number],
                *trusted_bounds(panel),
                panel.get_gain() or 1.0,
            )
            for number, panel in enumerate(still.detector)
        ]

    def find_in(
        self, raw: Sequence[np.ndarray], lattices: Sequence[Still], known: np.ndarray
    ) -> OthersOfImage:
        """Find what is bright in an image besides pixels that are known.

        Args:
            raw: an (n_slow, n_fast) array a panel
            lattices: the stills on the image
            known: pixels under spots, see painted
        """
        rows, counts = [], RegionCounts()
        found = self.regions_in(raw, lattices[0], self.blocked(known))
        for number, (boxes, groups) in enumerate(found):
            if not len(boxes):
                continue
            kept = np.zeros(len(boxes), bool)
            near = kept
            if self._features is not None:
                kept, near = self._features.judge(lattices, number, groups, len(boxes))
            counts += RegionCounts(len(boxes), int(kept.sum()), int((near & ~kept).sum()))
            if not kept.all():
                rows.append(rows_around(boxes[~kept], number, self._padding))
        return OthersOfImage(SpotRows.joined(rows), counts)


def read_image(still: Still) -> list[np.ndarray]:
    """The pixels of a still's image, an (n_slow, n_fast) array a panel.

    Raises:
        ValueError: it can't be read, or has other panels than the detector.
    """
    raw = read_raw(still.imageset, still.image_index)
    check_shape(raw, still)
    return raw


def rows_around(boxes: np.ndarray, panel: int, padding: float) -> SpotRows:
    """Ellipses through the corners of boxes.

    Args:
        boxes: (N, 4) see bright_regions
        panel: on which they are
        padding: pixels added to the semi-axes
    """
    n = len(boxes)
    first, last = boxes[:, ::2], boxes[:, 1::2]
    centre = (first + last) / 2
    # One more, as the corners are centres of groups
    half = (last - first) / np.sqrt(2) + 1 + padding
    bbox = np.stack([np.floor(centre - half), np.ceil(centre + half)], axis=2).reshape(n, 4)
    ellipse = np.stack([1 / half[:, 0] ** 2, np.zeros(n), 1 / half[:, 1] ** 2], axis=1)
    panels, hkl = np.full(n, panel, np.int64), np.zeros((n, 3), np.int32)
    return SpotRows(panels, hkl, centre, bbox.astype(np.int32), ellipse)
