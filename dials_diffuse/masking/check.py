"""How much Bragg scattering a mask leaves behind: bright groups of pixels at nodes.

A group is 3 x 3 pixels, of which at least five can be used. Its mean is compared with all
groups of its resolution ring on the panel: median and 1.4826 * median absolute deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label, uniform_filter

from dials_diffuse.masking.rings import N_RINGS

BRIGHT = 10.0
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


def group_significance(pixels, use, ring) -> np.ndarray:
    """(mean of the 3 x 3 group - median of its ring) / robust sigma of the ring, for groups
    around every pixel (n_slow, n_fast); 0 where fewer than five pixels can be used."""
    share = uniform_filter(use.astype(np.float32), 3, mode="constant")
    mean = uniform_filter(np.where(use, pixels, 0).astype(np.float32), 3, mode="constant")
    enough = share > 4.5 / 9
    mean = np.where(enough, mean / np.maximum(share, 1e-6), 0)
    order = np.argsort(ring[enough], kind="stable")
    values, rings = mean[enough][order], ring[enough][order]
    edges = np.searchsorted(rings, np.arange(N_RINGS + 1))
    median, sigma = np.zeros(N_RINGS, np.float32), np.full(N_RINGS, np.inf, np.float32)
    for number in range(N_RINGS):
        inside = values[edges[number] : edges[number + 1]]
        if len(inside) < 50:
            continue
        median[number] = np.median(inside)
        sigma[number] = 1.4826 * np.median(np.abs(inside - median[number]))
        # Where most groups are empty the deviation is 0: counting noise of the mean instead
        sigma[number] = max(sigma[number], np.sqrt(max(inside.mean(), 1e-3) / 9))
    return np.where(enough, (mean - median[ring]) / sigma[ring], 0)


def bright_groups(pixels, use, ring, centres) -> BrightGroups:
    """Bright groups of one panel.

    Args:
        pixels: (n_slow, n_fast) values
        use: pixels to look at
        ring: resolution ring of each
        centres: (N, 2) predicted positions of nodes, fast, slow
    """
    significance = group_significance(pixels, use, ring)
    labels, number = label(significance > BRIGHT, structure=np.ones((3, 3)))
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
    bright = significance[covered[labels]]
    return BrightGroups(
        int(covered.sum()), float(bright.max()) if bright.size else 0.0, int(number - covered.sum())
    )
