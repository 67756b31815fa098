"""Compiled loops of the fit, against dense matrices and loops of numpy."""

from __future__ import annotations

import numpy as np
import pytest
from fit_problems import (
    N_PANELS,
    N_RADIAL,
    N_STILLS,
    dense_fit,
    dense_prior,
    projected_normal,
    random_data,
    random_parameters,
)

from dials_diffuse.scaling.refinement.kernels import (
    curvatures,
    longest_voxel,
    patch_excess,
    spread_sums,
    squares_of,
    weigh,
)
from dials_diffuse.scaling.refinement.objective import Objective

NAMES = "scale offset panel sensitivity"
CASES = [
    (NAMES, ""),
    (NAMES, "scale"),
    (NAMES, "offset"),
    (NAMES, "sensitivity"),
    (NAMES, "scale offset sensitivity"),
    ("scale", ""),
    ("offset panel", ""),
    ("scale sensitivity", "scale sensitivity"),
]


def case(names, series):
    return random_data(), random_parameters(names.split(), series.split())


def undrawn(data):
    """Without precision, so that the gradient is that of the functional"""
    return data._replace(precision=np.zeros_like(data.precision))


@pytest.mark.parametrize("names, series", CASES)
def test_functional_and_gradient(names, series):
    data, parameters = case(names, series)
    objective = Objective(data, parameters)
    value, gradient = objective.evaluate()
    fit = dense_fit(data, parameters)
    residual = data.rows["net"] - fit.g * fit.best[fit.voxel] - fit.h
    squares = np.sum(data.weight * residual**2)
    shift = parameters.x - np.concatenate([p.prior.mean.ravel() for p in parameters.parts.values()])
    precision = dense_prior(parameters)
    assert objective.sum_of_squares == pytest.approx(squares)
    assert value == pytest.approx(squares + shift @ precision @ shift)
    jacobian = np.hstack(list(fit.jacobian.values()))
    expected = precision @ shift - jacobian.T @ (data.weight * residual)
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * abs(expected).max())
    np.testing.assert_allclose(objective.intensity, fit.best)
    np.testing.assert_allclose(objective.information, fit.information)


@pytest.mark.parametrize("names, series", CASES)
def test_gradient_against_finite_differences(names, series):
    data, parameters = case(names, series)
    objective = Objective(undrawn(data), parameters)
    _, gradient = objective.evaluate()
    x = parameters.x
    for i in range(parameters.n):
        step = 1e-5 * (np.arange(parameters.n) == i)
        values = []
        for sign in (1, -1):
            parameters.set(x + sign * step)
            values.append(objective.evaluate()[0])
        numeric = (values[0] - values[1]) / 4e-5
        assert numeric == pytest.approx(gradient[i], abs=1e-5 * abs(gradient).max())


@pytest.mark.parametrize("drawing", [False, True])
@pytest.mark.parametrize("names, series", CASES)
def test_normal_product_is_that_of_the_dense_matrix(names, series, drawing):
    data, parameters = case(names, series)
    data = data if drawing else undrawn(data)
    objective = Objective(data, parameters)
    objective.evaluate()
    fit = dense_fit(data, parameters)
    jacobian = np.hstack(list(fit.jacobian.values()))
    expected = projected_normal(jacobian, data, fit) + dense_prior(parameters)
    found = np.array([objective.product(unit) for unit in np.eye(parameters.n)])
    # the kernel works in single precision
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
    np.testing.assert_allclose(found / scale, found.T / scale, atol=1e-7)
    assert np.linalg.eigvalsh(found / scale).min() > 0


def test_scaling_of_all_b_is_not_determined():
    """I grows as b shrinks, and the data do not tell"""
    data, parameters = case("scale", "")
    data = undrawn(data)
    objective = Objective(data, parameters)
    objective.evaluate()
    shift = parameters.x
    jacobian = dense_fit(data, parameters).jacobian["scale"]
    size = np.sum(data.weight * (jacobian @ shift) ** 2)
    product = objective.product(shift) - parameters.prior_product(shift)
    assert abs(shift @ product) < 1e-6 * size


def test_curvatures_are_elements_of_the_dense_matrix():
    data, parameters = random_data(), random_parameters()
    for part in parameters.parts.values():
        # parameters that are the values of the tables themselves
        table = part.table(part.values)
        part.values, part.across = table, None
    fit, tables = dense_fit(data, parameters), parameters.tables()
    diagonal, cross = tables.zeros(), np.zeros_like(tables.c)
    coarse = np.arange(9) // 2
    detector = np.zeros((5 + N_PANELS, 5 + N_PANELS))
    known = fit.best, fit.information
    curvatures(data, tables, *known, diagonal, cross, detector, coarse)

    j = fit.jacobian
    for still in range(N_STILLS):
        of_c = slice(still * N_RADIAL, (still + 1) * N_RADIAL)
        both = np.hstack((j["scale"][:, still : still + 1], j["offset"][:, of_c]))
        normal = projected_normal(both, data, fit, data.rows["still"] == still)
        assert diagonal.b[still] == pytest.approx(normal[0, 0])
        np.testing.assert_allclose(diagonal.c[still, :-1], np.diag(normal)[1:], atol=1e-9)
        np.testing.assert_allclose(cross[still, :-1], normal[0, 1:], atol=1e-9)
    by_a = np.sum(data.weight[:, None] * j["sensitivity"] ** 2, axis=0)
    np.testing.assert_allclose(diagonal.a[0], by_a)
    by_coarse = np.stack([j["sensitivity"][:, coarse == i].sum(axis=1) for i in range(5)], axis=1)
    normal = projected_normal(np.hstack((by_coarse, j["panel"])), data, fit)
    np.testing.assert_allclose(detector, normal, atol=1e-9 * normal.max())


def voxels_of(data):
    return [np.arange(*edges) for edges in zip(data.start[:-1], data.start[1:])]


def expected_of_voxel(net, eg, eh, floor, prior, strength):
    """Intensity that the variances rest on, of accepted observations"""
    num, den = max(np.sum(net - eh), 0), np.sum(eg)
    noise = np.sum(floor + np.maximum(eh, 0))
    roots = np.sqrt(num + noise + 0.375) - np.sqrt(den * prior + noise + 0.375)
    k = min(strength, 2) if 2 * abs(roots) > 4 else strength
    return (num + k) / (den + k / prior)


@pytest.mark.parametrize("strength", [10.0, 200.0])
def test_weights_are_one_over_the_expected_variance(strength):
    data, parameters = random_data(), random_parameters()
    parameters.parts["offset"].values[0] -= 2
    fit, rows = dense_fit(data, parameters), data.rows
    # a voxel that is bright for certain
    rows["net"][data.start[4] : data.start[5]] *= 30
    bad = np.zeros((N_STILLS, 20), dtype=bool)
    bad[1, 3] = bad[0, :] = True
    data.weight[:] = -1
    assert weigh(data, parameters.tables(), bad, strength, 0.0, 0.3) == 0
    out = bad[rows["still"], rows["patch"]]
    assert 20 < out.sum() < 300 and (data.weight[out] == 0).all()
    for v, of in enumerate(voxels_of(data)):
        of = of[~out[of]]
        g, h, floor = fit.g[of], fit.h[of], rows["floor"][of]
        prior = data.prior[v]
        intensity = expected_of_voxel(rows["net"][of], g, h, floor, prior, strength)
        signal = g * intensity
        variance = np.maximum(signal + h, 0.05 * signal) + floor
        variance += (data.relative_error[v] * signal) ** 2
        np.testing.assert_allclose(data.weight[of], data.importance[v] / variance)
        width = max(0.3 * prior, abs(intensity - prior))
        assert data.precision[v] == pytest.approx(width**-2)


def test_outliers_have_no_part_in_the_weights_of_others():
    tables, bad = random_parameters().tables(), np.zeros((N_STILLS, 20), dtype=bool)
    clean, spoiled = random_data(), random_data()
    fit = dense_fit(clean, random_parameters())
    for data in (clean, spoiled):
        data.rows["net"] = fit.g * 10 + fit.h
    wild = clean.start[[1, 6, 9]] + 2
    spoiled.rows["net"][wild] += 1000
    # without them
    patch = clean.rows["patch"]
    patch[:] = 0
    patch[wild] = 1
    bad[:, 1] = True
    weigh(clean, tables, bad, 40.0, 0.0, 0.3)
    assert weigh(spoiled, tables, 0 * bad > 0, 40.0, 6.0, 0.3) == 3
    assert (spoiled.weight[wild] == 0).all()
    np.testing.assert_allclose(spoiled.weight, clean.weight)
    np.testing.assert_allclose(spoiled.precision, clean.precision)
    # what is rejected is judged anew the next time
    spoiled.rows["net"][wild] -= 1000
    assert weigh(spoiled, tables, 0 * bad > 0, 40.0, 6.0, 0.3) == 0
    assert (spoiled.weight > 0).all()


def test_patch_excess_is_the_deviation_from_the_others():
    data, parameters = random_data(), random_parameters()
    data.rows["patch"][::31] = 99
    excess, information = np.zeros((2, N_STILLS, 20))
    patch_excess(data, parameters.tables(), excess, information)
    fit, rows, w = dense_fit(data, parameters), data.rows, data.weight
    right = np.zeros((2, N_STILLS, 20))
    for of in voxels_of(data):
        for k in of[(w[of] > 0) & (rows["patch"][of] < 20)]:
            others = of[of != k]
            den = np.sum(w[others] * fit.g[others] ** 2)
            if den <= 0.01 * (den + w[k] * fit.g[k] ** 2):
                continue
            net = rows["net"][others] - fit.h[others]
            mean = np.sum(w[others] * fit.g[others] * net) / den
            photons = fit.g[k] * mean + fit.h[k]
            variance = 1 / w[k] + fit.g[k] ** 2 / den
            if photons > 0:
                at = rows["still"][k], rows["patch"][k]
                right[0][at] += photons * (rows["net"][k] - photons) / variance
                right[1][at] += photons**2 / variance
    np.testing.assert_allclose(excess, right[0], atol=1e-6)
    np.testing.assert_allclose(information, right[1])


def test_spread_sums():
    rng = np.random.default_rng(1)
    n, spread = 20_000, 0.3
    prior, information = rng.uniform(5, 50, n), rng.uniform(0.005, 0.5, n)
    sigma = np.sqrt((spread * prior) ** 2 + 1 / information)
    intensity = prior + sigma * rng.normal(size=n)
    information[::100] = 0
    # Bragg peaks that no mask covers
    intensity[5::100] = 100 * prior[5::100]
    excess, total = spread_sums(prior, intensity, information, spread)
    known = information > 0
    usual = (spread * prior[known]) ** 2 + 1 / information[known]
    deviation = (intensity[known] - prior[known]) ** 2
    near = deviation < 16 * usual
    w = (prior[known] / usual)[near] ** 2
    assert excess == pytest.approx(np.sum(w * (deviation - 1 / information[known])[near]))
    assert total == pytest.approx(np.sum(w * prior[known][near] ** 2))
    assert np.sqrt(excess / total) == pytest.approx(spread, rel=0.02)


def test_squares_of_observations():
    data, parameters = random_data(), random_parameters()
    out = np.full(len(data.rows), np.nan)
    squares_of(data, parameters.tables(), out)
    fit = dense_fit(data, parameters)
    residual = data.rows["net"] - fit.g * fit.best[fit.voxel] - fit.h
    np.testing.assert_allclose(out, data.weight * residual**2, atol=1e-12)


def test_ranges_of_voxels():
    data = random_data()
    assert longest_voxel(data.start) == np.diff(data.start).max()
    part = data.of_voxels(slice(10, 25))
    first, last = data.start[10], data.start[25]
    assert part.start[0] == 0 and part.start[-1] == len(part.rows) == last - first
    np.testing.assert_array_equal(part.rows, data.rows[first:last])
    np.testing.assert_array_equal(part.prior, data.prior[10:25])
    # weights are changed in place
    part.weight[:] = 7
    assert (data.weight[first:last] == 7).all()
