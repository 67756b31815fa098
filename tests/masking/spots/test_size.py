from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.masking.spots.size import (
    MaskExtent,
    ResidualLevel,
    fit_spot_size,
    profile_variance,
)
from dials_diffuse.masking.spots.sums import EXCITATION_BINS, PLANE_BINS, Q_BINS, SpotSums


def test_variance_of_a_normal_profile():
    x = np.linspace(0, 10, 200)
    rng = np.random.default_rng(1)
    height = 3 + np.exp(-(x**2) / 2 / 1.5**2) + 0.002 * rng.normal(size=200)
    assert profile_variance(x, height) == pytest.approx(1.5**2, rel=0.1)
    assert np.isnan(profile_variance(x, 3 + rng.normal(size=200)))


def test_extent_is_where_a_normal_spot_has_fallen_to_the_residual():
    extent = MaskExtent((0.2, 0.4), (np.log(5.0), np.log(5.0)), 0.05)
    k = extent.n_sigma_at(np.array([0.1, 0.3]))
    assert 5.0 * np.exp(-(k**2) / 2) == pytest.approx(0.05)
    limits = [MaskExtent((0.2,), (log,), 0.05).n_sigma_at(np.array([0.3])) for log in (-9, 90)]
    assert limits == [2.0, 6.0]


def test_level_is_interpolated():
    level = ResidualLevel((0.2, 0.4), (3.0, 5.0))
    assert level.at(np.array([0.1, 0.3, 0.5])).tolist() == [3.0, 4.0, 5.0]


@pytest.mark.filterwarnings("error")
def test_poor_sums_give_a_finite_size_or_none():
    """Few nodes and pixels, empty bins, surroundings without a count."""
    rng = np.random.default_rng(7)
    x = np.arange(EXCITATION_BINS)
    y = np.hypot(*np.mgrid[:PLANE_BINS, :PLANE_BINS] - PLANE_BINS // 2)
    fits = []
    for _ in range(150):
        sums = SpotSums(0.5, 0.005, stills=2)
        noise, height = rng.choice([0.0, 0.02, 1.0]), rng.choice([0.0, 0.3, 10.0])
        width, mean = rng.choice([0.5, 2.0, 10.0]), rng.choice([0.2, 3.0, 50.0])
        sums.nodes[:] = rng.integers(0, 60, Q_BINS)
        sums.pixel_variance[:] = sums.nodes[:, None] * 1e-7
        sums.strength[:] = rng.poisson(5, sums.strength.shape)
        for excess, pixels, distance in (
            (sums.excess, sums.pixels, x),
            (sums.plane_excess, sums.plane_pixels, y),
        ):
            pixels[:] = rng.poisson(mean, pixels.shape)
            peak = height * np.exp(-(distance**2) / 2 / width**2)
            excess[:] = pixels * (peak + noise * rng.normal(size=pixels.shape))
        sums.level[:] = sums.pixels * rng.choice([0.0, 0.01, 5.0])
        fits.append(fit_spot_size(sums))
    fits = [fit for fit in fits if fit is not None]
    assert 10 < len(fits) < 140
    q = np.linspace(0, 0.5, 9)
    for fit in fits:
        shape = fit.shape
        for value in (
            shape.constant,
            shape.across,
            shape.along,
            shape.point_spread,
            fit.extent(0.01).n_sigma_at(q),
        ):
            assert np.isfinite(value).all()
        assert 0 <= fit.bragg_left(0.01, 0.5) <= 1
