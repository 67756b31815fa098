"""Bright groups, against scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import generic_filter, uniform_filter

from dials_diffuse.masking.check import BRIGHT, group_significance
from dials_diffuse.masking.other_spots import CONTRAST, _median_around, _stands_out


@pytest.fixture
def panel():
    """Pixels of two rings with spots, and those that can be used."""
    rng = np.random.default_rng(3)
    pixels = rng.poisson(4.0, (70, 90)).astype(np.int32)
    pixels[rng.integers(0, 70, 30), rng.integers(0, 90, 30)] += 200
    return pixels, rng.random(pixels.shape) > 0.3


def test_significance_of_groups(panel):
    pixels, use = panel
    ring = np.where(np.arange(90) < 40, 3, 7)[None, :].repeat(70, axis=0).astype(np.int16)
    number = np.rint(9 * uniform_filter(use.astype(float), 3, mode="constant"))
    total = np.rint(9 * uniform_filter(np.where(use, pixels, 0).astype(float), 3, mode="constant"))
    enough = number >= 5
    expected = np.zeros(pixels.shape)
    for which in (3, 7):
        inside = enough & (ring == which)
        mean = (total[inside] / number[inside]).astype(np.float32)
        median = np.median(mean)
        sigma = 1.4826 * np.median(np.abs(mean - median))
        expected[inside] = (mean - median) / max(sigma, np.sqrt(mean.mean() / 9))
    significance, bright = group_significance(pixels, use, ring)
    assert np.allclose(significance, expected, rtol=1e-4, atol=1e-4)
    assert bright.sum() > 30 and np.array_equal(bright, significance > BRIGHT)


def test_what_stands_out_is_above_the_median_around(panel):
    pixels, use = panel
    use = use & (np.arange(90) > 8)  # a corner without neighbours
    frame = np.empty(17 * 17)
    footprint = np.ones((17, 17), bool)
    footprint[5:12, 5:12] = False
    values = np.where(use & (pixels <= 150), pixels, np.nan).astype(float)

    def median(around):
        around = around[np.isfinite(around)]
        return np.median(around) if around.size >= 10 else -np.inf

    expected = generic_filter(values, median, footprint=footprint, mode="constant", cval=np.nan)
    found = [False, False]
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            arguments = (pixels, ~use, 0.0, 150.0, x, y)
            assert _median_around(*arguments, frame) == expected[y, x]
            # On both sides of the limit, and at it
            for mean in (0.0, 7.0, 7.9, 8.0, 8.1, 9.0, 10.0):
                stands_out = _stands_out(*arguments, mean, frame)
                assert stands_out == (mean > CONTRAST * expected[y, x])
                found[stands_out] = True
    assert all(found)
