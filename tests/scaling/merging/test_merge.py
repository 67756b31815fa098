"""Weights and sums of merging, against brute force."""

from __future__ import annotations

import numpy as np

from dials_diffuse.scaling.merging.merge_kernels import accumulate_weighted


def test_an_offset_below_zero_makes_no_observation_certain():
    rng = np.random.default_rng(1)
    n, n_voxels = 200, 10
    index, half = rng.integers(0, n_voxels, n), rng.integers(0, 2, n).astype(np.int8)
    exposure, g = rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 2.0, n)
    expected = rng.uniform(2.0, 9.0, n_voxels)
    # from far below what would leave no photons to far above
    h = rng.uniform(-4.0, 4.0, n) * g * expected[index]
    y = rng.poisson(5.0, n).astype(float)
    num, den, total, n_obs = (
        np.zeros((2, n_voxels)),
        np.zeros((2, n_voxels)),
        np.zeros(n_voxels),
        np.zeros(n_voxels),
    )
    accumulate_weighted(
        index,
        np.ones(n, dtype=bool),
        half,
        y,
        exposure,
        g,
        h,
        np.zeros(n),
        expected,
        0.0,
        num,
        den,
        total,
        n_obs,
    )
    signal = exposure * g * expected[index]
    weight = 1 / np.maximum(signal + exposure * h, 0.05 * signal)
    for side in (0, 1):
        here = half == side
        np.testing.assert_allclose(
            den[side], np.bincount(index[here], (weight * (exposure * g) ** 2)[here], n_voxels)
        )
        np.testing.assert_allclose(
            num[side],
            np.bincount(index[here], (weight * exposure * g * (y - exposure * h))[here], n_voxels),
        )
    assert (signal + exposure * h < 0).sum() > 20
