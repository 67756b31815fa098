from __future__ import annotations

import numpy as np
import pytest
from synthetic_scaling import scale_settings

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.array_family import flex

from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.scaling.observations.source import observations_of
from dials_diffuse.scaling.refinement.fit import (
    COMPONENTS,
    beats_useless_parameters,
    chi2_of,
    gain_is_significant,
)
from dials_diffuse.scaling.refinement.offset_zero import fix_offset_zero, lowest_offset
from dials_diffuse.scaling.refinement.restraints import (
    MEAN,
    Restraints,
    apply_conventions,
    mean_over_observations,
    ring_means,
)
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.uncertainties import still_covariances
from dials_diffuse.scaling.refinement.units import set_units, table_curvatures


@pytest.fixture
def problem(make_truth):
    """A scaler with everything on and parameters that are not the best, and its restraints"""
    return make_problem(make_truth, n_obs=60)


def make_problem(make_truth, n_obs):
    truth = make_truth(n_stills=5, n_obs=n_obs, n_voxels=40, panels=(2, 2), offset=0.5)
    observations = observations_of(truth.experiments, truth.columns)
    rng = np.random.default_rng(2)
    models = []
    for b in truth.b:
        model = DiffuseScalingModel.create(
            truth.grid.to_dict(),
            offset={"n_parameters": 6, "q_max": 0.5},
            n_panels=4,
            sensitivity={"extent": (-0.5, 0.5, -0.5, 0.5), "shape": (5, 5)},
        )
        model.components["scale"].set_values([b * rng.uniform(0.8, 1.2)])
        model.components["offset"].set_values(rng.uniform(0, 100, 6))
        models.append(model)
    models[0].components["panel"].set_values(rng.uniform(0.9, 1.1, 4))
    models[0].components["sensitivity"].set_values(rng.uniform(0.9, 1.1, 25))

    def prior(q):
        return 600 * np.exp(-3 * q**2)

    scaler = DiffuseScaler(models, observations, prior, scale_settings().weighting)
    return scaler, Restraints(scaler, scale_settings().restraints, truth.b, prior)


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


@pytest.mark.parametrize("names", [["scale"], ["panel", "sensitivity"], list(COMPONENTS)])
def test_gradients_in_the_order_of_dials_parameter_manager(problem, names):
    scaler, restraints = problem
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.compute_functional_gradients(scaler.data)
    set_units(scaler, target.reference, restraints, names)
    components = [manager.components for manager in scaler.data_managers]
    manager = multi_active_parameter_manager(
        target, components, [names] * len(components), active_parameter_manager
    )
    start = np.array(manager.get_param_vals())

    def evaluate(x):
        manager.set_param_vals(flex.double(x.tolist()))
        scaler.update_for_minimisation()
        f, g = manager.compute_functional_gradients(scaler.data)
        r = manager.compute_restraints_functional_gradients(manager)
        return f + r[0], np.array(g) + np.array(r[1])

    _, analytic = evaluate(start)
    assert len(analytic) == len(start) == manager.n_active_params
    numeric = np.empty_like(analytic)
    for i in range(len(start)):
        step = np.zeros(len(start))
        step[i] = 1e-3
        numeric[i] = (evaluate(start + step)[0] - evaluate(start - step)[0]) / 2e-3
    np.testing.assert_allclose(analytic, numeric, rtol=2e-5, atol=2e-5 * abs(analytic).max())


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


def test_curvatures_do_not_depend_on_the_order_of_rows(make_truth):
    truth = make_truth(n_stills=8, n_obs=300, n_voxels=40, offset=0.5)
    observations = observations_of(truth.experiments, truth.columns)
    model = {"offset": {"n_parameters": 6, "q_max": 0.5}}
    found = []
    for order in (
        np.arange(len(observations)),
        np.random.default_rng(0).permutation(len(observations)),
    ):
        models = [DiffuseScalingModel.create(truth.grid.to_dict(), **model) for _ in range(8)]
        weighting = scale_settings().weighting
        prior = lambda q: 600 * np.exp(-3 * q**2)  # noqa: E731
        scaler = DiffuseScaler(models, observations.select(order), prior, weighting)
        curvatures, cross = table_curvatures(scaler, scaler.data.prior)
        found.append((*curvatures, cross))
    for in_order, shuffled in zip(*found):
        np.testing.assert_allclose(shuffled, in_order, rtol=1e-9)


def same_errors(sigma, shape):
    return np.broadcast_to(sigma**2 * np.eye(shape[1]), (shape[0], shape[1], shape[1]))


def test_lowest_offset_is_not_dragged_down_by_noise():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (400, 3))
    truth[0] = 0
    exact = lowest_offset(truth, same_errors(1e-4, truth.shape))
    np.testing.assert_allclose(exact, 0, atol=1e-3)
    measured = truth + rng.normal(0, 0.2, truth.shape)
    lowest = lowest_offset(measured, same_errors(0.2, truth.shape))
    assert (abs(lowest) < 0.3).all() and (measured.min(axis=0) < -0.3).all()


@pytest.mark.parametrize("underestimated", [1.0, 1.3])
@pytest.mark.parametrize("n_stills", [3, 15, 100, 1000])
def test_lowest_offset_of_noise_is_the_mean(n_stills, underestimated):
    """Errors that neighbours in |q| share, of stills of different strength"""
    rng = np.random.default_rng(1)
    n = 21
    shared = 0.5 ** abs(np.subtract.outer(np.arange(n), np.arange(n)))
    size = rng.uniform(0.3, 3, n_stills)
    covariances = size[:, None, None] ** 2 * shared
    noise = (
        size[:, None]
        * rng.multivariate_normal(np.zeros(n), shared, n_stills)
        * np.sqrt(underestimated)
    )
    of_mean = 1 / np.sqrt(np.sum(1 / size**2))
    lowest = lowest_offset(5 + noise, covariances)
    assert abs(lowest - 5).max() < 4 * of_mean


def test_lowest_offset_of_air_that_fades_with_q():
    """The same air on stills of different scale: its lowest c/b is that of the strongest, also where
    there is no air left but much noise"""
    rng = np.random.default_rng(2)
    n_stills, q = 100, np.linspace(0, 1, 21)
    b = rng.uniform(0.4, 2.2, n_stills)
    truth = 50 * np.exp(-((q / 0.2) ** 2)) / b[:, None]
    sigma = 1 / b[:, None] * np.ones_like(q)
    covariances = sigma[:, :, None] ** 2 * np.eye(len(q))
    lowest = lowest_offset(truth + sigma * rng.normal(size=truth.shape), covariances)
    assert abs(lowest - truth.min(axis=0))[q > 0.5].max() < 0.35
    assert abs(lowest - truth.min(axis=0)).max() < 1
    # one by one it would be some two
    assert (truth + sigma * rng.normal(size=truth.shape)).min(axis=0)[q > 0.5].max() < -1


@pytest.mark.parametrize("seed", range(8))
def test_lowest_offset_is_not_that_of_the_most_uncertain_still(seed):
    """Stills of very different scale, with air or water in proportion to b"""
    rng = np.random.default_rng(seed)
    n_stills, q = 1000, np.linspace(0, 1, 21)
    b = rng.lognormal(0, 1, n_stills)
    shape = np.exp(-(((q - 0.3) / 0.2) ** 2))
    truth = rng.uniform(0, 0.5, n_stills)[:, None] * shape
    sigma = 0.1 / b[:, None] * np.ones_like(q)
    covariances = sigma[:, :, None] ** 2 * np.eye(len(q))
    lowest = lowest_offset(truth + sigma * rng.normal(size=truth.shape), covariances)
    assert abs(lowest - truth.min(axis=0)).max() < 0.03


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


def test_useless_parameters_are_no_gain():
    """Linear least squares with columns that have nothing to do with the data, many times over"""
    rng = np.random.default_rng(8)
    n_fit, n_free, n_more = 400, 100, 10
    gains, kept = 0, 0
    for _ in range(400):
        design, y = rng.normal(size=(n_fit + n_free, n_more)), rng.normal(size=n_fit + n_free)
        solution = np.linalg.lstsq(design[:n_fit], y[:n_fit], rcond=None)[0]
        before = np.mean(y[n_fit:] ** 2)
        after = np.mean((y[n_fit:] - design[n_fit:] @ solution) ** 2)
        gains += after < before
        kept += beats_useless_parameters(before, after, n_more, n_free, n_fit)
    assert gains > 40  # a mere comparison is often fooled
    assert kept <= 2
    assert beats_useless_parameters(1.2, 1.0, n_more, n_free, n_fit)


def test_gains_that_chance_makes_or_that_do_not_matter_are_none():
    rng = np.random.default_rng(3)
    before = rng.chisquare(9, 20000)
    noise = rng.normal(0, 1, 20000)
    noise -= noise.mean()
    total = before.sum()
    # three standard deviations of the sum are 424, the least share 54
    assert not gain_is_significant(before, before + noise - 300 / 20000)
    assert gain_is_significant(before, before + noise - 600 / 20000)
    assert not gain_is_significant(before, before * (1 - 1e-4))
    assert gain_is_significant(before, before * (1 - 1e-3))
    assert total == pytest.approx(180000, rel=0.02)


def test_functional_by_observation(problem):
    scaler, _ = problem
    parts = DiffuseScalingTarget(scaler).squares(scaler.data)
    assert len(parts) == scaler.data.size
    assert parts.sum() == pytest.approx(brute_force_functional(scaler), rel=1e-10)
