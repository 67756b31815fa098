"""Rejection of outliers among the observations of a voxel.

What agrees with itself stays: an observation is compared with the mean of all others of its voxel. Of those that
disagree with it, the one goes first that is farthest from what is expected without them.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def deviation(counts, expected, variance):
    """Signed deviation of the counts of an observation, in sigma.

    Deviance residual of the Poisson law, scaled to the variance: unlike (n - m) / sigma nearly
    normal at low counts too, so that two photons where 0.1 are expected are no 6 sigma.
    (McCullagh & Nelder, Generalized Linear Models, section 2.4.)
    """
    if expected <= 0.0 or counts < 0.0:
        return (counts - expected) / np.sqrt(variance)
    dispersion = variance / expected
    deviance = expected - counts
    if counts > 0.0:
        deviance += counts * np.log(counts / expected)
    size = np.sqrt(max(2.0 * deviance / dispersion, 0.0))
    return size if counts > expected else -size


@njit(cache=True)
def reject_outliers(rows, eg, eh, weight, expected, systematic, cutoff, z):
    """Set the weight of outliers of one voxel to 0, one after the other.

    An observation is compared with the mean of all others, in units of the standard deviation of the
    difference, until none deviates by more than the cutoff. Of those that do, the one that is farthest from what is
    expected goes. Of 100 observations and more, up to one in 50 are rejected at a time, if they deviate by 0.7 of the
    worst: one by one, the time would grow with the square of their number.

    Args:
        rows: (n,) of ROW, of one voxel
        eg, eh: (n,) E g and E h
        weight: (n,) changed in place
        expected: intensity that is expected without these observations
        systematic: standard deviation in proportion to the signal, as a fraction
        cutoff: in sigma
        z: (n,) workspace

    Returns:
        number of rejected observations
    """
    num = den = 0.0
    n = 0
    for k in range(len(rows)):
        if weight[k] > 0.0:
            num += weight[k] * eg[k] * (rows[k].net - eh[k])
            den += weight[k] * eg[k] * eg[k]
            n += 1
    n_rejected = 0
    while n > 1:
        largest = _deviations_from_rest(
            rows, eg, eh, weight, (num, den, expected), systematic, cutoff, z
        )
        if not largest > cutoff:
            break
        limit = _limit_of_worst(z, largest, cutoff, n)
        if limit == largest:
            _compare_with_expected(rows, eg, eh, expected, systematic, cutoff, z)
            limit = largest = np.max(z)
        for k in range(len(rows)):
            if weight[k] > 0.0 and z[k] >= limit:
                num -= weight[k] * eg[k] * (rows[k].net - eh[k])
                den -= weight[k] * eg[k] ** 2
                weight[k] = 0.0
                n -= 1
                n_rejected += 1
                if limit == largest:
                    break
    return n_rejected


@njit(cache=True)
def _deviations_from_rest(rows, eg, eh, weight, known, systematic, cutoff, z):
    """Fill z with the deviations of accepted observations that may exceed the cutoff; returns the largest.

    Where the others have less than what is expected, this counts as one more observation, with an error of three times
    itself: a few observations without a photon do not make one with some photons wrong.

    Args:
        known: (num, den, expected) of the voxel
    """
    num, den, expected = known
    largest, own = 0.0, 1.0 / (9.0 * expected * expected)
    for k in range(len(rows)):
        z[k] = 0.0
        if weight[k] > 0.0:
            w = weight[k]
            rest_den = max(den - w * eg[k] * eg[k], 1e-300)
            rest = (num - w * eg[k] * (rows[k].net - eh[k])) / rest_den
            if rest < expected:
                rest = (rest_den * rest + own * expected) / (rest_den + own)
                rest_den += own
            signal = max(eg[k] * rest + eh[k], 0.0)
            variance = signal + rows[k].floor + eg[k] * eg[k] / rest_den
            variance += (systematic * eg[k] * rest) ** 2
            # since log x <= x - 1, its square is twice this at most: few need the logarithm
            if 2 * (rows[k].net - signal) ** 2 > cutoff**2 * variance:
                background = rows[k].background
                z[k] = abs(deviation(rows[k].net + background, signal + background, variance))
                largest = max(largest, z[k])
    return largest


@njit(cache=True)
def _compare_with_expected(rows, eg, eh, expected, systematic, cutoff, z):
    """Replace z beyond the cutoff by deviations from what is expected without these observations, others by 0."""
    for k in range(len(rows)):
        if z[k] > cutoff:
            signal = max(eg[k] * expected + eh[k], 0.0)
            variance = signal + rows[k].floor + (systematic * eg[k] * expected) ** 2
            background = rows[k].background
            z[k] = abs(deviation(rows[k].net + background, signal + background, variance))
        else:
            z[k] = -1.0


@njit(cache=True)
def _limit_of_worst(z, largest, cutoff, n):
    """Least z of those to be rejected at a time: of the worst of n, or of the worst fiftieth."""
    most = n // 50
    if most < 2:
        return largest
    far = np.sort(z[(z > cutoff) & (z >= 0.7 * largest)])
    return far[-min(most, len(far))]
