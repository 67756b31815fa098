"""How dark the crystal's own scattering is, where it follows h: layers, rods and gaps between them.

In a mean image of stills of one orientation dark layers look like shadows. They follow h, which a
shadow does not: all pixels in a layer are dark, or most nodes have the same dark places around them.
The brightness below which most of the pixels that share an h are tells:
a shadow that covers a part of them does not change it.

- Voxels of the reciprocal cell (h without its whole part), and steps of it along each of a*, b* and
  c*, stand for what repeats at all nodes.
- Steps along each of a*, b* and c* to the end of the detector stand for layers that differ in
  strength. They count between the first and the last of FEWEST_RUNS dark runs or more: a shadow of
  a corner darkens the last steps only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import label, minimum_filter

from dials_diffuse.adapters.stills import Still

# Voxels and steps are about so many pixels wide, within limits a cell edge
WIDTH = 4.0
COARSEST, FINEST = 3, 16
# An h is as dark as this part of its pixels are: of every second pixel along both axes, in steps of
# brightness
MOST = 0.7
EVERY = 2
LEVELS = 64
BRIGHTEST = 2.0
FEWEST_PIXELS = 30
FEWEST_RUNS = 3
# Nothing is called dark above this part
SHALLOW = 0.75
# Stills whose h are looked at: if more orientations than that add up nothing of the layers is left
MOST_STILLS = 6
# Pixels at the edge of a layer may belong to the next voxel
BLUR = 5


def miller_indices(still: Still, panel) -> np.ndarray:
    """h at the centre of every pixel of a panel, without parallax: (3, n_slow, n_fast) float32."""
    n_fast, n_slow = panel.get_image_size()
    pixel = panel.get_pixel_size()
    d = np.array(panel.get_d_matrix(), dtype=np.float32).reshape(3, 3)
    x = ((np.arange(n_fast) + 0.5) * pixel[0]).astype(np.float32)
    y = ((np.arange(n_slow) + 0.5) * pixel[1]).astype(np.float32)
    s0 = np.array(still.beam.get_s0(), dtype=np.float32)
    lab = [d[i, 0] * x[None, :] + d[i, 1] * y[:, None] + d[i, 2] for i in range(3)]
    scale = np.linalg.norm(s0) / np.sqrt(sum(part * part for part in lab))
    q = [part * scale - s0[i] for i, part in enumerate(lab)]
    inverse = np.linalg.inv(still.setting_matrix()).astype(np.float32)
    return np.stack([sum(inverse[i, j] * q[j] for j in range(3)) for i in range(3)])


def _brightness(key: np.ndarray, ratio: np.ndarray, number: int) -> np.ndarray:
    """Ratio that MOST of the pixels of each of `number` keys are below, relative to the brighter keys: (number,).

    1 where there are too few pixels, and where they are hardly darker.
    """
    level = np.clip(ratio / BRIGHTEST * LEVELS, 0, LEVELS - 1).astype(np.int64)
    table = np.bincount(key * LEVELS + level, minlength=number * LEVELS).reshape(number, LEVELS)
    below = table.cumsum(axis=1)
    total = below[:, -1]
    typical = (below >= MOST * total[:, None]).argmax(axis=1) + 0.5
    enough = total >= FEWEST_PIXELS
    if not enough.any():
        return np.ones(number)
    order = np.argsort(typical[enough])
    pixels = total[enough][order].cumsum()
    usual = typical[enough][order][np.searchsorted(pixels, 0.75 * pixels[-1])]
    relative = typical / usual
    return np.where(enough & (relative < SHALLOW), relative, 1.0)


def _dark_between(profile: np.ndarray) -> np.ndarray:
    """The profile where it is dark between bright steps, else 1; 1 with less than FEWEST_RUNS dark runs."""
    runs, number = label(profile < SHALLOW)
    if number < FEWEST_RUNS:
        return np.ones_like(profile)
    # The outermost runs may be the shadow of a corner
    return np.where((runs == 1) | (runs == number), 1.0, profile)


def subdivisions(still: Still) -> np.ndarray:
    """Voxels a reciprocal cell edge, (3,), each about WIDTH pixels wide on the detector."""
    pixel = min(panel.get_pixel_size()[0] / abs(panel.get_distance()) for panel in still.detector)
    spacing = np.linalg.norm(still.setting_matrix(), axis=0) * still.beam.get_wavelength()
    return np.clip(np.rint(spacing / (WIDTH * pixel)), COARSEST, FINEST).astype(int)


def _darkness_of_still(still: Still, ratios: Sequence[np.ndarray]) -> list[np.ndarray]:
    """As crystal_darkness, by the h of one still."""
    n = subdivisions(still)
    steps, cells, used = [], [], []
    for panel, ratio in zip(still.detector, ratios):
        h = miller_indices(still, panel)
        step = np.floor(h * n[:, None, None] + 0.5).astype(np.int32)
        steps.append(step)
        cells.append(np.ravel_multi_index(tuple(s % m for s, m in zip(step, n)), tuple(n)))
        chosen = np.zeros(ratio.shape, bool)
        chosen[::EVERY, ::EVERY] = np.isfinite(ratio[::EVERY, ::EVERY])
        # Around other nodes spots are masked: what is next to this one is the beam stop
        chosen &= (np.abs(h) > 0.5).any(axis=0)
        used.append(chosen)
    values = np.concatenate([ratio[use] for ratio, use in zip(ratios, used)])
    key = np.concatenate([cell[use] for cell, use in zip(cells, used)])
    of_cell = _brightness(key, values, int(n.prod()))
    darkness = [of_cell[cell] for cell in cells]
    for axis in range(3):
        first = min(int(step[axis].min()) for step in steps)
        number = max(int(step[axis].max()) for step in steps) - first + 1
        key = np.concatenate([step[axis][use] - first for step, use in zip(steps, used)])
        profile = _dark_between(_brightness(key, values, number))
        repeated = _brightness((key + first) % n[axis], values, n[axis])
        profile = np.minimum(profile, repeated[(np.arange(number) + first) % n[axis]])
        darkness = [np.minimum(d, profile[s[axis] - first]) for d, s in zip(darkness, steps)]
    return darkness


def crystal_darkness(stills: Sequence[Still], ratios: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How dark pixels are because of the h that they see.

    Args:
        stills: whose mean image is looked at
        ratios: that image over the level of its resolution rings, an (n_slow, n_fast) array a
            panel, nan where it is not known

    Returns:
        arrays of the same shapes: the part of the rings' level that their h lets expect, at most 1
    """
    some = stills[:: -(-len(stills) // MOST_STILLS)] if stills else []
    darkness = [np.ones(ratio.shape) for ratio in ratios]
    seen: list[np.ndarray] = []
    for still in some:
        setting = still.setting_matrix()
        # The same orientation again tells nothing new
        if any(np.abs(setting - other).max() < 1e-3 * np.abs(other).max() for other in seen):
            continue
        seen.append(setting)
        for product, own in zip(darkness, _darkness_of_still(still, ratios)):
            product *= own
    return [minimum_filter(product, BLUR) for product in darkness]
