"""Compiled loops of merging."""

from __future__ import annotations

import numpy as np
from numba import njit

from dials_diffuse.scaling.kernels import deviation


@njit(cache=True)
def accumulate_ratio(index, ok, y, exposure, g, h, num, den):
    """Sums of (y - E h) and E g in each voxel"""
    for k in range(len(index)):
        if ok[k]:
            num[index[k]] += y[k] - exposure[k] * h[k]
            den[index[k]] += exposure[k] * g[k]


@njit(cache=True)
def expected_variance(exposure, g, h, floor, intensity, error_b):
    """Variance of the counts of an observation, photons^2, that the merged intensity predicts"""
    signal = exposure * (g * intensity + h)
    systematic = error_b * exposure * g * intensity
    return max(signal, 0.0) + floor + systematic * systematic


@njit(cache=True)
def accumulate_weighted(
    index, ok, half, y, exposure, g, h, floor, expected, error_b, num, den, total, n_obs
):
    """Sums of w E g (y - E h) and w (E g)^2 in each voxel and half, w = 1/expected variance

    Args:
        half: (N,) 0 or 1; num, den: (2, V); total: (V,) sum of E g; n_obs: (V,)
    """
    for k in range(len(index)):
        if not ok[k]:
            continue
        v = index[k]
        eg = exposure[k] * g[k]
        w = 1.0 / expected_variance(exposure[k], g[k], h[k], floor[k], expected[v], error_b)
        num[half[k], v] += w * eg * (y[k] - exposure[k] * h[k])
        den[half[k], v] += w * eg * eg
        total[v] += eg
        n_obs[v] += 1


@njit(cache=True)
def deviations_from_rest(
    index, ok, counts, background, exposure, g, h, floor, expected, error_b, prior, num, den, z
):
    """How many sigma each observation is from the mean of all others of its voxel.

    To the others the shell's mean is added with an uncertainty of three times itself, which
    decides between two that disagree. Observations alone in their voxel get 0.

    Args:
        num, den: (V,) sums over all accepted observations, as accumulate_weighted makes them
        prior: (V,) mean intensity of the shell
        z: (N,) output
    """
    for k in range(len(index)):
        z[k] = 0.0
        if not ok[k]:
            continue
        v = index[k]
        eg = exposure[k] * g[k]
        w = 1.0 / expected_variance(exposure[k], g[k], h[k], floor[k], expected[v], error_b)
        y = counts[k] - background[k]
        rest_den = den[v] - w * eg * eg
        if rest_den <= 1e-9 * den[v]:
            continue
        prior_den = 1.0 / (9.0 * prior[v] * prior[v])
        rest = (num[v] - w * eg * (y - exposure[k] * h[k]) + prior_den * prior[v]) / (
            rest_den + prior_den
        )
        signal = max(eg * rest + exposure[k] * h[k], 0.0)
        systematic = error_b * eg * rest
        variance = signal + floor[k] + eg * eg / (rest_den + prior_den) + systematic**2
        z[k] = deviation(counts[k], signal + background[k], variance)


@njit(cache=True)
def residuals(index, ok, y, exposure, g, h, floor, expected, error_b, intensity, den, z, leverage):
    """Residuals over sigma from the merged intensity, and the leverage of each observation.

    z^2 / (1 - leverage) has mean 1 where the variances are right. Observations alone in their
    voxel, and rejected ones, get NaN.
    """
    for k in range(len(index)):
        z[k] = np.nan
        leverage[k] = np.nan
        if not ok[k]:
            continue
        v = index[k]
        eg = exposure[k] * g[k]
        variance = expected_variance(exposure[k], g[k], h[k], floor[k], expected[v], error_b)
        share = eg * eg / variance / den[v]
        if share < 1.0 - 1e-9:
            z[k] = (y[k] - eg * intensity[v] - exposure[k] * h[k]) / np.sqrt(variance)
            leverage[k] = share
