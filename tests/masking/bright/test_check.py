"""Bright groups, against scipy and numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from dials_diffuse.masking.bright.check import BRIGHT, group_significance


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
    significance = group_significance(pixels, use, ring)
    assert np.allclose(significance, expected, rtol=1e-4, atol=1e-4)
    assert (significance > BRIGHT).sum() > 30
