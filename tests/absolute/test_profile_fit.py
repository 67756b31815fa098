from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.absolute.profile_fit import _other_ranges, background_shape, linear_fit


def test_linear_fit_recovers_scale_and_background():
    q = np.linspace(0.3, 0.8, 40)
    expected, shape = 100 * np.exp(-q), np.ones(40)
    total = expected / 7.0 + 0.5 * shape
    fit = linear_fit(total, np.full(40, 0.1), expected, shape)
    assert (fit.scale, fit.level) == pytest.approx((7.0, 0.5))
    assert fit.chi_squared == pytest.approx(0, abs=1e-12)


def test_error_of_the_scale_is_that_of_its_scatter():
    rng = np.random.default_rng(2)
    expected = np.linspace(50, 10, 40)
    fits = [
        linear_fit(expected / 7.0 + rng.normal(0, 0.1, 40), np.full(40, 0.1), expected, None)
        for _ in range(400)
    ]
    scatter = np.std([fit.scale for fit in fits])
    assert fits[0].scale_error == pytest.approx(scatter, rel=0.15)
    assert fits[0].level == fits[0].level_error == 0


def test_shapes_of_backgrounds():
    q = np.array([0.0, 0.2, 0.8])
    assert background_shape("none", q) is None
    assert (background_shape("constant", q) == 1).all()
    air = background_shape("air", q)
    assert air[0] == pytest.approx(1.0)
    assert air[0] > air[1] > air[2] > 0


def test_ranges_of_the_scan():
    ranges = _other_ranges(0.32, 0.6)
    assert (0.32, 0.6) in ranges
    assert all(end - start > 0.049 for start, end in ranges)
    assert {end for _, end in ranges} == {0.6, 0.9 * 0.6}
