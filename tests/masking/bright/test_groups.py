"""Sums over groups of pixels, against scipy over the whole image."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from scipy.ndimage import convolve

from dials_diffuse.masking.bright.groups import PanelPixels, group_mean, group_row, sum_groups


@numba.njit
def groups_of(raw, blocked, bounds):
    """Sums and numbers by rows, for the second of two images, and one by one."""
    pixels, row = PanelPixels(raw, blocked, bounds), group_row(raw.shape[1], np.float32)
    total, count, one_total, one_count = np.zeros((4, *raw.shape))
    for _ in range(2):
        for y in range(raw.shape[0]):
            sum_groups(pixels, y, row)
            total[y], count[y] = row.total, row.count
    for y, x in np.ndindex(raw.shape):
        mean, one_count[y, x] = group_mean(pixels, x, y)
        one_total[y, x] = np.rint(mean * one_count[y, x])
    return total, count, one_total, one_count


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float64])
@pytest.mark.parametrize("shape", [(12, 17), (1, 1), (2, 3)])
def test_groups_have_the_sums_of_a_whole_image_filter(kind, shape):
    rng = np.random.default_rng(4)
    raw = rng.poisson(9.0, shape).astype(kind)
    blocked = rng.random(shape) < 0.3
    if kind is np.float64:
        raw[0, 0] = np.nan
    low, high = 4, 14
    with np.errstate(invalid="ignore"):
        use = ~blocked & (raw >= low) & (raw <= high)
    nine = np.ones((3, 3))
    count = convolve(use.astype(float), nine, mode="constant")
    total = convolve(np.where(use, raw, 0).astype(float), nine, mode="constant")
    for got, expected in zip(groups_of(raw, blocked, np.array([low, high])), (total, count) * 2):
        assert np.array_equal(got, expected)
