"""Find the beam stop and shadows on the mean image.

A shadow is a region, many pixels wide, that is much darker than the rest of its resolution ring. The
beam stop darkens whole rings around the beam (see beam_stop). What is dark because of the h that it
sees (see layers) is the crystal's, and no shadow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, label, uniform_filter

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.pixels.beam_stop import (
    STEP_PIXELS,
    Disc,
    arm_from,
    beam_stop_edge,
    disc_around,
)
from dials_diffuse.masking.pixels.layers import crystal_darkness

logger = logging.getLogger("dials.diffuse.masking.shadow")

# Darker than this part of the ring's bright quarter is shadow
DARK = 0.3
# Regions that do not touch the beam stop must be darker still, as diffuse scattering has minima too
BLACK = 0.1
# Pixels below this part belong to a shadow within PENUMBRA pixels, but no further: anisotropic
# diffuse scattering may be as dark
DIM = 0.5
PENUMBRA = 2
SMOOTH = 3
GROW = 1
# The bright or dim rim of a beam stop, pixels
RIM = 2
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


class MeanImage(NamedTuple):
    """A panel of the mean image, (n_slow, n_fast) arrays.

    Attributes:
        value: smoothed over SMOOTH pixels, ADU; nan where spots hide it most of the time
        error: its standard deviation
        radius: distance from the beam, whole pixels
        good: pixels that are used
    """

    value: np.ndarray
    error: np.ndarray
    radius: np.ndarray
    good: np.ndarray


def _mean_images(sums, good, detector, beam) -> list[MeanImage]:
    """The mean image of the panels; arguments as of find_shadows."""
    panels = []
    radii = pixel_radius(detector, beam)
    columns = sums.valid, sums.total, sums.variance, good, radii
    for valid, total, variance, mask, radius in zip(*columns):
        # One pixel without a finite variance would spread over its lines
        use = mask & (valid > 0) & np.isfinite(variance)
        weight = uniform_filter(np.where(use, valid, 0).astype(np.float32), SMOOTH, mode="constant")
        mean = uniform_filter(np.where(use, total, 0), SMOOTH, mode="constant")
        spread = uniform_filter(np.where(use, variance, 0), SMOOTH, mode="constant")
        # Pixels that spots hide most of the time are not judged
        some = weight > 0.3 * sums.images
        weight = np.maximum(weight, 1e-6)
        value = np.where(some, mean / weight, np.nan)
        error = np.sqrt(np.maximum(spread, 0)) / weight / SMOOTH
        panels.append(MeanImage(value, error, np.minimum(radius, 20000).astype(np.int32), mask))
    return panels


def find_shadows(sums, good, detector, beam, stills: Sequence[Still] = ()) -> list[np.ndarray]:
    """Shadowed pixels.

    Args:
        sums: PixelSums of a survey
        good: pixels that are used, a (n_slow, n_fast) bool array a panel
        detector, beam: dxtbx models
        stills: that were surveyed, to know what h pixels see; without them all that is dark is shadow

    Returns:
        a (n_slow, n_fast) bool array a panel, True = in a shadow
    """
    panels = _mean_images(sums, good, detector, beam)
    level = _ring_level(panels)
    edge = beam_stop_edge(level, SMOOTH**2 * sums.images)
    reference = level.copy()
    inside = 0
    if edge is not None:
        inside = edge + STEP_PIXELS
        reference[:inside] = np.nanmax(level[edge : edge + 2 * STEP_PIXELS])
        logger.info("Edge of the beam stop %d pixels from the beam", edge)
    expected = [reference[panel.radius] for panel in panels]
    shadows = [_dark_regions(*pair, inside) for pair in zip(panels, expected)]
    values = [panel.value for panel in panels]
    outside = any((s & (p.radius >= inside)).any() for s, p in zip(shadows, panels))
    if stills and (outside or edge is not None):
        # What lies beside the beam stop might be the crystal's
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [
                np.where(panel.good, panel.value / e, np.nan) for panel, e in zip(panels, expected)
            ]
        darkness = crystal_darkness(stills, ratios)
        values = [np.minimum(p.value / dark, level[p.radius]) for p, dark in zip(panels, darkness)]
        expected = [e * dark for e, dark in zip(expected, darkness)]
        shadows = [_dark_regions(*pair, inside) for pair in zip(panels, expected)]
    if edge is None:
        return shadows
    stops = [disc_around(v, panel.radius, edge, level) for v, panel in zip(values, panels)]
    for number, (panel, stop) in enumerate(zip(panels, stops)):
        if stop is not None:
            shadows[number] |= _beam_stop(panel, expected[number], stop)
    return shadows


def _dark_regions(panel: MeanImage, expected: np.ndarray, inside: int) -> np.ndarray:
    """Regions darker than expected, (n_slow, n_fast) bool; those within `inside` pixels of the beam need
    not be black."""
    value, mask = panel.value, panel.good
    certain = mask & (expected - value > 6 * panel.error)
    dark, dim = certain & (value < DARK * expected), certain & (value < DIM * expected)
    black = dark & (value < BLACK * expected)
    return _large_regions(dark, black | (dark & (panel.radius < inside)), dim, mask)


def _beam_stop(panel: MeanImage, expected: np.ndarray, stop: Disc) -> np.ndarray:
    """The disc of a beam stop with its rim, and its arm, (n_slow, n_fast) bool."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(panel.good, panel.value / expected, np.nan)
        error = panel.error / expected
    shadow = arm_from(ratio, error, panel.good, stop)
    number = int(shadow.sum())
    logger.info(
        "Disc of the beam stop: %.0f pixels around (%.0f, %.0f); its arm: %d pixels",
        stop.radius,
        stop.x,
        stop.y,
        number,
    )
    return (shadow | (stop.distance(shadow.shape) < stop.radius + RIM)) & panel.good


def _ring_level(panels: Sequence[MeanImage]) -> np.ndarray:
    """75th percentile of the smoothed mean image in rings one pixel wide; nan where empty."""
    values = np.concatenate([panel.value[panel.good] for panel in panels])
    radius = np.concatenate([panel.radius[panel.good] for panel in panels])
    known = np.isfinite(values)
    values, radius = values[known], radius[known]
    order = np.argsort(radius, kind="stable")
    values, radius = values[order], radius[order]
    last = max((int(panel.radius.max()) for panel in panels), default=0)
    edges = np.searchsorted(radius, np.arange(last + 2))
    level = np.full(last + 1, np.nan)
    for r in range(last + 1):
        ring = values[edges[r] : edges[r + 1]]
        if len(ring):
            level[r] = np.percentile(ring, 75)
    return level


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
