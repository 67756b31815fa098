"""Find the beam stop and shadows on the mean image.

A shadow is a region, many pixels wide, that is much darker than the rest of its resolution ring. The
beam stop darkens whole rings around the beam. It is found by its edge, a step in the radial profile
that is steeper than scattering can be.
"""

from __future__ import annotations

import logging

import numpy as np
from scipy.ndimage import binary_dilation, label, uniform_filter

logger = logging.getLogger("dials.diffuse.masking.shadow")

# Darker than this part of the ring's bright quarter is shadow
DARK = 0.3
# Regions that do not touch the beam stop must be darker still, as diffuse scattering has minima too
BLACK = 0.1
# Pixels below this part belong to a shadow within PENUMBRA pixels, but no further: anisotropic
# diffuse scattering may be as dark
DIM = 0.5
PENUMBRA = 2
# The profile rises by this factor at least within STEP_PIXELS at the edge of a beam stop, and faster
# than this power of the radius: diffuse scattering begins with q^2
STEP = 2.5
POWER = 4
# An edge is certain only where so many counts would be expected inside without one
LEAST_COUNTS = 9
STEP_PIXELS = 6
SMOOTH = 3
GROW = 1
MIN_PIXELS = 60


def pixel_radius(detector, beam) -> list[np.ndarray]:
    """Distance of every pixel from the beam as angle * distance / pixel size, in pixels of
    the panel nearest to the beam: float32 (n_slow, n_fast) a panel."""
    s0 = np.array(beam.get_s0())
    direction = s0 / np.linalg.norm(s0)
    radii, scales = [], []
    for panel in detector:
        n_fast, n_slow = panel.get_image_size()
        pixel = panel.get_pixel_size()
        d = np.array(panel.get_d_matrix(), dtype=np.float32).reshape(3, 3)
        x = ((np.arange(n_fast) + 0.5) * pixel[0]).astype(np.float32)
        y = ((np.arange(n_slow) + 0.5) * pixel[1]).astype(np.float32)
        lab = [d[i, 0] * x[None, :] + d[i, 1] * y[:, None] + d[i, 2] for i in range(3)]
        along = sum(lab[i] * direction[i] for i in range(3))
        square = sum(part * part for part in lab)
        across = np.sqrt(np.maximum(square - along**2, 0))
        radii.append(np.arctan2(across, along))
        middle = (n_slow // 2, n_fast // 2)
        # The distance itself: what lies along the beam is negative beyond 90 degrees
        scales.append((float(radii[-1][middle]), float(np.sqrt(square[middle])) / pixel[0]))
    per_radian = min(scales)[1]
    return [radius * np.float32(per_radian) for radius in radii]


def find_shadows(sums, good, detector, beam) -> list[np.ndarray]:
    """Shadowed pixels.

    Args:
        sums: PixelSums of a survey
        good: pixels that are used, a (n_slow, n_fast) bool array a panel
        detector, beam: dxtbx models

    Returns:
        a (n_slow, n_fast) bool array a panel, True = in a shadow
    """
    radii = [np.minimum(r, 20000).astype(np.int32) for r in pixel_radius(detector, beam)]
    smooth, noise = [], []
    for valid, total, variance, mask in zip(sums.valid, sums.total, sums.variance, good):
        use = mask & (valid > 0)
        weight = uniform_filter(np.where(use, valid, 0).astype(np.float32), SMOOTH, mode="constant")
        mean = uniform_filter(np.where(use, total, 0), SMOOTH, mode="constant")
        spread = uniform_filter(np.where(use, variance, 0), SMOOTH, mode="constant")
        # Pixels that spots hide most of the time are not judged
        some = weight > 0.3 * sums.images
        smooth.append(np.where(some, mean / np.maximum(weight, 1e-6), np.nan))
        noise.append(np.sqrt(np.maximum(spread, 0)) / np.maximum(weight, 1e-6) / SMOOTH)
    level = _ring_level(smooth, radii, good)
    edge = beam_stop_edge(level, SMOOTH**2 * sums.images)
    reference = level.copy()
    if edge is not None:
        reference[: edge + STEP_PIXELS] = np.nanmax(level[edge : edge + 2 * STEP_PIXELS])
        logger.info("Edge of the beam stop %d pixels from the beam", edge)
    shadows = []
    inside = 0 if edge is None else edge + STEP_PIXELS
    for value, error, radius, mask in zip(smooth, noise, radii, good):
        expected = reference[radius]
        dark = mask & (value < DARK * expected) & (expected - value > 6 * error)
        dim = mask & (value < DIM * expected) & (expected - value > 6 * error)
        black = dark & (value < BLACK * expected)
        shadows.append(_large_regions(dark, black | (dark & (radius < inside)), dim, mask))
    return shadows


def _ring_level(smooth, radii, good) -> np.ndarray:
    """75th percentile of the smoothed mean image in rings one pixel wide; nan where empty."""
    values = np.concatenate([s[g] for s, g in zip(smooth, good)])
    radius = np.concatenate([r[g] for r, g in zip(radii, good)])
    known = np.isfinite(values)
    values, radius = values[known], radius[known]
    order = np.argsort(radius, kind="stable")
    values, radius = values[order], radius[order]
    last = max((int(r.max()) for r in radii), default=0)
    edges = np.searchsorted(radius, np.arange(last + 2))
    level = np.full(last + 1, np.nan)
    for r in range(last + 1):
        ring = values[edges[r] : edges[r + 1]]
        if len(ring):
            level[r] = np.percentile(ring, 75)
    return level


def beam_stop_edge(level: np.ndarray, pixels: int) -> int | None:
    """Where the radial profile (a value a pixel of radius) steps up out of a beam stop, pixels.

    None without a step of STEP within STEP_PIXELS in the inner third whose inside stays dark,
    or if it is nowhere steeper than r^POWER or could be chance.

    Args:
        level: (R,) ADU a pixel
        pixels: of which each value of a ring is the mean
    """
    inner = level[: len(level) // 3]
    if len(inner) < 3 * STEP_PIXELS:
        return None
    filled = np.where(np.isfinite(inner), inner, 0.0)
    floor = 1e-3 * np.nanmax(filled) + 1e-6
    half = STEP_PIXELS // 2
    ratio = (filled[2 * half :] + floor) / (filled[: -2 * half] + floor)
    best, certain = None, False
    for start in np.argsort(ratio)[::-1][:20]:
        outside = filled[start + 2 * half : start + 4 * half].max(initial=0.0)
        inside = np.nanmax(inner[: start + 1], initial=0.0)
        power_law = ((start + 2 * half + 0.5) / (start + 0.5)) ** POWER
        expected = filled[start + 2 * half] / power_law * pixels
        if ratio[start] >= STEP and inside < DARK * outside:
            best = int(start) + half if best is None else max(best, int(start) + half)
            certain |= ratio[start] >= power_law and expected >= LEAST_COUNTS
    return best if certain else None


def _large_regions(dark, seed, dim, good) -> np.ndarray:
    """Large regions of dark pixels around a seed of some size, and the dim rim around them."""
    labels, number = label(dark, structure=np.ones((3, 3)))
    if number == 0:
        return np.zeros_like(dark)
    size = np.bincount(labels.ravel())
    seeds = np.bincount(labels[seed], minlength=number + 1)
    large_enough = (size >= MIN_PIXELS) & (seeds >= MIN_PIXELS // 2)
    large_enough[0] = False
    large = large_enough[labels]
    large = binary_dilation(large, np.ones((3, 3)), iterations=PENUMBRA, mask=dim | large)
    return binary_dilation(large, iterations=SMOOTH // 2 + GROW) & good if large.any() else large
