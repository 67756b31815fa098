"""Patches of images that deviate from those of other stills: fibres of the loop, ice, shadows.

The model adds an offset c(|q|) to each still, and factors of direction (a, d) that are the same for
all stills. If something in the beam breaks both rules, a would follow it, through c, into the map, so
such patches are left out.
"""

from __future__ import annotations

import warnings

import numpy as np

from dials_diffuse.scaling.observations.frames import N_RINGS, N_SECTORS

N_PATCHES = N_RINGS * N_SECTORS
NO_PATCH = N_PATCHES
# Standard deviations beyond which a patch deviates
CUTOFF = 6.0
# Least expected photons of a patch, for sigma to be meaningful
LEAST_PHOTONS = 25.0
# Median of chi^2 of one degree of freedom; standard deviation of the median of n of them over it, times sqrt(n)
MEDIAN_CHI2 = 0.4549
ERROR_OF_MEDIAN = 2.33
# Stills in a patch, and patches in a ring, for a median
LEAST_MEMBERS = 5


def deviating_patches(excess: np.ndarray, information: np.ndarray, cutoff: float) -> np.ndarray:
    """(S, N_PATCHES) bool: patches of stills that deviate from those of the other stills.

    Deviations that all patches of a ring have in common belong to c(|q|), those that all stills have
    in a patch to a(x, y).

    Args:
        excess, information: (S, N_PATCHES) sums of patch_excess: the relative deviation of a patch
            from the other stills is excess/information, with variance 1/information
        cutoff: least relative deviation
    """
    enough = information >= LEAST_PHOTONS
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.where(enough, excess / information, np.nan)
        sigma = 1.0 / np.sqrt(information)
    rings = deviation.reshape(len(deviation), N_RINGS, N_SECTORS)
    deviation = (rings - _median(rings, axis=2)).reshape(deviation.shape)
    deviation = np.abs(deviation - _median(deviation, axis=0))
    # comparisons with NaN are False
    return (deviation > cutoff) & (deviation > CUTOFF * sigma)


def chi2_of_patches(excess: np.ndarray, information: np.ndarray) -> np.ndarray:
    """(S,): factor on the variances of a still's parameters, as its observations are correlated.

    The mean square of the patches' deviations over their sigma, from its median, so that the worst
    patches do not decide; 1 unless it is certainly more. With patches as clusters this is the sandwich
    estimate of a variance (Liang & Zeger 1986, Biometrika 73, 13), simplified to one factor a still.
    """
    enough = information >= LEAST_PHOTONS
    squares = np.where(enough, excess**2 / np.where(enough, information, 1.0), np.nan)
    factor = _median(squares, axis=1)[:, 0] / MEDIAN_CHI2
    noise = ERROR_OF_MEDIAN / np.sqrt(np.maximum(enough.sum(axis=1), 1))
    return np.maximum(np.nan_to_num(factor - 2 * noise, nan=1.0), 1.0)


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median of the values that are not NaN; NaN for fewer than LEAST_MEMBERS of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        median = np.nanmedian(values, axis=axis, keepdims=True)
    few = np.isfinite(values).sum(axis=axis, keepdims=True) < LEAST_MEMBERS
    return np.where(few, np.nan, median)
