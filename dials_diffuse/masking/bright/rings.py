"""Resolution rings on a detector, and what is usual in each of them.

A ring is one of N_RINGS equal steps of |q| up to the detector's corner. Statistics are
taken panel by panel from samples spread evenly over each ring: a few hundred groups
tell a mean and its spread as well as six million pixels do.
"""

from __future__ import annotations

import numba
import numpy as np

N_RINGS = 200
# Detectors whose corners have moved by less than this part of a ring share their rings
MOVED = 0.05
N_PASSES = 5


@numba.njit(cache=True)
def _fill_rings(ring, x, y, d, direction, per_unit):
    for j in range(y.shape[0]):
        for i in range(x.shape[0]):
            a = d[0, 0] * x[i] + d[0, 1] * y[j] + d[0, 2]
            b = d[1, 0] * x[i] + d[1, 1] * y[j] + d[1, 2]
            c = d[2, 0] * x[i] + d[2, 1] * y[j] + d[2, 2]
            cosine = (a * direction[0] + b * direction[1] + c * direction[2]) / np.sqrt(
                a * a + b * b + c * c
            )
            length = np.sqrt(max(2.0 - 2.0 * cosine, 0.0))
            ring[j, i] = min(int(length * per_unit), N_RINGS - 1)


@numba.njit(cache=True)
def _choose_samples(ring, most):
    """Flat indices of pixels, ascending, at most about `most` a ring: of every n-th dozen of its pixels every third.

    What is near each other is read together from memory; groups of 3 x 3 pixels around them have none in common.
    """
    size = np.zeros(N_RINGS, np.int64)
    for y in range(ring.shape[0]):
        for x in range(ring.shape[1]):
            size[ring[y, x]] += 1
    every = np.maximum((size + 3 * most - 1) // (3 * most), 1)
    seen = np.zeros(N_RINGS, np.int64)
    chosen = np.empty(ring.size, np.int32)
    n = 0
    for y in range(ring.shape[0]):
        for x in range(ring.shape[1]):
            r = ring[y, x]
            if seen[r] // 12 % every[r] == 0 and seen[r] % 3 == 0:
                chosen[n] = y * ring.shape[1] + x
                n += 1
            seen[r] += 1
    return chosen[:n].copy()


@numba.njit(cache=True)
def _rings_of_runs(ring, length, runs):
    """Fill runs (n_slow, n, 2) with the first and last ring among the pixels of each run of a row."""
    for y in range(ring.shape[0]):
        for run in range(runs.shape[1]):
            first = last = ring[y, run * length]
            for x in range(run * length, min((run + 1) * length, ring.shape[1])):
                first, last = min(first, ring[y, x]), max(last, ring[y, x])
            runs[y, run, 0], runs[y, run, 1] = first, last


class PanelRings:
    """The rings of a panel.

    Attributes:
        number: int16 (n_slow, n_fast), ring of every pixel; parallax is left out: it
            moves pixels by far less than a ring's width
        samples: int32 (K,) flat indices of pixels, ascending
    """

    def __init__(self, number: np.ndarray, samples: np.ndarray):
        self.number = number
        self.samples = samples
        self._runs: dict[int, np.ndarray] = {}

    def runs(self, length: int) -> np.ndarray:
        """First and last ring of each run of so many pixels, (n_slow, n, 2) int16"""
        if length not in self._runs:
            n_slow, n_fast = self.number.shape
            self._runs[length] = np.empty(
                (n_slow, (n_fast + length - 1) // length, 2), dtype=np.int16
            )
            _rings_of_runs(self.number, length, self._runs[length])
        return self._runs[length]


class Rings:
    """The rings of one detector and beam.

    Args:
        detector, beam: dxtbx models
        most: samples of a ring on a panel, about; none by default

    Attributes:
        panels: a PanelRings a panel
    """

    def __init__(self, detector, beam, most: int = 0):
        s0 = np.array(beam.get_s0())
        direction = s0 / np.linalg.norm(s0)
        per_unit = N_RINGS / _corners(detector, beam).max()
        self.panels = []
        for panel in detector:
            n_fast, n_slow = panel.get_image_size()
            pixel = panel.get_pixel_size()
            d = np.array(panel.get_d_matrix()).reshape(3, 3)
            x = (np.arange(n_fast, dtype=np.float32) + 0.5) * pixel[0]
            y = (np.arange(n_slow, dtype=np.float32) + 0.5) * pixel[1]
            ring = np.empty((n_slow, n_fast), dtype=np.int16)
            _fill_rings(ring, x, y, d, direction, per_unit)
            samples = _choose_samples(ring, most) if most else np.zeros(0, dtype=np.int32)
            self.panels.append(PanelRings(ring, samples))

    @property
    def number(self) -> list[np.ndarray]:
        """Ring of every pixel, an (n_slow, n_fast) array a panel"""
        return [panel.number for panel in self.panels]


class RingCache:
    """The rings of one still after the other, made anew only where they differ.

    Args:
        most: samples of a ring on a panel, about; none by default
    """

    def __init__(self, most: int = 0):
        self._most = most
        self._corners = None
        self._rings = None

    def get(self, detector, beam) -> Rings:
        """Rings of a detector and beam. Wavelength does not matter: it scales |q| of all rings."""
        corners = _corners(detector, beam)
        known = self._corners is not None and self._corners.shape == corners.shape
        if not known or np.abs(corners - self._corners).max() > MOVED / N_RINGS * corners.max():
            self._rings = Rings(detector, beam, self._most)
            self._corners = corners
        return self._rings


def _corners(detector, beam) -> np.ndarray:
    """2 sin(theta) of the corners, (panels, 4)."""
    s0 = np.array(beam.get_s0())
    direction = s0 / np.linalg.norm(s0)
    corners = []
    for panel in detector:
        n_fast, n_slow = panel.get_image_size()
        size = panel.get_pixel_size()
        d = np.array(panel.get_d_matrix()).reshape(3, 3)
        mm = [(x * size[0], y * size[1], 1.0) for x in (0, n_fast) for y in (0, n_slow)]
        corners.append(np.array(mm) @ d.T)
    rays = np.array(corners)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return np.linalg.norm(rays - direction, axis=-1)


@numba.njit(cache=True)
def clipped_statistics(value, ring):
    """Mean, standard deviation and number of the values of each ring, without
    outliers: values beyond mean + 5 sigma of the pass before are left out, on the high
    side only at first (spots) and on both from the third pass on.

    Args:
        value: (N,); ring: (N,) 0 to N_RINGS - 1

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


@numba.njit(cache=True)
def add_profile(pixels, use, ring, total, number):
    """Add the used pixels of a panel to sums by ring.

    Args:
        pixels, use, ring: (n_slow, n_fast)
        total, number: (N_RINGS,) sums of values and numbers of pixels, changed
    """
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            if use[y, x]:
                total[ring[y, x]] += pixels[y, x]
                number[ring[y, x]] += 1
