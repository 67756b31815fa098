from __future__ import annotations

import numpy as np
import pytest

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.array_family import flex

from dials_diffuse.scaling import whole_parameters
from dials_diffuse.scaling.components import ScaleSeries
from dials_diffuse.scaling.fit import (
    COMPONENTS,
    FitSettings,
    refine_by_components,
    refine_whole,
)
from dials_diffuse.scaling.model import DiffuseScalingModel
from dials_diffuse.scaling.observations import observations_of
from dials_diffuse.scaling.restraints import Restraints, RestraintSettings
from dials_diffuse.scaling.scaler import DiffuseScaler
from dials_diffuse.scaling.target import DiffuseScalingTarget
from dials_diffuse.scaling.whole_parameters import WholeParameters, can_be_whole


def make_target(make_truth, names=COMPONENTS, n_obs=400):
    truth = make_truth(n_stills=6, n_obs=n_obs, n_voxels=150, panels=(2, 2), offset=0.5)
    models = []
    for b in truth.b:
        model = DiffuseScalingModel.create(
            truth.grid.to_dict(),
            offset={"n_parameters": 6, "q_max": 0.5},
            n_panels=4,
            sensitivity={"extent": (-0.5, 0.5, -0.5, 0.5), "shape": (5, 5)},
        )
        model.components["scale"].set_values([b])
        models.append(model)

    def prior(q):
        return 600 * np.exp(-3 * q**2)

    scaler = DiffuseScaler(models, observations_of(truth.experiments, truth.table), prior)
    restraints = Restraints(scaler, RestraintSettings(), truth.b, prior)
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.functional_and_gradients(scaler.data)
    return target


def evaluate(whole, z):
    whole.set_param_vals(flex.double(z.tolist()))
    whole.scaler.update_for_minimisation(whole)
    f, g = whole.compute_functional_gradients(whole.scaler.data)
    r = whole.compute_restraints_functional_gradients(whole)
    return f + r[0], np.array(g) + np.array(r[1])


@pytest.mark.parametrize("most", [1500, 10])
@pytest.mark.parametrize("names", [["scale"], ["offset"], ["panel", "sensitivity"], list(COMPONENTS)])
def test_gradients(make_truth, monkeypatch, names, most):
    monkeypatch.setattr(whole_parameters, "MOST_IN_ONE_MATRIX", most)
    whole = WholeParameters(make_target(make_truth, names))
    z = np.random.default_rng(1).normal(0, 1, whole.n_active_params)
    _, analytic = evaluate(whole, z)
    direction = np.random.default_rng(2).normal(0, 1, len(z))
    numeric = (evaluate(whole, z + 1e-3 * direction)[0] - evaluate(whole, z - 1e-3 * direction)[0]) / 2e-3
    assert analytic @ direction == pytest.approx(numeric, rel=1e-5)


def test_restraints_are_those_of_the_components(make_truth):
    target = make_target(make_truth)
    whole = WholeParameters(target)
    z = np.random.default_rng(1).normal(0, 1, whole.n_active_params)
    evaluate(whole, z)
    tables = [table.copy() for table in target.scaler.tables()]
    value, _ = whole.compute_restraints_functional_gradients(whole)
    whole.to_components()
    target.scaler.update_for_minimisation()
    for table, before in zip(target.scaler.tables(), tables):
        np.testing.assert_allclose(table, before, rtol=1e-12)
    assert value == pytest.approx(target.restraints.functional_gradients(target.scaler)[0], rel=1e-9)


def test_functional_is_round_near_its_minimum(make_truth):
    """Second derivatives by z, from gradients on both sides, against 2"""
    target = make_target(make_truth, n_obs=3000)
    refine_whole(target, FitSettings())
    whole = WholeParameters(target)
    n = whole.n_active_params
    step = 0.05
    matrix = np.array(
        [evaluate(whole, step * e)[1] - evaluate(whole, -step * e)[1] for e in np.eye(n)]
    ) / (2 * step)  # fmt: skip
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert np.median(values) == pytest.approx(2, rel=0.1)
    assert values.min() > 0.5
    assert values.max() < 8


def test_same_minimum_as_component_by_component(make_truth):
    results = []
    for refine in (refine_whole, refine_by_components):
        target = make_target(make_truth)
        n_parameters, histories = refine(target, FitSettings())
        functional, _ = target.functional_and_gradients(target.scaler.data)
        total = functional + target.restraints.functional_gradients(target.scaler)[0]
        results.append((n_parameters, total, target.n_calls))
    assert results[0][0] == results[1][0] == 6 + 6 * 6 + 4 + 25
    # a chi^2 of a hundredth is a tenth of a standard deviation
    assert results[0][1] < results[1][1] + 0.02
    assert results[0][2] < results[1][2]


def test_series_are_left_to_the_parameter_manager(make_truth):
    target = make_target(make_truth)
    scaler = target.scaler
    assert can_be_whole(scaler)
    scaler.series = ScaleSeries.through(scaler.b, np.arange(6.0), 2)
    assert not can_be_whole(scaler)
