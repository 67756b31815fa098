from __future__ import annotations

import numpy as np
import pytest

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.array_family import flex

from dials_diffuse.model.components import (
    PanelScale,
    RadialOffset,
    ScaleSeries,
    Sensitivity,
    StillScale,
    intervals_of,
    n_parameters_of,
    nearest_bins,
)


@pytest.fixture
def offset():
    return RadialOffset(flex.double(np.random.default_rng(5).normal(1, 0.2, 8).tolist()), 0.5)


@pytest.fixture
def sensitivity():
    values = np.random.default_rng(5).normal(1, 0.2, 35)
    return Sensitivity(flex.double(values.tolist()), (-0.4, 0.4, -0.3, 0.3), (7, 5))


def smoother_values(component, *axes):
    """Values of DIALS's smoother at positions"""
    positions = (flex.double(axis.tolist()) for axis in axes)
    return np.array(component.smoother.multi_value_weight(*positions, component.parameters)[0])


def test_tables_are_the_values_of_the_smoothers_at_the_nearest_bin(offset, sensitivity):
    q = offset.bin_centres()
    table = offset.table_weights() @ offset.values()
    np.testing.assert_allclose(table, smoother_values(offset, q), rtol=1e-12)
    np.testing.assert_array_equal(offset.bin_of(q), np.arange(len(q)))
    x, y = sensitivity.bin_centres()
    table = sensitivity.table_weights() @ sensitivity.values()
    np.testing.assert_allclose(table, smoother_values(sensitivity, x, y), rtol=1e-12)
    np.testing.assert_array_equal(sensitivity.bin_of(x, y), np.arange(len(x)))


def test_nearest_bin_is_good_to_a_percent_of_the_variation(offset):
    q = np.random.default_rng(1).uniform(0, 0.5, 1000)
    exact = smoother_values(offset, q)
    table = offset.table_weights() @ offset.values()
    assert np.std(table[offset.bin_of(q)] - exact) < 0.01 * np.std(exact)


def test_nearest_bins_of_positions_outside():
    bins = nearest_bins(np.array([-1.0, 0.5, 7.9, 8.0, 1e30, np.nan]), 8)
    assert bins.tolist() == [0, 0, 7, 7, 7, 0]


def test_scale_series_is_the_smoother_along_p_order():
    p_order = np.random.default_rng(2).uniform(3, 9, 30)
    series = ScaleSeries(flex.double([1.0, 2.0, 1.5, 0.5, 0.7]), p_order)
    # DIALS's smoother takes positions in intervals from the start
    values = smoother_values(series, p_order)
    np.testing.assert_allclose(series.table_weights() @ series.values(), values, rtol=1e-12)
    closest = ScaleSeries.through(values, p_order, intervals=3)
    np.testing.assert_allclose(closest.values(), series.values(), rtol=1e-4)


def test_impossible_numbers_of_parameters_are_refused():
    with pytest.raises(ValueError, match="4 parameters"):
        RadialOffset(flex.double(4, 0.0), 0.5)
    with pytest.raises(ValueError, match="grid of"):
        Sensitivity(flex.double(30, 1.0), (-1, 1, -1, 1), (7, 5))


def test_parameters_and_intervals_are_each_others_inverse():
    assert [n_parameters_of(n) for n in (1, 2, 3, 10)] == [2, 3, 5, 12]
    for n in range(1, 30):
        assert intervals_of(n_parameters_of(n)) == n


def test_a_series_closest_to_scales_that_tell_little_stays_at_their_mean():
    p_order = np.array([0.0, 0.1, 9.9, 10.0])
    series = ScaleSeries(flex.double(n_parameters_of(12), 1.0), p_order)
    closest = series.closest_to(np.array([1.0, 1.0, 3.0, 3.0]))
    np.testing.assert_allclose(closest.table_weights() @ closest.values(), [1, 1, 3, 3], atol=0.01)
    middle = closest.values()[5:-5]
    np.testing.assert_allclose(middle, 2, atol=0.01)
    assert series.values().tolist() == 14 * [1.0]


@pytest.mark.parametrize("kind", [StillScale, PanelScale])
def test_values_are_copies(kind):
    component = kind(flex.double([1.0]))
    component.values()[0] = 7
    assert list(component.parameters) == [1.0]
    component.set_values(np.array([2.5]))
    assert list(component.parameters) == [2.5] and component.values().tolist() == [2.5]
