"""Functional, gradient and Jacobian of the fit."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import check_gradient, make_series_problem

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.array_family import flex

from dials_diffuse.scaling.refinement.fit import COMPONENTS, chi2_of
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.units import set_units


def brute_force_functional(scaler):
    """Sum over voxels of the weighted squares around the weighted mean, voxel by voxel"""
    data = scaler.data
    total = 0.0
    for first, last in zip(data.start[:-1], data.start[1:]):
        rows = slice(first, last)
        detector = scaler.tables.a[data.direction[rows]] * scaler.tables.d[data.panel[rows]]
        exposure = data.exposure[rows] * detector
        g = exposure * scaler.tables.b[data.still[rows]]
        net = data.net[rows] - exposure * scaler.tables.c[data.still[rows], data.radial[rows]]
        design = np.sqrt(data.weight[rows]) * g
        values = np.sqrt(data.weight[rows]) * net
        solution = np.linalg.lstsq(design[:, None], values, rcond=None)[0]
        total += np.sum((values - design * solution[0]) ** 2)
    return total


def test_functional_is_that_of_the_best_intensities(problem):
    scaler, _ = problem
    functional, _ = DiffuseScalingTarget(scaler).compute_functional_gradients(scaler.data)
    assert functional == pytest.approx(brute_force_functional(scaler), rel=1e-10)


def test_jacobian_of_residuals_against_finite_differences(problem):
    scaler, restraints = problem
    names = list(COMPONENTS)
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.compute_functional_gradients(scaler.data)
    set_units(scaler, target.reference, restraints, names)
    components = [manager.components for manager in scaler.data_managers]
    manager = multi_active_parameter_manager(
        target, components, [names] * len(components), active_parameter_manager
    )
    start = np.array(manager.get_param_vals())

    def evaluate(x, of_restraints):
        manager.set_param_vals(flex.double(x.tolist()))
        scaler.update_for_minimisation()
        if of_restraints:
            return manager.compute_restraints_residuals_and_gradients(manager)
        return manager.compute_residuals_and_gradients(scaler.data)

    f, g = manager.compute_functional_gradients(scaler.data)
    rf, rg = manager.compute_restraints_functional_gradients(manager)
    for of_restraints, value, gradient in ((False, f, np.array(g)), (True, rf, np.array(rg))):
        r, j, w = evaluate(start, of_restraints)
        r, w = np.array(r), np.array(w)
        jacobian = np.array(j.as_dense_matrix()).reshape(len(r), -1)
        assert np.sum(w * r**2) == pytest.approx(value)
        scale = abs(gradient).max()
        np.testing.assert_allclose(2 * jacobian.T @ (w * r), gradient, atol=1e-8 * scale)
        if of_restraints:
            for i in range(0, len(start), 7):
                step = np.zeros(len(start))
                step[i] = 1e-3
                above, below = (evaluate(start + s * step, True)[0] for s in (1, -1))
                numeric = (np.array(above) - np.array(below)) / 2e-3
                np.testing.assert_allclose(jacobian[:, i], numeric, atol=1e-7)


def test_functional_by_observation(problem):
    scaler, _ = problem
    parts = DiffuseScalingTarget(scaler).squares(scaler.data)
    assert len(parts) == scaler.data.size
    assert parts.sum() == pytest.approx(brute_force_functional(scaler), rel=1e-10)


@pytest.mark.parametrize("names", [["scale"], ["panel", "sensitivity"], list(COMPONENTS)])
def test_gradients_in_the_order_of_dials_parameter_manager(problem, names):
    scaler, restraints = problem
    check_gradient(scaler, restraints, names)


@pytest.mark.parametrize(
    "of_b, of_c, of_a, names, n_parameters",
    [
        (False, True, False, "scale offset panel sensitivity", 30 + 9 + 4 + 25),
        (True, False, False, "scale offset panel", 5 + 9 * 6 + 4),
        (True, True, False, "scale offset", 5 + 30),
        (True, True, True, "scale offset panel sensitivity", 5 + 30 + 4 + 75),
        (False, False, True, "scale offset panel sensitivity", 9 * 7 + 4 + 75),
        (False, True, True, "offset sensitivity", 30 + 75),
        (False, True, True, "scale", 9),
    ],
)
def test_gradients_of_series(make_truth, of_b, of_c, of_a, names, n_parameters):
    scaler, restraints = make_series_problem(make_truth, of_b, of_c, of_a)
    names = names.split()
    before, n = check_gradient(scaler, restraints, names)
    assert n == n_parameters
    assert before == pytest.approx(
        chi2_of(scaler) * (scaler.data.size - len(scaler.data.voxel))
        + restraints.functional_gradients(scaler)[0]
    )
