"""How much Bragg scattering a mask leaves behind: bright groups of pixels at nodes.

A group is 3 x 3 pixels, of which at least five can be used. Its mean is compared with all
groups of its resolution ring on the panel: median and 1.4826 * median absolute deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.ndimage import label

from dials_diffuse.masking.bright.rings import N_RINGS

BRIGHT = 10.0
# Of the nine pixels of a group
ENOUGH = 5
# Groups within this distance of a predicted position belong to its node, pixels
REACH = 2.5


@dataclass
class BrightGroups:
    """Bright groups of an image.

    Attributes:
        number: connected groups brighter than 10 robust sigma that cover a node
        brightest: the largest of them, in robust sigma (0 without any)
        elsewhere: bright groups that cover no node
    """

    number: int
    brightest: float
    elsewhere: int


@numba.njit(cache=True)
def _group_means(pixels, use, ring, mean, first, rings):
    """Means of the 3 x 3 groups around all pixels, nan where fewer than ENOUGH can be used; and those that
    can, ring by ring.

    Args:
        mean: (n_slow, n_fast) float32, filled
        first: (N_RINGS + 1,) filled: where each ring begins in rings
        rings: (n_slow * n_fast,) float32, filled with the means of ring after ring
    """
    n_slow, n_fast = pixels.shape
    first[:] = 0
    total = np.empty(n_fast)
    number = np.empty(n_fast, np.int32)
    for y in range(n_slow):
        total[:] = 0.0
        number[:] = 0
        for v in range(max(0, y - 1), min(n_slow, y + 2)):
            for x in range(n_fast):
                if use[v, x]:
                    total[x] += pixels[v, x]
                    number[x] += 1
        for x in range(n_fast):
            n, sum_of_group = 0, 0.0
            for u in range(max(0, x - 1), min(n_fast, x + 2)):
                n += number[u]
                sum_of_group += total[u]
            if n < ENOUGH:
                mean[y, x] = np.nan
                continue
            mean[y, x] = sum_of_group / n
            first[ring[y, x] + 1] += 1
    for r in range(N_RINGS):
        first[r + 1] += first[r]
    place = first[:-1].copy()
    for y in range(n_slow):
        for x in range(n_fast):
            if not np.isnan(mean[y, x]):
                r = ring[y, x]
                rings[place[r]] = mean[y, x]
                place[r] += 1


@numba.njit(cache=True)
def _bright(mean, ring, median, sigma, significance, bright):
    """significance = (mean - median of the ring) / sigma, 0 where mean is nan; bright where it is above BRIGHT."""
    for y in range(mean.shape[0]):
        for x in range(mean.shape[1]):
            r = ring[y, x]
            value = np.float32(0.0) if np.isnan(mean[y, x]) else (mean[y, x] - median[r]) / sigma[r]
            significance[y, x] = value
            bright[y, x] = value > BRIGHT


def group_significance(pixels, use, ring) -> tuple[np.ndarray, np.ndarray]:
    """How far groups of 3 x 3 pixels are above what is usual in their ring.

    Returns:
        (mean of the group - median of its ring) / robust sigma of the ring, for groups around every pixel
        (n_slow, n_fast), 0 where fewer than ENOUGH pixels can be used; and where that is above BRIGHT
    """
    mean = np.empty(pixels.shape, np.float32)
    first = np.empty(N_RINGS + 1, np.int64)
    rings = np.empty(pixels.size, np.float32)
    _group_means(pixels, use, ring, mean, first, rings)
    median, sigma = np.zeros(N_RINGS, np.float32), np.full(N_RINGS, np.inf, np.float32)
    for number in range(N_RINGS):
        inside = rings[first[number] : first[number + 1]]
        if len(inside) < 50:
            continue
        median[number] = np.median(inside)
        sigma[number] = 1.4826 * np.median(np.abs(inside - median[number]))
        # Where most groups are empty the deviation is 0: counting noise of the mean instead
        sigma[number] = max(sigma[number], np.sqrt(max(inside.mean(), 1e-3) / 9))
    significance = np.empty(pixels.shape, np.float32)
    bright = np.empty(pixels.shape, bool)
    _bright(mean, ring, median, sigma, significance, bright)
    return significance, bright


def bright_groups(pixels, use, ring, centres) -> BrightGroups:
    """Bright groups of one panel.

    Args:
        pixels: (n_slow, n_fast) values
        use: pixels to look at
        ring: resolution ring of each
        centres: (N, 2) predicted positions of nodes, fast, slow
    """
    significance, above = group_significance(pixels, use, ring)
    labels, number = label(above, structure=np.ones((3, 3)))
    if number == 0:
        return BrightGroups(0, 0.0, 0)
    covered = np.zeros(number + 1, bool)
    n_slow, n_fast = pixels.shape
    steps = np.arange(-int(REACH), int(REACH) + 1)
    x0, y0 = np.floor(centres).astype(int).T
    for dy in steps:
        for dx in steps:
            if dx * dx + dy * dy > REACH**2:
                continue
            x, y = x0 + dx, y0 + dy
            inside = (x >= 0) & (y >= 0) & (x < n_fast) & (y < n_slow)
            covered[labels[y[inside], x[inside]]] = True
    covered[0] = False
    bright = significance[above][covered[labels[above]]]
    return BrightGroups(
        int(covered.sum()), float(bright.max()) if bright.size else 0.0, int(number - covered.sum())
    )
