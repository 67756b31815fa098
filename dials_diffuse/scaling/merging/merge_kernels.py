"""Compiled loops of merging."""

from __future__ import annotations

import numpy as np
from numba import njit

from dials_diffuse.scaling.expectation.kernels import LEAST_SIGNAL, deviation


@njit(cache=True, nogil=True)
def accumulate_ratio(index, ok, y, exposure, g, h, num, den):
    """Sums of (y - E h) and E g in each voxel"""
    for k in range(len(index)):
        if ok[k]:
            num[index[k]] += y[k] - exposure[k] * h[k]
            den[index[k]] += exposure[k] * g[k]


@njit(cache=True)
def expected_variance(exposure, g, h, floor, intensity, error_b):
    """Variance of the counts of an observation, photons^2, that the merged intensity predicts"""
    signal = exposure * g * intensity
    systematic = error_b * signal
    return max(signal + exposure * h, LEAST_SIGNAL * signal) + floor + systematic * systematic


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def count_stills(index, ok, still, last, n_stills):
    """Add to n_stills (V,) the stills that saw each voxel.

    Args:
        still: (N,) in an order in which no other still's observations of the same voxel come between a still's
        last: (V,) workspace, -1 at first
    """
    for k in range(len(index)):
        if ok[k] and last[index[k]] != still[k]:
            last[index[k]] = still[k]
            n_stills[index[k]] += 1


@njit(cache=True, nogil=True)
def deviations_from_rest(
    index, ok, counts, background, exposure, g, h, floor, z, expected, error_b, prior, num, den
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


@njit(cache=True, nogil=True)
def accumulate_statistics(
    index,
    ok,
    still,
    panel,
    direction,
    y,
    exposure,
    g,
    h,
    floor,
    expected,
    error_b,
    intensity,
    num,
    den,
    n_obs,
    isotropic,
    shell,
    by_voxel,
    by_shell,
    by_still,
    by_panel,
    by_direction,
    by_size,
    histogram,
):
    """Sums for all statistics in one pass; columns of the by_ arrays are named in statistics.py.

    Args:
        isotropic: (V,) mean of the map at the voxel's |q|
        shell: (V,) resolution shell, -1 for none
        by_voxel: (V,) sum of z^2
        by_shell: (n_shells, 6); by_still: (S, 10); by_panel: (P, 5); by_direction: (D, 2)
        by_size: (n, 3), for the error model: log2 bins of the squared relative precision
            t = signal^2/variance, sums of z^2, 1 - leverage and t (1 - leverage)
        histogram: counts of z / sqrt(1 - leverage) in steps of 0.1 from -10
    """
    for k in range(len(index)):
        if not ok[k]:
            continue
        v = index[k]
        if n_obs[v] < 2:
            continue
        eg = exposure[k] * g[k]
        variance = expected_variance(exposure[k], g[k], h[k], floor[k], expected[v], error_b)
        information = eg * eg / variance
        net = y[k] - exposure[k] * h[k]
        rest_den = den[v] - information
        if rest_den <= 1e-9 * den[v]:
            continue
        share = 1.0 - information / den[v]
        residual = net - eg * intensity[v]
        square = residual * residual / variance
        by_voxel[v] += square
        i = still[k]
        p = panel[k]
        s = shell[v]
        if s >= 0:
            by_shell[s, 0] += 1
            by_shell[s, 1] += square
            by_shell[s, 2] += share
            by_shell[s, 3] += np.sqrt(n_obs[v] / (n_obs[v] - 1.0)) * abs(residual)
            by_shell[s, 4] += eg * intensity[v]
            by_shell[s, 5] += residual
        by_panel[p, 0] += 1
        by_panel[p, 1] += square
        by_panel[p, 2] += share
        by_panel[p, 3] += residual
        by_panel[p, 4] += eg * intensity[v]
        by_direction[direction[k], 0] += residual
        by_direction[direction[k], 1] += eg * intensity[v] + exposure[k] * h[k]
        rest = (num[v] - eg * net / variance) / rest_den - isotropic[v]
        own = net / eg - isotropic[v]
        by_still[i, 0] += 1
        by_still[i, 1] += square
        by_still[i, 2] += share
        by_still[i, 3] += information
        by_still[i, 4] += information * own
        by_still[i, 5] += information * rest
        by_still[i, 6] += information * own * own
        by_still[i, 7] += information * rest * rest
        by_still[i, 8] += information * own * rest
        by_still[i, 9] += eg * intensity[v]
        # not from the voxel's own intensity, which goes along with its residuals
        signal = max(eg * isotropic[v], 0.0)
        t = 0.0
        if signal > 0.0:
            t = (
                signal
                * signal
                / (max(signal + exposure[k] * h[k], LEAST_SIGNAL * signal) + floor[k])
            )
        size = 0
        if t > 2.0**-10:
            size = min(int((np.log2(t) + 10.0) * 2.0), len(by_size) - 1)
        by_size[size, 0] += square
        by_size[size, 1] += share
        by_size[size, 2] += t * share
        bar = int(np.floor((residual / np.sqrt(variance * share) + 10.0) * 10.0))
        histogram[min(max(bar, 0), len(histogram) - 1)] += 1
