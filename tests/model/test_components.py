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
    nearest_bins,
    whitening,
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


def test_free_parameters_are_in_units():
    scale = StillScale(flex.double([2.0]))
    scale.set_unit(0.25, 4.0)
    assert list(scale.free_parameters) == [8.0]
    scale.free_parameters = flex.double([4.0])
    assert list(scale.parameters) == [1.0]
    scale.free_parameter_esds = flex.double([2.0])
    assert list(scale.parameter_esds) == [0.5]


def test_whitened_units_keep_the_parameters():
    rng = np.random.default_rng(6)
    offset = RadialOffset(flex.double(rng.normal(size=8).tolist()), 0.5)
    before = offset.values()
    matrix = rng.normal(size=(20, 8))
    offset.set_unit(*whitening(matrix.T @ matrix))
    free = offset.free_parameters
    offset.free_parameters = free
    np.testing.assert_allclose(offset.values(), before, rtol=1e-10)
    np.testing.assert_allclose(np.array(free) @ np.array(free), np.sum((matrix @ before) ** 2))
    offset.free_parameter_esds = flex.double(8, 1.0)
    sigmas = np.sqrt(np.diagonal(np.linalg.inv(matrix.T @ matrix)))
    np.testing.assert_allclose(np.array(offset.parameter_esds), sigmas)


def test_many_small_matrices_are_whitened_as_one_is():
    rng = np.random.default_rng(7)
    design = rng.normal(size=(5, 20, 8))
    normal = np.einsum("skp,skq->spq", design, design)
    units, inverses = whitening(normal)
    np.testing.assert_allclose(
        np.einsum("spk,sqk->spq", units, units), np.linalg.inv(normal), rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(inverses @ units, np.broadcast_to(np.eye(8), (5, 8, 8)), atol=1e-10)
    one, _ = whitening(normal[3])
    np.testing.assert_allclose(units[3], one, atol=1e-12)
    normal[2, 1] = normal[2, :, 1] = 0
    for matrices in (normal, normal[2]):
        with pytest.raises(ValueError, match="do not determine the scaling model"):
            whitening(matrices)


def test_variances_of_a_component_that_follows_another():
    """Against the inverse of the normal matrix of both"""
    rng = np.random.default_rng(8)
    design = rng.normal(size=(40, 3 + 25))
    design[:, 3:] += rng.normal(size=(40, 1))
    design[:, :3] += design[:, 3:6]
    normal = design.T @ design
    of_panel, of_a, cross = normal[:3, :3], normal[3:, 3:], normal[:3, 3:]
    panel = PanelScale(flex.double(3, 1.0))
    sensitivity = Sensitivity(flex.double(25, 1.0), (-1, 1, -1, 1), (5, 5))
    slope = -np.linalg.solve(of_a, cross.T)
    sensitivity.set_unit(*whitening(of_a))
    sensitivity.follow(panel, slope)
    panel.set_unit(*whitening(of_panel + cross @ slope))
    covariance = np.linalg.inv(normal)
    np.testing.assert_allclose(panel.variances(), np.diagonal(covariance)[:3], rtol=1e-6)
    np.testing.assert_allclose(sensitivity.variances(), np.diagonal(covariance)[3:], rtol=1e-6)
    shifts = np.eye(25) - 1 / 25
    np.testing.assert_allclose(
        sensitivity.variances(convention=shifts),
        np.diagonal(shifts @ covariance[3:, 3:] @ shifts.T),
        rtol=1e-6,
    )
    # and the free parameters survive the leader's move
    panel.free_parameters = flex.double([0.1, 0.2, 0.3])
    sensitivity.free_parameters = flex.double(np.arange(25.0).tolist())
    np.testing.assert_allclose(np.array(sensitivity.free_parameters), np.arange(25.0), atol=1e-8)
