"""Priors of the components."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import doubles
from synthetic_scaling import scale_settings

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.model.components import RadialOffset, ScaleSeries, Sensitivity
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.refinement.restraints import (
    MEAN,
    REMAINING,
    grid_second_differences,
    learnt_offset_prior,
    learnt_scale_prior,
    offset_part,
    panel_part,
    robust_variance,
    scale_part,
    second_differences,
    sensitivity_part,
)

EXTENT = (-0.5, 0.5, -0.5, 0.5)
P_ORDER = np.arange(12.0)


def intensity(q):
    return 100 * np.exp(-4 * np.asarray(q) ** 2)


def seen_directions(n_steps, n=40_000, seed=0):
    """(steps, directions) observations at random within the circle of the detector"""
    x, y = Sensitivity(doubles(np.ones(25)), EXTENT, (5, 5)).bin_centres()
    inside = np.flatnonzero(np.hypot(x, y) < 0.5)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(inside, n), rng.integers(0, n_steps, n)
    out = np.zeros((n_steps, len(x)))
    np.add.at(out, (chosen[1], chosen[0]), 1)
    return out


def plane():
    return Sensitivity(doubles(np.ones(49)), EXTENT, (7, 7))


def a_series():
    return SensitivitySeries(doubles(np.ones(25 * 5)), EXTENT, (5, 5), P_ORDER)


def restraints(**values):
    return scale_settings(restraints=values).restraints


def test_second_differences_are_zero_for_straight_lines():
    np.testing.assert_allclose(second_differences(6) @ (3 + 2 * np.arange(6.0)), 0, atol=1e-12)
    np.testing.assert_allclose(second_differences(5) @ np.arange(5.0) ** 2, 2)
    assert second_differences(2).shape == (0, 2)
    x, y = np.meshgrid(np.arange(4.0), np.arange(3.0))
    matrix = grid_second_differences(4, 3)
    np.testing.assert_allclose(matrix @ (1 + x - 3 * y).ravel(), 0, atol=1e-12)
    np.testing.assert_allclose((matrix @ (x**2).ravel())[:6], 2)
    np.testing.assert_allclose((matrix @ (x**2).ravel())[6:], 0, atol=1e-12)


def test_b_stays_around_the_scale_of_the_profile():
    start = np.array([0.5, 1.0, 2.0])
    part = scale_part(start, None, 0.3)
    assert part.by_still and part.along is part.across is None
    np.testing.assert_array_equal(part.values[:, 0], start)
    # one sigma off costs 1 each
    assert part.prior.value(1.3 * part.values) == pytest.approx(3)
    assert (part.positive[:, 0] < 0.1 * start).all() and (part.positive > 0).all()
    series = ScaleSeries(doubles(np.ones(5)), P_ORDER)
    start = 1 + 0.3 * np.sin(P_ORDER / 4)
    smooth = scale_part(start, series, 0.3)
    assert not smooth.by_still
    np.testing.assert_allclose(smooth.table(smooth.values)[:, 0], start, atol=0.02)
    assert smooth.prior.value(1.3 * smooth.values) == pytest.approx(5)


def test_c_is_measured_by_the_intensity_of_the_still():
    component = RadialOffset(doubles(np.zeros(8)), 0.5)
    start = np.array([0.5, 2.0])
    part = offset_part(component, start, intensity, 5.0, 1e6)
    mean = intensity(np.clip(component.positions(), 0, 0.5))
    assert part.table(part.values).shape == (2, 512) and not part.values.any()
    for still in (0, 1):
        values = np.zeros((2, 8))
        values[still] = 5.0 * start[still] * mean
        assert part.prior.value(values) == pytest.approx(8, rel=1e-6)
    # the wiggle of a single parameter
    part = offset_part(component, start, intensity, 1e6, 0.5)
    values = np.zeros((2, 8))
    values[1, 4] = 0.5 * 2.0 * mean[4]
    assert part.prior.value(values) == pytest.approx(1 + 4 + 1, rel=1e-6)
    values[1] = 0.7 * mean
    assert part.prior.value(values) == pytest.approx(0, abs=1e-6)


def test_c_of_a_series_is_smooth_along_p_order_too():
    series = OffsetSeries(doubles(np.zeros(6 * 5)), 0.5, 6, P_ORDER)
    part = offset_part(series, np.full(12, 2.0), intensity, 1e6, 0.5)
    mean = intensity(np.clip(series.positions(), 0, 0.5))
    steady, line, bent = (
        factor[:, None] * mean for factor in (np.ones(5), np.arange(5.0), np.arange(5.0) ** 2)
    )
    assert part.prior.value(steady) == pytest.approx(0, abs=1e-6)
    assert part.prior.value(line) == pytest.approx(0, abs=1e-6)
    # second differences of 2, three of them at each of six |q|, of a still with b = 2
    assert part.prior.value(bent) == pytest.approx(6 * 3 * (2 / 2.0 / 0.5) ** 2, rel=1e-4)
    weights = np.random.default_rng(1).normal(size=part.values.shape)
    np.testing.assert_allclose(
        part.table(weights), series.weights @ weights @ series.table_weights().T
    )


def test_mean_of_d_is_held():
    seen = np.array([100.0, 300.0, 0.0])
    part = panel_part(seen, 0.1)
    ones = part.values
    assert ones.tolist() == [[1, 1, 1]] and part.prior.value(ones) == 0
    shift = np.array([[0.3, -0.1, 0.0]])
    # the mean over observations stays
    assert part.prior.value(ones + shift) == pytest.approx(0.1 / 0.01)
    assert part.prior.value(0.9 * ones) > (0.09 / MEAN) ** 2


@pytest.mark.parametrize("make", [plane, a_series])
def test_mean_of_a_is_held(make):
    """Or a shrinks to nothing, where the other restraints cost nothing, and b grows: the expectations are
    the same"""
    component = make()
    n_steps = len(component.steps) if make is a_series else 1
    part = sensitivity_part(component, seen_directions(n_steps), restraints())
    assert part.prior.value(part.values) == pytest.approx(0, abs=1e-9)
    assert part.prior.value(0.9 * part.values) > (0.09 / MEAN) ** 2


def test_restrained_means_of_rings_are_those_of_the_observations():
    component, seen = plane(), seen_directions(1)
    none = {"sensitivity": 1e9, "sensitivity_smoothness": 1e9}
    part = sensitivity_part(component, seen, restraints(**none, sensitivity_rings=1e-3))
    rng = np.random.default_rng(2)
    values = 1 + 0.1 * rng.normal(size=part.values.shape)
    x, y = component.bin_centres()
    ring = (np.hypot(x, y) / (1.0 / 14)).astype(int)
    a = part.table(values)[0]
    total = np.bincount(ring, seen[0])
    means = np.bincount(ring, seen[0] * a)[total > 0] / total[total > 0]
    mean = np.average(a, weights=seen[0])
    expected = np.sum(((means - mean) / 1e-3) ** 2) + ((mean - 1) / MEAN) ** 2
    assert part.prior.value(values) == pytest.approx(expected, rel=1e-6)


def test_restrained_means_of_a_series_are_those_around_each_position():
    component = a_series()
    seen = seen_directions(len(component.steps))
    none = {"sensitivity": 1e9, "sensitivity_smoothness": 1e9}
    part = sensitivity_part(component, seen, restraints(**none, sensitivity_rings=1e-3))
    values = 1 + 0.1 * np.random.default_rng(2).normal(size=part.values.shape)
    a, along = part.table(values), component.weights
    mean = np.average(a, weights=seen)
    x, y = component.plane.bin_centres()
    ring = (np.hypot(x, y) / (1.0 / 10)).astype(int)
    total = np.bincount(ring, seen.sum(axis=0))
    of_rings = np.bincount(ring, (seen * a).sum(axis=0))[total > 0] / total[total > 0]
    near = along.T @ (seen * a).sum(axis=1) / (along.T @ seen.sum(axis=1))
    deviations = np.concatenate((of_rings, near)) - mean
    expected = np.sum((deviations / 1e-3) ** 2) + ((mean - 1) / MEAN) ** 2
    assert part.prior.value(values) == pytest.approx(expected, rel=1e-6)


def test_a_radial_drift_costs_more_than_a_tilt():
    """What depends on |q| only can't be told from the intensities"""
    component = plane()
    part = sensitivity_part(component, seen_directions(1), restraints())
    x, y = (values.ravel() for values in np.meshgrid(*(np.linspace(-1, 1, 7) for _ in range(2))))

    def cost(values):
        shifted = 1 + values
        table = part.table(shifted[None])[0]
        # at the same mean
        mean = np.average(table, weights=seen_directions(1)[0])
        return part.prior.value(shifted[None] / mean)

    radial = 0.05 * (x**2 + y**2 - np.mean(x**2 + y**2))
    tilt = 0.05 * x
    assert np.std(radial) < np.std(tilt)
    assert cost(radial) > 5 * cost(tilt)


def covariances_of(n_stills, n, sigma):
    return np.tile(sigma**2 * np.eye(n), (n_stills, 1, 1))


def test_prior_of_c_is_free_where_the_stills_differ_and_narrow_elsewhere():
    rng = np.random.default_rng(3)
    n_stills, n = 200, 6
    start = rng.uniform(0.5, 2, n_stills)
    air = np.array([3.0, 2.0, 1.0, 0.5, 0.0, 0.0])
    common = np.full(n, 7.0)
    amount = rng.normal(size=n_stills)
    values = start[:, None] * (common + 20 * amount[:, None] * air)
    # errors that are the same in units of b
    covariances = covariances_of(n_stills, n, 1.0) * start[:, None, None] ** 2
    values += start[:, None] * rng.normal(size=values.shape)
    prior, usual = learnt_offset_prior(values, start, covariances)
    assert usual.mean() > 0.95
    np.testing.assert_allclose(prior.mean, start[:, None] * common, rtol=0.6)
    covariance = np.linalg.inv(prior.precision[5]) / start[5] ** 2
    along = air / np.linalg.norm(air)
    spread = (20 * np.linalg.norm(air)) ** 2
    assert along @ covariance @ along == pytest.approx(spread, rel=0.3)
    across = np.array([0, 0, 0, 0, 1.0, 0])
    assert across @ covariance @ across < 3 * REMAINING
    values[3] += start[3] * 1000 * np.arange(n)
    assert not learnt_offset_prior(values, start, covariances)[1][3]


def test_prior_of_b_is_as_wide_as_b_and_profile_differ():
    rng = np.random.default_rng(4)
    n = 400
    start = rng.uniform(0.5, 2, n)
    sigma, start_sigma = 0.02 * start, 0.001 * start
    b = start * (1 + 0.1 * rng.normal(size=n))
    prior, usual = learnt_scale_prior(b, sigma, start, start_sigma)
    width = 1 / np.sqrt(prior.precision[:, 0, 0]) / start
    np.testing.assert_allclose(width, 0.1, rtol=0.15)
    assert 0.9 < usual.mean() < 1
    # nothing but errors: little more than the profile's own error
    same, _ = learnt_scale_prior(start + sigma * rng.normal(size=n), sigma, start, start_sigma)
    assert (1 / np.sqrt(same.precision[:, 0, 0]) / start < 0.02).all()
    far = b.copy()
    far[7] = 0.1 * start[7]
    assert not learnt_scale_prior(far, sigma, start, start_sigma)[1][7]


def test_variance_does_not_follow_a_few_wild_values():
    values = np.random.default_rng(5).normal(0, [[2.0, 0.5]], (5000, 2))
    values[:100] = 1000
    np.testing.assert_allclose(robust_variance(values), [4, 0.25], rtol=0.1)
