from __future__ import annotations

import json

import numpy as np
import pytest

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.array_family import flex

from dials_diffuse.model.components import (
    PanelScale,
    RadialOffset,
    Sensitivity,
    StillScale,
    whitening,
)
from dials_diffuse.model.scaling_model import DiffuseScalingModel


def with_data(component, column, data):
    component.data = {column: data}
    component.update_reflection_data()
    return component


def cases():
    rng = np.random.default_rng(5)
    q = flex.double(rng.uniform(0, 0.5, 40).tolist())
    xy = flex.vec2_double(
        flex.double(rng.uniform(-0.4, 0.4, 40).tolist()),
        flex.double(rng.uniform(-0.3, 0.3, 40).tolist()),
    )
    panel = flex.size_t(rng.integers(0, 4, 40).tolist())
    random = flex.double(rng.normal(1, 0.2, 35).tolist())
    return {
        "offset": with_data(RadialOffset(random[:8], 0.5), "q", q),
        "panel": with_data(PanelScale(random[:4]), "panel", panel),
        "sensitivity": with_data(Sensitivity(random, (-0.4, 0.4, -0.3, 0.3), (7, 5)), "xy", xy),
    }


@pytest.mark.parametrize("name", ["offset", "panel", "sensitivity"])
def test_derivatives_of_components_against_finite_differences(name):
    component = cases()[name]
    values, derivatives = component.calculate_scales_and_derivatives()
    analytic = np.array(derivatives.as_dense_matrix()).reshape(len(values), -1)
    start = component.values()
    for i in range(component.n_params):
        step = np.zeros(len(start))
        step[i] = 1e-4
        component.set_values(start + step)
        above = np.array(component.calculate_scales())
        component.set_values(start - step)
        below = np.array(component.calculate_scales())
        np.testing.assert_allclose((above - below) / 2e-4, analytic[:, i], atol=1e-8)


def test_tables_are_the_smoothers_values_at_the_nearest_bin():
    offset = cases()["offset"]
    q = offset.bin_centres()
    with_data(offset, "q", flex.double(q.tolist()))
    np.testing.assert_allclose(
        offset.table_weights() @ offset.values(), np.array(offset.calculate_scales()), rtol=1e-12
    )
    np.testing.assert_array_equal(offset.bin_of(q), np.arange(len(q)))
    sensitivity = cases()["sensitivity"]
    x, y = sensitivity.bin_centres()
    with_data(sensitivity, "xy", flex.vec2_double(flex.double(x.tolist()), flex.double(y.tolist())))
    np.testing.assert_allclose(
        sensitivity.table_weights() @ sensitivity.values(),
        np.array(sensitivity.calculate_scales()),
        rtol=1e-12,
    )
    np.testing.assert_array_equal(sensitivity.bin_of(x, y), np.arange(len(x)))


def test_nearest_bin_is_good_to_a_percent_of_the_variation():
    rng = np.random.default_rng(1)
    offset = cases()["offset"]
    q = rng.uniform(0, 0.5, 1000)
    exact = np.array(with_data(offset, "q", flex.double(q.tolist())).calculate_scales())
    table = offset.table_weights() @ offset.values()
    assert np.std(table[offset.bin_of(q)] - exact) < 0.01 * np.std(exact)


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


def full_model():
    model = DiffuseScalingModel.create(
        {"subdivide": [1, 1, 1]},
        offset={"n_parameters": 8, "q_max": 0.5},
        n_panels=3,
        sensitivity={"extent": (-0.4, 0.4, -0.3, 0.3), "shape": (7, 5)},
    )
    rng = np.random.default_rng(3)
    for component in model.components.values():
        component.set_values(component.values() + rng.uniform(0, 0.2, component.n_params))
    model.components["scale"].parameter_esds = flex.double([0.01])
    return model


def test_model_survives_its_dictionary():
    model = full_model()
    model.set_scaling_model_as_scaled()
    copy = DiffuseScalingModel.from_dict(model.to_dict())
    assert copy.to_dict() == model.to_dict()
    assert copy.is_scaled
    rng = np.random.default_rng(4)
    where = (
        rng.integers(0, 3, 50),
        rng.uniform(0, 0.5, 50),
        rng.uniform(-0.4, 0.4, 50),
        rng.uniform(-0.3, 0.3, 50),
    )
    for a, b in zip(model.factors(*where), copy.factors(*where)):
        np.testing.assert_array_equal(a, b)
    assert "Sensitivity component" in str(copy) and "(0.0100)" in str(copy)


def test_model_factors_are_the_products_of_its_components():
    model = full_model()
    rng = np.random.default_rng(4)
    panel, q = rng.integers(0, 3, 50), rng.uniform(0, 0.5, 50)
    x, y = rng.uniform(-0.4, 0.4, 50), rng.uniform(-0.3, 0.3, 50)
    table = flex.reflection_table()
    table["id"] = flex.int(50, 0)
    table["panel"] = flex.size_t(panel.tolist())
    table["q"] = flex.double(q.tolist())
    table["xy"] = flex.vec2_double(flex.double(x.tolist()), flex.double(y.tolist()))
    model.configure_components(table, None, None)
    exact = {}
    for name, component in model.components.items():
        component.update_reflection_data()
        exact[name] = np.array(component.calculate_scales())
    g, h = model.factors(panel, q, x, y)
    detector = exact["panel"] * exact["sensitivity"]
    np.testing.assert_allclose(g, detector * exact["scale"], rtol=0.01)
    np.testing.assert_allclose(h, detector * exact["offset"], rtol=0.01)


def test_dials_scale_is_refused_with_the_name_of_the_right_command():
    with pytest.raises(ValueError, match=r"use dials\.diffuse_scale"):
        DiffuseScalingModel.from_data(None, None, flex.reflection_table())


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


def test_plots_for_dials_report():
    plots = full_model().plot_model_components()
    assert set(plots) == {"diffuse_offset", "diffuse_panel", "diffuse_sensitivity"}
    z = np.array(plots["diffuse_sensitivity"]["data"][0]["z"])
    assert z.shape == (
        len(plots["diffuse_sensitivity"]["data"][0]["y"]),
        len(plots["diffuse_sensitivity"]["data"][0]["x"]),
    )
    assert json.loads(json.dumps(plots)) == plots
