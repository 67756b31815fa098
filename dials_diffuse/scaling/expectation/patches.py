"""Parts of single images that are not like those of the other stills: the arcs of a fibre of the loop, a patch of
ice, a shadow.

What a still has on top of the crystal may depend on |q| only (the offset c), and what depends on the direction is the
same for all stills (a, d). Where something in the beam breaks both rules, a would follow c into the map. So such patches
are left out.
"""

from __future__ import annotations

import warnings

import numpy as np

# Rings of |q| and sectors of a ring: the arcs of nylon are some 25 degrees wide
N_RINGS, N_SECTORS = 12, 20
N_PATCHES = N_RINGS * N_SECTORS
NO_PATCH = -1
# Standard deviations beyond which a patch deviates
CUTOFF = 6.0
# Photons that a patch must have been expected to have, for sigma to mean something
LEAST_PHOTONS = 25.0
# Median of chi^2 of one degree of freedom; standard deviation of the median of n of them over it, times sqrt(n)
MEDIAN_CHI2 = 0.4549
ERROR_OF_MEDIAN = 2.33
# Stills in a patch, and patches in a ring, for a median
LEAST_MEMBERS = 5


def patch_of(x: np.ndarray, y: np.ndarray, extent: tuple[float, float, float, float]) -> np.ndarray:
    """Patches (N,) int16 of projected directions (N,), (N,).

    Args:
        extent: (x_min, x_max, y_min, y_max) of all directions
    """
    farthest = np.hypot(max(abs(extent[0]), abs(extent[1])), max(abs(extent[2]), abs(extent[3])))
    ring = np.minimum(np.hypot(x, y) * (N_RINGS / farthest), N_RINGS - 1).astype(np.int16)
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * N_SECTORS).astype(np.int16) % N_SECTORS
    return ring * np.int16(N_SECTORS) + sector


def deviating_patches(excess: np.ndarray, information: np.ndarray, cutoff: float) -> np.ndarray:
    """(S, N_PATCHES) bool: patches of stills that deviate from those of the other stills.

    What all patches of a ring have in common is left to c(|q|), what all stills have in a patch to a(x, y).

    Args:
        excess, information: (S, N_PATCHES): the relative excess of a patch over what the other stills lead to expect is
            excess/information, with variance 1/information
        cutoff: relative deviation that matters
    """
    known = information >= LEAST_PHOTONS
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.where(known, excess / information, np.nan)
        sigma = 1.0 / np.sqrt(information)
    rings = deviation.reshape(len(deviation), N_RINGS, N_SECTORS)
    deviation = (rings - _median(rings, axis=2)).reshape(deviation.shape)
    deviation = np.abs(deviation - _median(deviation, axis=0))
    # comparisons with NaN are False
    return (deviation > cutoff) & (deviation > CUTOFF * sigma)


def chi2_of_patches(excess: np.ndarray, information: np.ndarray) -> np.ndarray:
    """(S,): by how much the variance of what is refined for a still is larger than counting statistics say, where the
    residuals of neighbouring observations go together; 1 unless it is certainly more.

    The mean square of the patches' deviations over their sigma, from its median, so that the worst patches do not decide.
    With patches as clusters this is the sandwich estimate of a variance (Liang & Zeger 1986, Biometrika 73, 13),
    simplified: one factor a still.
    """
    known = information >= LEAST_PHOTONS
    squares = np.where(known, excess**2 / np.where(known, information, 1.0), np.nan)
    factor = _median(squares, axis=1)[:, 0] / MEDIAN_CHI2
    noise = ERROR_OF_MEDIAN / np.sqrt(np.maximum(known.sum(axis=1), 1))
    return np.maximum(np.nan_to_num(factor - 2 * noise, nan=1.0), 1.0)


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median of what is not NaN; NaN where that is too little to tell"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        median = np.nanmedian(values, axis=axis, keepdims=True)
    few = np.isfinite(values).sum(axis=axis, keepdims=True) < LEAST_MEMBERS
    return np.where(few, np.nan, median)
