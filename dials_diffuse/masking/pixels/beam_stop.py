"""Find what belongs to a beam stop on the mean image: its core, the disc around it, and its arm.

The core is found by its edge, a step in the radial profile that is steeper than scattering can be. A
stop is seldom centred on the beam, and may be semi-transparent around its core. Its outer edge is
sharp about its own centre. An arm is a band, darker than what lies on both sides, that leads
from the stop to the outside, perhaps across a gap between modules.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_closing, binary_dilation, binary_opening, label, uniform_filter

# The profile rises by this factor at least within STEP_PIXELS at the edge of a beam stop, and faster
# than this power of the radius: diffuse scattering begins with q^2
STEP = 2.5
POWER = 4
# An edge is certain only where so many counts would be expected inside without one
LEAST_COUNTS = 9
STEP_PIXELS = 6
# Darker than this part of what is outside is the core
CORE = 0.1
DARK = 0.3
# A disc around the core reaches out to this many times its radius, and its edge rises by this factor
# within so many pixels, faster than a power of the radius
WIDEST = 4.0
DISC_STEP = 1.2
DISC_PIXELS = 4
DISC_POWER = 2.5
# All of it is darker than this part of its edge
DISC_INSIDE = 0.8
# An arm is darker than this part of what lies on both sides of it
FAINT = 0.8
# and goes on for so many pixels where it is below this part
DIM, EXTENSION = 0.9, 30
# Squares of this size, so far away on both sides, pixels
SIDE, BESIDE = 31, 45
# The part of the pixels of a square that must be known
FEWEST_KNOWN = 0.2
BRIGHTEST = 1.0
ARM_SMOOTH = 5
# What the image was smoothed over before, pixels
SMOOTHED = 3
# Gaps between modules that an arm crosses are narrower than twice this, pixels
BRIDGE = 14
# An arm reaches out to this many radii of the stop, and covers no more than this part of the circle
LONG = 3.0
NARROW = 0.08
# Standard deviations that each pixel of an arm must be darker: there are many in a row
CERTAIN = 3.0


class Disc(NamedTuple):
    """A circle on a panel, pixels.

    Attributes:
        x, y: centre, fast and slow
        radius: pixels
    """

    x: float
    y: float
    radius: float

    def distance(self, shape) -> np.ndarray:
        """Distances of the pixels of a panel from the centre, (n_slow, n_fast)."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        return np.hypot(x + 0.5 - self.x, y + 0.5 - self.y)


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


def disc_around(value: np.ndarray, radius: np.ndarray, edge: int, level: np.ndarray) -> Disc | None:
    """The disc of a beam stop, semi-transparent parts included.

    Args:
        value: (n_slow, n_fast) smoothed mean image, nan where it is not known
        radius: (n_slow, n_fast) distance from the beam, pixels
        edge: of the core, see beam_stop_edge
        level: (R,) bright level of the rings around the beam

    Returns:
        None where the panel does not hold the core
    """
    outer = int(WIDEST * edge)
    bright = np.nanmax(level[edge : outer + 1])
    core = (radius < 2 * edge) & (value < CORE * bright)
    # Without the arm
    core = binary_opening(core, np.ones((edge, edge)))
    if core.sum() < edge**2:
        return None
    y, x = np.nonzero(core)
    centre = Disc(float(x.mean()) + 0.5, float(y.mean()) + 0.5, 0.0)
    away = centre.distance(value.shape)
    near = np.isfinite(value) & (away < outer + DISC_PIXELS)
    rings, values = away[near].astype(int), value[near]
    inside = [values[rings == r] for r in range(outer + DISC_PIXELS)]
    profile = np.array([np.median(ring) if len(ring) else np.nan for ring in inside])
    found = np.sqrt(core.sum() / np.pi)
    for start in range(int(found), len(profile) - DISC_PIXELS):
        end = start + DISC_PIXELS
        rise = profile[end] / max(profile[start], 1e-6)
        power_law = ((end + 0.5) / (start + 0.5)) ** DISC_POWER
        darker = np.nanmax(profile[: start + 1]) < DISC_INSIDE * profile[end]
        if rise > max(DISC_STEP, power_law) and profile[end] > DARK * bright and darker:
            reached = profile[start : end + 1] >= 0.9 * profile[end]
            found = max(found, start + int(reached.argmax()))
    return centre._replace(radius=float(found))


def _mean_of_known(array: np.ndarray, known: np.ndarray, size: int) -> np.ndarray:
    """Mean of the known pixels of squares around all pixels; nan where they are too few.

    Args:
        array: (n_slow, n_fast), 0 where it is not known
        known: (n_slow, n_fast) bool
        size: of the squares, pixels
    """
    number = uniform_filter(known.astype(np.float64), size, mode="constant")
    total = uniform_filter(array, size, mode="constant")
    return np.where(number > FEWEST_KNOWN, total / np.maximum(number, 1e-6), np.nan)


def _both_sides(mean: np.ndarray) -> np.ndarray:
    """The darker of the two sides of all pixels, in the direction in which it is brightest.

    Beside an edge one side is dark in all directions but along it, so an edge is no arm.

    Args:
        mean: (n_slow, n_fast) means of squares, nan where they are not known
    """
    far = np.pad(mean, BESIDE, constant_values=np.nan)
    n_slow, n_fast = mean.shape

    def moved(dy, dx):
        y, x = BESIDE + int(round(dy * BESIDE)), BESIDE + int(round(dx * BESIDE))
        return far[y : y + n_slow, x : x + n_fast]

    diagonal = np.sqrt(0.5)
    directions = (1, 0), (0, 1), (diagonal, diagonal), (diagonal, -diagonal)
    darker = [np.minimum(moved(dy, dx), moved(-dy, -dx)) for dy, dx in directions]
    return np.fmax.reduce(darker)


def arm_from(ratio: np.ndarray, error: np.ndarray, good: np.ndarray, disc: Disc) -> np.ndarray:
    """The pixels of an arm that holds a beam stop.

    Args:
        ratio: (n_slow, n_fast) mean image over the level of its resolution rings, and over what h lets
            expect; nan where it is not known
        error: its standard deviation
        good: pixels that are used
        disc: of the beam stop

    Returns:
        (n_slow, n_fast) bool; nothing where what is dark is no arm
    """
    known = np.isfinite(ratio)
    # What is bright must not darken what lies around it
    filled = np.where(known, np.minimum(ratio, BRIGHTEST), 0.0)
    variance = np.where(known, error**2, 0.0)
    smooth = _mean_of_known(filled, known, ARM_SMOOTH)
    around = _both_sides(_mean_of_known(filled, known, SIDE))
    sigma = np.sqrt(np.maximum(_mean_of_known(variance, known, ARM_SMOOTH), 0))
    sigma *= SMOOTHED / ARM_SMOOTH
    away = disc.distance(ratio.shape)
    inside = away < disc.radius + 2
    faint = good & (smooth < FAINT * around) & (around - smooth > CERTAIN * sigma)
    faint = binary_opening(faint, np.ones((5, 5)))
    gaps = binary_dilation(faint | inside, np.ones((3, 3)), iterations=BRIDGE) & ~good
    labels, number = label(faint | inside | gaps, np.ones((3, 3)))
    touching = np.unique(labels[inside])
    part = np.isin(labels, touching[touching > 0]) & faint
    reach = away[part].max(initial=0.0)
    circle = ((away < reach) & good).sum()
    if reach < LONG * disc.radius or part.sum() > NARROW * circle:
        return np.zeros_like(good)
    # Near the stop an arm is often hardly darker
    dim = good & (smooth < DIM * around)
    part = binary_dilation(part, np.ones((3, 3)), iterations=EXTENSION, mask=part | dim)
    return (binary_closing(part, np.ones((5, 5))) | part) & good
