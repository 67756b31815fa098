"""Restraints and conventions."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import make_problem, make_series_problem

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.scaling.refinement.fit import chi2_of
from dials_diffuse.scaling.refinement.offset_zero import fix_offset_zero
from dials_diffuse.scaling.refinement.restraints import (
    MEAN,
    apply_conventions,
    mean_over_observations,
    means_of_series,
    ring_means,
)
from dials_diffuse.scaling.refinement.uncertainties import still_covariances


def test_conventions_of_series_change_no_expectation(make_truth):
    scaler, _ = make_series_problem(make_truth, True, True, True)
    before = chi2_of(scaler)
    apply_conventions(scaler, np.ones(9, dtype=bool))
    assert scaler.tables.b.mean() == pytest.approx(1)
    assert np.log(scaler.tables.a[scaler.data.direction]).mean() == pytest.approx(0, abs=1e-12)
    assert chi2_of(scaler) == pytest.approx(before, rel=1e-10)


def test_restraint_terms_are_consistent_with_their_gradients(problem):
    scaler, restraints = problem
    value, gradients = restraints.functional_gradients(scaler)
    for name in ("offset", "scale"):
        component = scaler.models[2].components[name]
        start = component.values()
        for i in range(len(start)):
            step = np.zeros(len(start))
            step[i] = 1e-5 * max(abs(start[i]), 1e-3)
            component.set_values(start + step)
            scaler.update_for_minimisation()
            above = restraints.functional_gradients(scaler)[0]
            component.set_values(start)
            scaler.update_for_minimisation()
            expected = np.atleast_1d(gradients[name][2])[i]
            assert (above - value) / step[i] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_conventions_change_no_expectation(problem):
    scaler, restraints = problem
    before = chi2_of(scaler)
    used = np.ones(len(scaler.models), dtype=bool)
    apply_conventions(scaler, used)
    assert scaler.tables.b.mean() == pytest.approx(1)
    assert np.log(scaler.tables.d[scaler.data.panel]).mean() == pytest.approx(0, abs=1e-12)
    assert np.log(scaler.tables.a[scaler.data.direction]).mean() == pytest.approx(0, abs=1e-12)
    assert chi2_of(scaler) == pytest.approx(before, rel=1e-10)
    fix_offset_zero(scaler, used, still_covariances(scaler, restraints))
    # the offset is looked up at each observation's |q|, the intensity belongs to the voxel:
    # the same to the width of a bin
    assert chi2_of(scaler) == pytest.approx(before, rel=1e-3)


def test_ring_means_of_the_sensitivity(problem):
    """Against means taken observation by observation"""
    scaler, _ = problem
    component = scaler.shared["sensitivity"]
    x, y = component.bin_centres()
    values = scaler.direction_weights @ component.values()
    width = (component.extent[1] - component.extent[0]) / (2 * max(component.shape))
    rings: dict[int, list[float]] = {}
    for direction, weight in zip(scaler.data.direction, scaler.data.weight):
        if weight > 0:
            ring = int(np.hypot(x[direction], y[direction]) / width)
            rings.setdefault(ring, []).append(values[direction])
    overall = np.mean([value for ring in rings.values() for value in ring])
    expected = [np.mean(rings[ring]) - overall for ring in sorted(rings)]
    np.testing.assert_allclose(ring_means(scaler) @ component.values(), expected, atol=1e-12)


def test_means_of_a_and_d_are_held(problem):
    """Or a shrinks to nothing, where the other restraints cost nothing, and b grows: the expectations are
    the same"""
    scaler, restraints = problem
    data = scaler.data
    restraints.hold_means(scaler)
    before, _ = restraints.functional_gradients(scaler)
    for name, table, index in (
        ("panel", scaler.tables.d, data.panel),
        ("sensitivity", scaler.tables.a, data.direction),
    ):
        component = scaler.shared[name]
        values = component.values()
        mean = table[index[data.weight > 0]].mean()
        assert mean_over_observations(scaler, name) @ values == pytest.approx(mean)
        component.set_values(0.9 * values)
        shrunk, _ = restraints.functional_gradients(scaler)
        component.set_values(values)
        assert shrunk - before > (0.09 * mean / MEAN) ** 2


def test_a_radial_drift_costs_more_than_a_tilt(make_truth):
    """What depends on |q| only can't be told from the intensities"""
    # so many that directions are evenly spread
    scaler, restraints = make_problem(make_truth, n_obs=3000)
    component = scaler.shared["sensitivity"]
    x, y = (
        values.ravel() for values in np.meshgrid(*(np.linspace(-1, 1, n) for n in component.shape))
    )

    def cost(values):
        component.set_values(1 + values)
        residuals, _ = restraints.terms(scaler)["sensitivity"]
        return np.sum(residuals**2)

    radial = 0.05 * (x**2 + y**2 - np.mean(x**2 + y**2))
    tilt = 0.05 * x
    assert np.std(radial) < np.std(tilt)
    assert cost(radial) > 5 * cost(tilt)


def test_restrained_means_of_a_are_those_of_the_observations(make_truth):
    scaler, _ = make_series_problem(make_truth, False, False, True)
    series = scaler.shared["sensitivity"]
    means = means_of_series(scaler) @ series.values()
    a = scaler.tables.a[scaler.data.direction]
    # the last rows: around each position along p_order
    near = series.weights[series.step_of_still[scaler.data.still]]
    expected = (near * a[:, None]).sum(axis=0) / near.sum(axis=0) - a.mean()
    np.testing.assert_allclose(means[-series.n_p :], expected, atol=1e-12)
    # the others: over rings, of which all observations together have their mean
    x, y = series.plane.bin_centres()
    radius = np.hypot(x, y)[scaler.data.direction % len(x)]
    ring = (radius / (1.0 / 10)).astype(int)
    of_rings = (
        np.bincount(ring, a)[np.bincount(ring) > 0] / np.bincount(ring)[np.bincount(ring) > 0]
    )
    np.testing.assert_allclose(means[: -series.n_p], of_rings - a.mean(), atol=1e-12)
