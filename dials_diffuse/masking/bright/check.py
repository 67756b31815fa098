"""Count the bright groups of pixels that a mask leaves at nodes.

A group is 3 x 3 pixels, of which at least five can be used. Its mean is compared with all groups of
its resolution ring on the panel: median and 1.4826 * median absolute deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.ndimage import label

from dials_diffuse.masking.bright.groups import ENOUGH, PanelPixels, group_row, sum_groups
from dials_diffuse.masking.bright.rings import N_RINGS

BRIGHT = 10.0
# Groups within this distance of a predicted position belong to its node, pixels
REACH = 2.5
# A ring with fewer groups has no statistics
FEWEST_GROUPS = 50


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
def _group_means(raw, blocked, bounds):
    """Means of the groups around all pixels, float32, nan where fewer than ENOUGH can be used."""
    pixels, row = PanelPixels(raw, blocked, bounds), group_row(raw.shape[1], np.float64)
    mean = np.full(raw.shape, np.float32(np.nan))
    for y in range(mean.shape[0]):
        sum_groups(pixels, y, row)
        for x in range(mean.shape[1]):
            if row.count[x] >= ENOUGH:
                mean[y, x] = row.total[x] / row.count[x]
    return mean


def group_significance(pixels, use, ring) -> np.ndarray:
    """How far groups of 3 x 3 pixels are above what is usual in their ring.

    Args:
        pixels, use, ring: as of bright_groups

    Returns:
        (n_slow, n_fast) float32, for groups around every pixel (mean of the group - median of its
        ring) / robust sigma of the ring; 0 where fewer than ENOUGH pixels can be used
    """
    mean = _group_means(pixels, ~use, np.array([-np.inf, np.inf]))
    enough = ~np.isnan(mean)
    means, rings = mean[enough], ring[enough]
    by_ring = np.split(
        means[np.argsort(rings, kind="stable")],
        np.cumsum(np.bincount(rings, minlength=N_RINGS))[:-1],
    )
    median, sigma = np.zeros(N_RINGS, np.float32), np.full(N_RINGS, np.inf, np.float32)
    for number, inside in enumerate(by_ring):
        if len(inside) < FEWEST_GROUPS:
            continue
        median[number] = np.median(inside)
        sigma[number] = 1.4826 * np.median(np.abs(inside - median[number]))
        # Where most groups are empty the deviation is 0: counting noise of the mean instead
        sigma[number] = max(sigma[number], np.sqrt(max(inside.mean(), 1e-3) / 9))
    significance = np.zeros(pixels.shape, np.float32)
    significance[enough] = (means - median[rings]) / sigma[rings]
    return significance


def bright_groups(pixels, use, ring, centres) -> BrightGroups:
    """Bright groups of one panel.

    Args:
        pixels: (n_slow, n_fast) values
        use: (n_slow, n_fast) bool, pixels that are used
        ring: (n_slow, n_fast) resolution ring of each
        centres: (N, 2) predicted positions of nodes, fast, slow
    """
    significance = group_significance(pixels, use, ring)
    above = significance > BRIGHT
    labels, number = label(above, structure=np.ones((3, 3)))
    steps = np.arange(-int(REACH), int(REACH) + 1)
    dy, dx = np.meshgrid(steps, steps)
    near = dx**2 + dy**2 <= REACH**2
    x = (np.floor(centres[:, :1]).astype(int) + dx[near]).ravel()
    y = (np.floor(centres[:, 1:]).astype(int) + dy[near]).ravel()
    inside = (x >= 0) & (y >= 0) & (x < pixels.shape[1]) & (y < pixels.shape[0])
    covered = np.zeros(number + 1, bool)
    covered[labels[y[inside], x[inside]]] = True
    covered[0] = False
    brightest = significance[above][covered[labels[above]]].max(initial=0.0)
    at_nodes = int(covered.sum())
    return BrightGroups(at_nodes, float(brightest), number - at_nodes)
