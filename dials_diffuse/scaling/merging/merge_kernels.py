"""Compiled loops of merging.

They take observations as MergeRows. Chunks of rows that have no voxel in common may run at the same
time; arrays over voxels are then shared, all other sums are separate for each chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dials_diffuse.scaling.expectation.kernels import deviation, expected_variance


class MergeRows(NamedTuple):
    """Observations for merging, each array (N,).

    Attributes:
        index: position of the voxel, -1 for none
        ok: bool, takes part
        still, panel: numbers
        counts, background, net: photons, net = counts less background
        exposure: s sr
        g, h: inverse scale factor, offset in photons/(s sr)
        floor: variance that does not depend on the intensity, photons^2
    """

    index: np.ndarray
    ok: np.ndarray
    still: np.ndarray
    panel: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    net: np.ndarray
    exposure: np.ndarray
    g: np.ndarray
    h: np.ndarray
    floor: np.ndarray


class VoxelSums(NamedTuple):
    """Weighted sums of the observations of each voxel, in each half set.

    Attributes:
        num, den: (2, V) sums of w E g (net - E h) and of w (E g)^2
        exposure: (V,) sum of E g
        n_obs: (V,)
    """

    num: np.ndarray
    den: np.ndarray
    exposure: np.ndarray
    n_obs: np.ndarray


class MergedTables(NamedTuple):
    """Merged voxels that observations are compared with, each array (V,).

    Attributes:
        expected: intensity that the weights were made with
        intensity: merged
        num, den: VoxelSums of both halves together
        n_obs: number of observations
        isotropic: mean of the map at the |q| of the voxel
        shell: resolution shell, -1 for none
    """

    expected: np.ndarray
    intensity: np.ndarray
    num: np.ndarray
    den: np.ndarray
    n_obs: np.ndarray
    isotropic: np.ndarray
    shell: np.ndarray


# Columns of the sums by shell, panel and still
N, SQUARE, FREEDOM = range(3)
RESIDUAL, EXPECTED = 3, 4
WEIGHTED_ABS = 5
INFORMATION, OWN, REST, OWN_OWN, REST_REST, OWN_REST = range(3, 9)


class StatisticSums(NamedTuple):
    """Sums for the statistics; z^2 is the squared residual over its variance.

    Attributes:
        shells: (n_shells, 6) number, z^2, 1 - leverage, residuals, expected photons, and
            sqrt(n/(n-1)) |residual|
        panels: (P, 5) the first five of the same
        stills: (S, 9) number, z^2, 1 - leverage, and sums over w, w own, w rest, w own^2, w rest^2,
            w own rest, with own and rest the anisotropic part of the observation's intensity and of
            that of all others
        directions: (D, 2) residuals, expected photons with offset
        sizes: (n, 3) for the error model: log2 bins of t = signal^2/variance, sums of z^2,
            1 - leverage and t (1 - leverage)
        histogram: numbers of residual / sigma in steps of 0.1 from -10
    """

    shells: np.ndarray
    panels: np.ndarray
    stills: np.ndarray
    directions: np.ndarray
    sizes: np.ndarray
    histogram: np.ndarray


@njit(cache=True, nogil=True)
def accumulate_ratio(rows, num, den):
    """Add (net - E h) and E g of observations to num and den (V,), in place."""
    for k in range(len(rows.index)):
        if rows.ok[k]:
            num[rows.index[k]] += rows.net[k] - rows.exposure[k] * rows.h[k]
            den[rows.index[k]] += rows.exposure[k] * rows.g[k]


@njit(cache=True)
def row_variance(rows, k, intensity, error_b):
    """Variance of the counts of observation k that an intensity predicts, photons^2."""
    signal = rows.exposure[k] * rows.g[k] * intensity
    offset = rows.exposure[k] * rows.h[k]
    return expected_variance(signal, offset, rows.floor[k], error_b * signal)


@njit(cache=True, nogil=True)
def accumulate_weighted(rows, half, expected, error_b, sums):
    """Add observations to VoxelSums in place, with weights of one over the expected variance.

    Args:
        half: (S,) half set of each still, 0 or 1
        expected: (V,) intensity for the weights
        error_b: fraction of the intensity that adds to sigma
    """
    for k in range(len(rows.index)):
        if not rows.ok[k]:
            continue
        v, side = rows.index[k], half[rows.still[k]]
        eg = rows.exposure[k] * rows.g[k]
        w = 1.0 / row_variance(rows, k, expected[v], error_b)
        sums.num[side, v] += w * eg * (rows.net[k] - rows.exposure[k] * rows.h[k])
        sums.den[side, v] += w * eg * eg
        sums.exposure[v] += eg
        sums.n_obs[v] += 1


@njit(cache=True, nogil=True)
def count_stills(index, ok, still, last, n_stills):
    """Add the number of stills that saw each voxel to n_stills (V,), in place.

    Args:
        index, ok, still: (N,) in an order in which the observations of a voxel by one still follow
            each other
        last: (V,) workspace, -1 at first
    """
    for k in range(len(index)):
        if ok[k] and last[index[k]] != still[k]:
            last[index[k]] = still[k]
            n_stills[index[k]] += 1


@njit(cache=True, nogil=True)
def deviations_from_rest(rows, z, expected, error_b, prior, num, den):
    """Deviation of each observation from the mean of all others of its voxel, in sigma.

    The mean of the shell, with an uncertainty of three times itself, counts as one more observation,
    which decides between two that disagree. Observations alone in their voxel get 0.

    Args:
        z: (N,) output
        expected: (V,) intensity for the weights
        error_b: fraction of the intensity that adds to sigma
        prior: (V,) mean intensity of the shell
        num, den: (V,) sums over all accepted observations, as in VoxelSums
    """
    for k in range(len(rows.index)):
        z[k] = 0.0
        if not rows.ok[k]:
            continue
        v = rows.index[k]
        eg, offset = rows.exposure[k] * rows.g[k], rows.exposure[k] * rows.h[k]
        w = 1.0 / row_variance(rows, k, expected[v], error_b)
        rest_den = den[v] - w * eg * eg
        if rest_den <= 1e-9 * den[v]:
            continue
        prior_den = 1.0 / (9.0 * prior[v] * prior[v])
        rest = (num[v] - w * eg * (rows.net[k] - offset) + prior_den * prior[v]) / (
            rest_den + prior_den
        )
        signal = max(eg * rest + offset, 0.0)
        systematic = error_b * eg * rest
        variance = signal + rows.floor[k] + eg * eg / (rest_den + prior_den) + systematic**2
        z[k] = deviation(rows.counts[k], signal + rows.background[k], variance)


@njit(cache=True, nogil=True)
def accumulate_statistics(rows, direction, merged, error_b, scatter, sums):
    """Add the observations of voxels with two or more to all statistics, in place.

    Args:
        direction: (N,) bin of the direction of s1
        merged: MergedTables
        error_b: fraction of the intensity that adds to sigma
        scatter: (V,) sum of z^2
        sums: StatisticSums
    """
    for k in range(len(rows.index)):
        v = rows.index[k]
        if not rows.ok[k] or merged.n_obs[v] < 2:
            continue
        eg, offset = rows.exposure[k] * rows.g[k], rows.exposure[k] * rows.h[k]
        variance = row_variance(rows, k, merged.expected[v], error_b)
        information = eg * eg / variance
        net = rows.net[k] - offset
        rest_den = merged.den[v] - information
        if rest_den <= 1e-9 * merged.den[v]:
            continue
        freedom = 1.0 - information / merged.den[v]
        expected = eg * merged.intensity[v]
        residual = net - expected
        square = residual * residual / variance
        scatter[v] += square
        s = merged.shell[v]
        if s >= 0:
            _add_common(sums.shells[s], square, freedom)
            sums.shells[s, RESIDUAL] += residual
            sums.shells[s, EXPECTED] += expected
            n = merged.n_obs[v]
            sums.shells[s, WEIGHTED_ABS] += np.sqrt(n / (n - 1.0)) * abs(residual)
        p = rows.panel[k]
        _add_common(sums.panels[p], square, freedom)
        sums.panels[p, RESIDUAL] += residual
        sums.panels[p, EXPECTED] += expected
        sums.directions[direction[k], 0] += residual
        sums.directions[direction[k], 1] += expected + offset
        isotropic = merged.isotropic[v]
        rest = (merged.num[v] - eg * net / variance) / rest_den - isotropic
        own = net / eg - isotropic
        still = sums.stills[rows.still[k]]
        _add_common(still, square, freedom)
        still[INFORMATION] += information
        still[OWN] += information * own
        still[REST] += information * rest
        still[OWN_OWN] += information * own * own
        still[REST_REST] += information * rest * rest
        still[OWN_REST] += information * own * rest
        # not from the intensity of the voxel, which is correlated with its residuals
        t = _squared_precision(max(eg * isotropic, 0.0), offset, rows.floor[k])
        size = 0
        if t > 2.0**-10:
            size = min(int((np.log2(t) + 10.0) * 2.0), len(sums.sizes) - 1)
        sums.sizes[size, 0] += square
        sums.sizes[size, 1] += freedom
        sums.sizes[size, 2] += t * freedom
        bar = int(np.floor((residual / np.sqrt(variance * freedom) + 10.0) * 10.0))
        sums.histogram[min(max(bar, 0), len(sums.histogram) - 1)] += 1


@njit(cache=True)
def _add_common(row, square, freedom):
    row[N] += 1
    row[SQUARE] += square
    row[FREEDOM] += freedom


@njit(cache=True)
def _squared_precision(signal, offset, floor):
    """signal^2 / variance; 0 without a signal."""
    if signal <= 0.0:
        return 0.0
    return signal * signal / expected_variance(signal, offset, floor, 0.0)
