"""The objective in threads, and the approximate normal matrix against a dense one.

Functional, gradient and products of the normal matrix: see test_kernels.py
"""

from __future__ import annotations

import numpy as np
import pytest
from fit_problems import (
    N_STILLS,
    NAMES,
    dense_fit,
    dense_prior,
    projected_normal,
    random_data,
    random_parameters,
)

from dials_diffuse.model.components import N_AZIMUTHAL
from dials_diffuse.scaling.refinement.objective import (
    MOST_CHUNKS,
    Objective,
    Preconditioner,
    chunks_of,
    sum_over_chunks,
)

N_DIRECTIONS = N_AZIMUTHAL**2
CASES = [
    (NAMES, ()),
    (NAMES, ("scale",)),
    (NAMES, ("offset",)),
    (NAMES, ("scale", "offset")),
    (NAMES, ("sensitivity",)),
    (("scale",), ()),
    (("scale", "offset"), ()),
    (("offset", "sensitivity"), ("offset",)),
    (("panel", "sensitivity"), ()),
    (("scale", "panel"), ("scale",)),
]


def both(names=NAMES, series=(), n=600):
    return random_data(n, n_directions=N_DIRECTIONS), random_parameters(names, series, N_DIRECTIONS)


def test_chunks_are_a_partition_of_the_voxels():
    data = random_data(2000)
    chunks = chunks_of(data, n_sums=1)
    assert len(chunks) == MOST_CHUNKS
    assert [c.start for c in chunks] == [0, *(c.stop for c in chunks[:-1])]
    assert chunks[-1].stop == len(data.prior)
    # sums that are as large as the data are not worth a chunk
    assert len(chunks_of(data, n_sums=100)) == 2
    assert chunks_of(data, n_sums=10**6) == [slice(0, len(data.prior))]


def test_sums_over_chunks():
    data = random_data(2000)

    def add(part, voxels, arrays):
        still = part.rows["still"].astype(int)
        np.add.at(arrays[0], still, part.rows["net"])
        np.testing.assert_array_equal(part.prior, data.prior[voxels])
        return np.sum(part.weight)

    for n_threads in (1, 3):
        total, (sums,) = sum_over_chunks(data, lambda: (np.zeros(N_STILLS),), add, n_threads)
        assert total == pytest.approx(data.weight.sum())
        expected = np.bincount(data.rows["still"], data.rows["net"], N_STILLS)
        np.testing.assert_allclose(sums, expected, rtol=1e-6)


@pytest.mark.parametrize("series", [(), ("scale", "offset", "sensitivity")])
def test_nothing_depends_on_the_number_of_threads(series):
    data, x = random_data(20_000, 900), None
    results = []
    for n_threads in (1, 2, 5):
        parameters = random_parameters(series=series)
        objective = Objective(data, parameters, n_threads)
        assert len(chunks_of(data, parameters.tables().size)) > 1
        value, gradient = objective.evaluate()
        x = np.linspace(-1, 1, parameters.n)
        arrays = gradient, objective.product(x), objective.squares(), objective.intensity
        assert objective.squares().sum() == pytest.approx(objective.sum_of_squares)
        results.append((value, *(array.copy() for array in arrays)))
    for others in results[1:]:
        for one, other in zip(results[0], others):
            np.testing.assert_array_equal(one, other)


def test_products_are_those_of_the_last_evaluation():
    data, parameters = random_data(), random_parameters()
    objective = Objective(data, parameters)
    x = np.linspace(-1, 1, parameters.n)
    objective.evaluate()
    first = objective.product(x)
    start = parameters.x
    parameters.set(1.1 * start)
    objective.evaluate()
    assert not np.allclose(objective.product(x), first, rtol=1e-3)
    parameters.set(start)
    objective.evaluate()
    np.testing.assert_allclose(objective.product(x), first)
    assert objective.n_passes == 6


def coarse_means(across):
    """Weights of directions (D, n), each the mean over 4 x 4 directions"""
    blocks = across.reshape(N_AZIMUTHAL // 4, 4, N_AZIMUTHAL // 4, 4, -1)
    means = blocks.mean(axis=(1, 3), keepdims=True)
    return np.broadcast_to(means, blocks.shape).reshape(across.shape)


def approximate_matrix(data, parameters):
    """The approximate normal matrix, with priors: of b and c still by still, and of d and a"""
    fit = dense_fit(data, parameters)
    parts, slices = parameters.parts, parameters.slices
    out = dense_prior(parameters)
    jacobian = {name: np.zeros((len(data.rows), parameters.n)) for name in ("still", "detector")}
    for name in parts:
        kind = "still" if name in ("scale", "offset") else "detector"
        jacobian[kind][:, slices[name]] = fit.jacobian[name]
    for still in range(N_STILLS):
        chosen = data.rows["still"] == still
        out += projected_normal(jacobian["still"], data, fit, chosen)
    a = parts.get("sensitivity")
    if a is not None and a.along is not None:
        # a function of p_order: for fixed intensities, apart from d
        of_a = fit.jacobian["sensitivity"]
        out[slices["sensitivity"], slices["sensitivity"]] += of_a.T @ (data.weight[:, None] * of_a)
        jacobian["detector"][:, slices["sensitivity"]] = 0
    elif a is not None:
        # derivatives by the values of a, then by its parameters
        by_table = fit.jacobian["sensitivity"][:, 0] / a.across[data.rows["direction"], 0]
        coarse = coarse_means(a.across)[data.rows["direction"]]
        jacobian["detector"][:, slices["sensitivity"]] = by_table[:, None] * coarse
    return out + projected_normal(jacobian["detector"], data, fit)


@pytest.mark.parametrize("names, series", CASES)
def test_the_preconditioner_makes_the_approximate_matrix_the_unit_matrix(names, series):
    data, parameters = both(names, series)
    objective = Objective(data, parameters)
    objective.evaluate()
    preconditioner = Preconditioner(objective)
    unit = np.eye(parameters.n)
    root = np.array([preconditioner.from_free(e) for e in unit]).T
    matrix = approximate_matrix(data, parameters)
    np.testing.assert_allclose(root.T @ matrix @ root, unit, atol=1e-8)
    by_free = np.array([preconditioner.by_free(e) for e in unit]).T
    np.testing.assert_allclose(by_free, root.T, atol=1e-10 * abs(root).max())


@pytest.mark.parametrize("names, series", CASES)
def test_covariances_are_those_of_the_approximate_matrix(names, series):
    data, parameters = both(names, series)
    objective = Objective(data, parameters)
    objective.evaluate()
    preconditioner = Preconditioner(objective)
    inverse = np.linalg.inv(approximate_matrix(data, parameters))
    parts, slices = parameters.parts, parameters.slices
    k = 1 + (4 if "offset" in parts else 0)
    found = preconditioner.still_covariances()
    assert found.shape == (N_STILLS, k, k)
    for still in range(N_STILLS):
        # b and the parameters of c of this still, from all parameters
        jacobian = np.zeros((k, parameters.n))
        for name, rows in (("scale", slice(0, 1)), ("offset", slice(1, k))):
            if name in parts:
                part = parts[name]
                along = np.eye(N_STILLS) if part.along is None else part.along
                weights = np.kron(along[still], np.eye(part.values.shape[1]))
                jacobian[rows, slices[name]] = weights
        expected = jacobian @ inverse @ jacobian.T
        np.testing.assert_allclose(found[still], expected, atol=1e-8 * abs(inverse).max())
    for name, part in parts.items():
        if part.by_still:
            with pytest.raises(KeyError):
                preconditioner.covariance_of(name)
        else:
            found = preconditioner.covariance_of(name)
            expected = inverse[slices[name], slices[name]]
            np.testing.assert_allclose(found, expected, atol=1e-8 * abs(expected).max())


def test_gauss_newton_steps_with_the_dense_matrix_reach_the_minimum():
    """So products and gradient belong to the same functional"""
    data, parameters = random_data(), random_parameters(NAMES)
    data = data._replace(precision=np.zeros_like(data.precision))
    objective = Objective(data, parameters)
    _, first = objective.evaluate()
    for _ in range(30):
        _, gradient = objective.evaluate()
        matrix = np.array([objective.product(e) for e in np.eye(parameters.n)])
        parameters.set(parameters.x - np.linalg.solve(matrix, gradient))
    assert abs(gradient).max() < 1e-6 * abs(first).max()


def test_curvatures_do_not_depend_on_the_order_within_a_still():
    data, parameters = both()
    rng, order = np.random.default_rng(1), []
    for first, last in zip(data.start[:-1], data.start[1:]):
        shuffled = first + rng.permutation(last - first)
        order.append(shuffled[np.argsort(data.rows["still"][shuffled], kind="stable")])
    order = np.concatenate(order)
    assert (order != np.arange(len(order))).any()
    found = []
    for of in (np.arange(len(order)), order):
        same = data._replace(rows=data.rows[of], weight=data.weight[of])
        objective = Objective(same, parameters)
        objective.evaluate()
        diagonal, cross, detector = objective.curvatures()
        found.append((*diagonal[:4], cross, detector))
    for one, other in zip(*found):
        np.testing.assert_allclose(other, one, atol=1e-9 * abs(one).max())


def test_observations_that_determine_nothing():
    data, parameters = both(("scale", "offset"))
    for part in parameters.parts.values():
        part.prior.precision[:] = 0
    objective = Objective(data._replace(weight=0 * data.weight), parameters)
    objective.evaluate()
    with pytest.raises(ValueError, match="do not determine the scaling model"):
        Preconditioner(objective)
