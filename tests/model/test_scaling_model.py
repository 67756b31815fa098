"""The scaling model in DIALS files and reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic_scaling import model_factors

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.array_family import flex

from dials_diffuse.model.scaling_model import DiffuseScalingModel


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
    for a, b in zip(model_factors(model, *where), model_factors(copy, *where)):
        np.testing.assert_array_equal(a, b)
    assert "Sensitivity component" in str(copy) and "(0.0100)" in str(copy)


def test_dials_scale_can_use_a_lone_scale_only():
    table = flex.reflection_table()
    table["id"] = flex.int(3, 0)
    with pytest.raises(ValueError, match=r"use dials\.diffuse_scale"):
        full_model().configure_components(table, None, None)
    model = DiffuseScalingModel.unscaled({})
    model.components["scale"].set_values([2.5])
    model.configure_components(table, None, None)
    model.components["scale"].update_reflection_data()
    assert list(model.components["scale"].calculate_scales()) == [2.5, 2.5, 2.5]


def test_dials_scale_is_refused_with_the_name_of_the_right_command():
    with pytest.raises(ValueError, match=r"use dials\.diffuse_scale"):
        DiffuseScalingModel.from_data(None, None, flex.reflection_table())


def test_plots_for_dials_report():
    plots = full_model().plot_model_components()
    assert set(plots) == {"diffuse_offset", "diffuse_panel", "diffuse_sensitivity"}
    z = np.array(plots["diffuse_sensitivity"]["data"][0]["z"])
    assert z.shape == (
        len(plots["diffuse_sensitivity"]["data"][0]["y"]),
        len(plots["diffuse_sensitivity"]["data"][0]["x"]),
    )
    assert json.loads(json.dumps(plots)) == plots
