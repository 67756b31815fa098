"""Resolution rings on a detector, and statistics of the values in each of them.

A ring is one of N_RINGS equal steps of |q| up to the detector's corner. Statistics are taken panel
by panel, from samples that are spread evenly over each ring: a few hundred groups of pixels give a
mean and its spread as well as six million pixels do.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

N_RINGS = 200
# Detectors whose corners have moved by less than this part of a ring share their rings
MOVED = 0.05
N_PASSES = 5


class PanelRings(NamedTuple):
    """The rings of a panel.

    Attributes:
        number: (n_slow, n_fast) ring of every pixel. Parallax is left out: it moves pixels by far
            less than the width of a ring
        samples: (K,) int32 flat indices of pixels, ascending, spread over the rings
    """

    number: np.ndarray
    samples: np.ndarray


@numba.njit(cache=True)
def _ring_numbers(x, y, d, direction, per_unit):
    """The ring of every pixel, uint8 (n_slow, n_fast).

    Args:
        x, y: (n_fast,), (n_slow,) positions of the pixels on the panel, mm
        d: (3, 3) d matrix of the panel
        direction: (3,) of the beam, of unit length
        per_unit: rings for each unit of 2 sin(theta)
    """
    ring = np.empty((y.size, x.size), np.uint8)
    for j in range(y.size):
        for i in range(x.size):
            a = d[0, 0] * x[i] + d[0, 1] * y[j] + d[0, 2]
            b = d[1, 0] * x[i] + d[1, 1] * y[j] + d[1, 2]
            c = d[2, 0] * x[i] + d[2, 1] * y[j] + d[2, 2]
            along = a * direction[0] + b * direction[1] + c * direction[2]
            cosine = along / np.sqrt(a * a + b * b + c * c)
            length = np.sqrt(max(2.0 - 2.0 * cosine, 0.0))
            ring[j, i] = min(int(length * per_unit), N_RINGS - 1)
    return ring


@numba.njit(cache=True)
def _choose_samples(ring, most):
    """Flat indices of pixels, ascending, at most about `most` a ring.

    They are every third pixel of every n-th dozen of a ring: near each other in memory, and no
    pixel belongs to the 3 x 3 groups around two of them in a row.
    """
    size = np.zeros(N_RINGS, np.int64)
    for r in ring.flat:
        size[r] += 1
    every = np.maximum((size + 3 * most - 1) // (3 * most), 1)
    seen = np.zeros(N_RINGS, np.int64)
    chosen = np.empty(ring.size, np.int32)
    n = 0
    for index, r in enumerate(ring.flat):
        if seen[r] // 12 % every[r] == 0 and seen[r] % 3 == 0:
            chosen[n] = index
            n += 1
        seen[r] += 1
    return chosen[:n].copy()


def _beam_direction(beam) -> np.ndarray:
    s0 = np.array(beam.get_s0())
    return s0 / np.linalg.norm(s0)


def _d_matrix(panel) -> np.ndarray:
    return np.array(panel.get_d_matrix()).reshape(3, 3)


def _corners(detector, beam) -> np.ndarray:
    """2 sin(theta) of the corners, (panels, 4)."""
    corners = []
    for panel in detector:
        width, height = panel.get_image_size_mm()
        mm = [(x, y, 1.0) for x in (0, width) for y in (0, height)]
        corners.append(np.array(mm) @ _d_matrix(panel).T)
    rays = np.array(corners)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return np.linalg.norm(rays - _beam_direction(beam), axis=-1)


def panel_rings(detector, beam, most: int = 0) -> list[PanelRings]:
    """The rings of each panel of a detector.

    Args:
        detector, beam: dxtbx models
        most: samples of a ring on a panel, about
    """
    per_unit = N_RINGS / _corners(detector, beam).max()
    panels = []
    for panel in detector:
        x, y = (
            (np.arange(n, dtype=np.float32) + 0.5) * size
            for n, size in zip(panel.get_image_size(), panel.get_pixel_size())
        )
        number = _ring_numbers(x, y, _d_matrix(panel), _beam_direction(beam), per_unit)
        samples = _choose_samples(number, most) if most else np.zeros(0, dtype=np.int32)
        panels.append(PanelRings(number, samples))
    return panels


class RingCache:
    """Keeps the rings from one still to the next, as long as the detector is in its place.

    Args:
        most: samples of a ring on a panel, about
    """

    def __init__(self, most: int = 0):
        self._most = most
        self._corners = np.zeros((0, 4))
        self._rings: list[PanelRings] = []

    def get(self, detector, beam) -> list[PanelRings]:
        """The rings of each panel; the wavelength scales |q| of all rings, so it makes no difference."""
        corners = _corners(detector, beam)
        if (
            self._corners.shape != corners.shape
            or np.abs(corners - self._corners).max() > MOVED / N_RINGS * corners.max()
        ):
            self._rings = panel_rings(detector, beam, self._most)
            self._corners = corners
        return self._rings


@numba.njit(cache=True)
def clipped_statistics(value, ring):
    """Mean, standard deviation and number of the values of each ring, without outliers.

    Values beyond mean + 5 sigma of the pass before are left out: on the high side only at first
    (spots), on both sides from the third pass on.

    Args:
        value: (N,)
        ring: (N,) 0 to N_RINGS - 1

    Returns:
        mean, sigma, number, (N_RINGS,) each; 0, inf, 0 where there is no value
    """
    mean = np.zeros(N_RINGS)
    sigma = np.full(N_RINGS, np.inf)
    number = np.zeros(N_RINGS, np.int64)
    for step in range(N_PASSES):
        total = np.zeros(N_RINGS)
        square = np.zeros(N_RINGS)
        count = np.zeros(N_RINGS, np.int64)
        for i in range(value.shape[0]):
            r = ring[i]
            v = float(value[i])
            if step > 0:
                limit = 5.0 * sigma[r]
                if v - mean[r] > limit or (step > 1 and mean[r] - v > limit):
                    continue
            total[r] += v
            square[r] += v * v
            count[r] += 1
        for r in range(N_RINGS):
            if count[r] > 0:
                mean[r] = total[r] / count[r]
                variance = max(square[r] / count[r] - mean[r] ** 2, abs(mean[r]) * 1e-3)
                sigma[r] = np.sqrt(variance + 1e-6)
                number[r] = count[r]
    return mean, sigma, number


def add_profile(pixels, use, ring, total, number) -> None:
    """Add the used pixels of a panel to sums by ring.

    Args:
        pixels, use, ring: (n_slow, n_fast)
        total, number: (N_RINGS,) sums of values and numbers of pixels, changed in place
    """
    rings = ring[use]
    total += np.bincount(rings, pixels[use], N_RINGS)
    number += np.bincount(rings, minlength=N_RINGS)
