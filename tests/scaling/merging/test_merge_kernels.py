"""Weights and sums of merging, against brute force."""

from __future__ import annotations

import numpy as np

from dials_diffuse.scaling.merging.merge_kernels import MergeRows, VoxelSums, accumulate_weighted


def test_an_offset_below_zero_makes_no_observation_certain():
    rng = np.random.default_rng(1)
    n, n_voxels = 200, 10
    index, still = rng.integers(0, n_voxels, n), rng.integers(0, 9, n)
    half_of_still = rng.integers(0, 2, 9).astype(np.int8)
    exposure, g = rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 2.0, n)
    expected = rng.uniform(2.0, 9.0, n_voxels)
    # from far below what would leave no photons to far above
    h = rng.uniform(-4.0, 4.0, n) * g * expected[index]
    y = rng.poisson(5.0, n).astype(float)
    zeros = np.zeros(n)
    rows = MergeRows(
        index, np.ones(n, dtype=bool), still, still, y, zeros, y, exposure, g, h, floor=zeros
    )
    half = half_of_still[still]
    num, den = np.zeros((2, n_voxels)), np.zeros((2, n_voxels))
    sums = VoxelSums(num, den, np.zeros(n_voxels), np.zeros(n_voxels))
    accumulate_weighted(rows, half_of_still, expected, 0.0, sums)
    signal = exposure * g * expected[index]
    weight = 1 / np.maximum(signal + exposure * h, 0.05 * signal)
    for side in (0, 1):
        inside = half == side
        np.testing.assert_allclose(
            den[side], np.bincount(index[inside], (weight * (exposure * g) ** 2)[inside], n_voxels)
        )
        np.testing.assert_allclose(
            num[side],
            np.bincount(
                index[inside], (weight * exposure * g * (y - exposure * h))[inside], n_voxels
            ),
        )
    assert (signal + exposure * h < 0).sum() > 20
