"""The variance that the model expects of an observation, and the intensity that it rests on.

A weight that follows the noise of its own observation bends every mean. So the intensity of a voxel is drawn
to what is expected without the voxel itself: its neighbours, and the mean of its resolution shell.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dials_diffuse.scaling.observations.sorted_rows import SortedRows

# Least expected photons of an observation, as a fraction of those of the crystal alone: an offset
# below zero, by its error or during the minimisation, must not make an observation certain
LEAST_SIGNAL = 0.05
# Standard deviations beyond which a voxel certainly differs, and photons by which it is drawn then
CERTAIN, FEW = 4.0, 2.0
# Steps to the six nearest voxels, in packed voxels
_STEPS = (1, 1 << 21, 1 << 42)


@njit(cache=True)
def expected_variance(signal, offset, floor, systematic):
    """Variance of an observation's counts that the model predicts, photons^2.

    Args:
        signal, offset: expected photons of the crystal and of the offset
        floor: variance of what does not depend on the model
        systematic: standard deviation that is in proportion to the signal
    """
    return max(signal + offset, LEAST_SIGNAL * signal) + floor + systematic * systematic


@njit(cache=True)
def drawn_intensity(num, den, floor, strength, towards):
    """Intensity num / den of a voxel, drawn towards another one as by `strength` photons.

    A voxel whose photons certainly differ from the other intensity keeps its own, but for a few photons. (Square roots of
    counts have the same error whatever the counts are: Anscombe 1948, Biometrika 35, 246.)

    Args:
        num: net photons of the crystal
        den: sum of E g
        floor: variance of num that does not come from the crystal
        towards: intensity that is expected without this voxel, above 0
    """
    found, expected = max(num, 0.0) + floor, den * towards + floor
    if abs(np.sqrt(found + 0.375) - np.sqrt(expected + 0.375)) > 0.5 * CERTAIN:
        strength = min(strength, FEW)
    return (max(num, 0.0) + strength) / (den + strength / towards)


@njit(cache=True)
def _draw(num, den, floor, strength, towards, out):
    for v in range(len(num)):
        out[v] = drawn_intensity(num[v], den[v], floor[v], strength, towards[v])


@njit(cache=True)
def _add_neighbours(places, sums, around):
    for v in range(len(places)):
        if places[v] >= 0:
            for i in range(3):
                around[i, v] += sums[i, places[v]]


def neighbours(rows: SortedRows) -> np.ndarray:
    """(6, V) int32 places of the nearest voxels of each voxel, -1 where there is none with observations."""
    steps = [sign * step for step in _STEPS for sign in (-1, 1)]
    return np.array([rows.places(rows.voxels + step) for step in steps], dtype=np.int32)


def expected_intensities(
    nearest: np.ndarray, sums: np.ndarray, prior: np.ndarray, strength: float
) -> np.ndarray:
    """(V,) intensity of each voxel that the weights of its observations are made with, above 0.

    Args:
        nearest: (6, V) of neighbours
        sums: (3, V) sums of net photons of the crystal, of E g, and of the variance of other photons
        prior: (V,) mean intensity of the shell
        strength: photons by which a voxel is drawn to its six neighbours, and these to their shell
    """
    around = np.zeros_like(sums)
    for places in nearest:
        _add_neighbours(places, sums, around)
    out = np.empty(len(prior))
    _draw(*around, strength, prior, out)
    _draw(*sums, strength, out.copy(), out)
    return out
