"""Compiled loops of merging."""

from __future__ import annotations

from numba import njit


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
