"""Look-up tables of the factors and offsets of stills, against the components of their models."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import doubles
from scaling_rows import random_rows

from dials_diffuse.model.components import N_AZIMUTHAL, N_RADIAL
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.expectation.tables import NO_OFFSET, ScaleTables

EXTENT = (-0.4, 0.5, -0.6, 0.3)
Q_MAX = 0.6


def models_of(grid, n_stills, *names, seed=1):
    """Models with these components, at random parameters"""
    rng = np.random.default_rng(seed)
    settings = {
        "offset": {"offset": {"n_parameters": 6, "q_max": Q_MAX}},
        "panel": {"n_panels": 3},
        "sensitivity": {"sensitivity": {"extent": EXTENT, "shape": (5, 6)}},
    }
    chosen = {key: value for name in names for key, value in settings[name].items()}
    models = [DiffuseScalingModel.create(grid.to_dict(), **chosen) for _ in range(n_stills)]
    for model in models:
        # stills share a and d
        for name in {"panel", "sensitivity"} & set(names):
            model.components[name] = models[0].components[name]
        for component in model.components.values():
            component.set_values(rng.uniform(0.5, 1.5, component.n_params))
    return models


def check(models, n=200):
    """Compare factors of random places with what the components say at these places"""
    rng = np.random.default_rng(2)
    q, x, y = rng.uniform(0, Q_MAX, n), rng.uniform(-0.5, 0.5, n), rng.uniform(-0.6, 0.4, n)
    rows = random_rows(n, len(models))
    expected_g, expected_h = np.empty(n), np.empty(n)
    looked_up = [
        m.components[name]
        for m in models
        for name in ("offset", "sensitivity")
        if name in m.components
    ]
    tables = {
        id(component): component.table_weights() @ component.values() for component in looked_up
    }
    for k, row in enumerate(rows):
        components = models[row["still"]].components
        detector, c = 1.0, 0.0
        if "panel" in components:
            detector *= components["panel"].values()[row["panel"]]
        if "sensitivity" in components:
            a = components["sensitivity"]
            rows["direction"][k] = where = a.bin_of(x[k : k + 1], y[k : k + 1])[0]
            detector *= tables[id(a)][where]
        if "offset" in components:
            offset = components["offset"]
            rows["radial"][k] = where = offset.bin_of(q[k : k + 1])[0]
            c = tables[id(offset)][where]
        expected_g[k] = detector * components["scale"].values()[0]
        expected_h[k] = detector * c
    g, h = ScaleTables.of_models(models, n_panels=3).factors(rows)
    np.testing.assert_allclose(g, expected_g)
    np.testing.assert_allclose(h, expected_h, atol=1e-12)


def table_of(component, still):
    """Values of a or c of one still by bin"""
    if not hasattr(component, "p_order"):
        return component.table_weights() @ component.values()
    parameters = component.weights_at(component.p_order)[still] @ component.parameter_rows()
    if hasattr(component, "plane"):
        return component.plane.table_weights() @ parameters
    return component.table_weights() @ parameters


@pytest.fixture(scope="module")
def grid(make_truth):
    return make_truth(n_stills=1, n_obs=1).grid


@pytest.mark.parametrize(
    "names", ["", "offset", "panel", "sensitivity", "offset panel sensitivity"]
)
def test_factors_are_those_of_the_components(grid, names):
    check(models_of(grid, 4, *names.split()))


def test_functions_of_p_order(grid):
    models = models_of(grid, 6, "offset", "panel", "sensitivity")
    rng = np.random.default_rng(3)
    # two stills at the same place
    p_order = np.array([3.0, 0.0, 1.5, 7.0, 3.0, 5.0])
    a = SensitivitySeries(doubles(rng.uniform(0.5, 1.5, 30 * 3)), EXTENT, (5, 6), p_order)
    steps = [a.plane.__class__(doubles(values), EXTENT, (5, 6)) for values in a.by_step()]
    c = OffsetSeries(doubles(rng.uniform(0, 9, 6 * 5)), Q_MAX, 6, p_order)
    for still, model in enumerate(models):
        model.components["sensitivity"] = steps[a.step_of_still[still]]
        model.components["offset"].set_values(c.by_still()[still])
    tables = ScaleTables.of_models(models, n_panels=3)
    assert tables.a.shape == (5, N_AZIMUTHAL**2)
    assert tables.step[0] == tables.step[4]
    assert len(set(tables.step.tolist())) == 5
    check(models)
    for still in range(6):
        np.testing.assert_allclose(tables.a[tables.step[still]], table_of(a, still))
        np.testing.assert_allclose(tables.c[still, :N_RADIAL], table_of(c, still))


def test_bragg_reflections_have_no_offset(grid):
    models = models_of(grid, 2, "offset", "panel")
    rows = random_rows(20, 2)
    rows["radial"] = NO_OFFSET
    g, h = ScaleTables.of_models(models, n_panels=3).factors(rows)
    assert (h == 0).all() and (g > 0).all()


def test_without_a_model_all_is_one():
    tables = ScaleTables.without_model(4, 3)
    g, h = tables.factors(random_rows(30, 4))
    assert (g == 1).all() and (h == 0).all()
    assert tables.size == 4 + 4 * (N_RADIAL + 1) + 3 + N_AZIMUTHAL**2
    assert all((table == 0).all() for table in tables.zeros()[:4])
    assert (tables.b == 1).all()
