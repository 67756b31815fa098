"""The vector of parameters, its tables and priors, against explicit sums."""

from __future__ import annotations

import numpy as np
import pytest
from fit_problems import N_RADIAL, N_STILLS, NAMES, dense_prior, random_parameters

from dials_diffuse.scaling.refinement.parameters import TABLES, Part, Quadratic

SERIES = [(), ("scale",), ("offset",), ("scale", "offset", "sensitivity")]


def weights_of(part, n_rows, n_columns):
    """(rows of the table, columns, n): the table = weights @ parameters"""
    along = np.eye(n_rows) if part.along is None else part.along
    across = np.eye(n_columns) if part.across is None else part.across
    return np.einsum("si,rp->srip", along, across).reshape(n_rows, n_columns, -1)


def random_tables(parameters, rng):
    tables = parameters.tables().zeros()
    for table in tables[:4]:
        table[:] = rng.normal(size=table.shape)
    return tables


@pytest.mark.parametrize("series", SERIES)
def test_tables_are_weighted_sums_of_the_parameters(series):
    parameters = random_parameters(series=series)
    tables, x = parameters.tables(), parameters.x
    for name, part in parameters.parts.items():
        table = np.atleast_2d(getattr(tables, TABLES[name]))
        table = table.T if name == "scale" else table
        if name == "offset":
            assert (table[:, -1] == 0).all()
            table = table[:, :-1]
        weights = weights_of(part, *table.shape)
        np.testing.assert_allclose(table, weights @ x[parameters.slices[name]])
        # and back
        by_parameters = part.by_parameters(table)
        assert by_parameters.shape == part.values.shape
        np.testing.assert_allclose(
            by_parameters.ravel(), np.einsum("srn,sr->n", weights, table), rtol=1e-12
        )


@pytest.mark.parametrize("series", SERIES)
def test_shifts_and_gradients_are_adjoint(series):
    parameters, rng = random_parameters(series=series), np.random.default_rng(2)
    x, by_tables = rng.normal(size=parameters.n), random_tables(parameters, rng)
    # of this bin nothing is refined
    by_tables.c[:, -1] = 0
    shifts = parameters.shifts(x)
    total = sum(np.sum(a * b) for a, b in zip(shifts[:4], by_tables[:4]))
    assert parameters.gradient(by_tables) @ x == pytest.approx(total)
    before, start = parameters.tables(), parameters.x
    parameters.set(start + x)
    for old, new, shift in zip(before[:4], parameters.tables()[:4], shifts[:4]):
        np.testing.assert_allclose(new - old, shift, atol=1e-12)


def test_what_is_not_refined_stays():
    parameters, all_parts = random_parameters(["offset"]), random_parameters()
    start = all_parts._start
    tables = parameters.tables()
    assert parameters.n == 4 * N_STILLS
    for name in ("b", "d", "a"):
        np.testing.assert_array_equal(getattr(tables, name), getattr(start, name))
        assert (getattr(parameters.shifts(parameters.x), name) == 0).all()
    assert not np.allclose(tables.c, start.c)


def test_set_and_split():
    parameters, rng = random_parameters(series=("offset",)), np.random.default_rng(3)
    x = rng.normal(size=parameters.n)
    parameters.set(x)
    np.testing.assert_array_equal(parameters.x, x)
    assert [values.shape for values in parameters.split(x)] == [(5, 1), (3, 4), (1, 3), (1, 5)]
    np.testing.assert_array_equal(np.concatenate([v.ravel() for v in parameters.split(x)]), x)
    assert [x[parameters.slices[name]].size for name in NAMES] == [5, 12, 3, 5]
    # the vector is a copy
    parameters.x[:] = 0
    x[:] = 0
    assert np.all(parameters.x != 0)


def test_values_are_kept_above_their_limits():
    parameters = random_parameters(["scale", "offset"])
    parameters.parts["scale"].positive = np.linspace(0.1, 0.5, 5)[:, None]
    parameters.set(np.concatenate(([0.05, 0.3, -9, 0.39, 0.6], np.full(20, -3.0))))
    np.testing.assert_allclose(parameters.x[:5], [0.1, 0.3, 0.3, 0.4, 0.6])
    assert (parameters.x[5:] == -3).all()


@pytest.mark.parametrize("dense", [False, True])
def test_priors(dense):
    series = ("offset",) if dense else ()
    parameters, rng = random_parameters(series=series), np.random.default_rng(4)
    precision = dense_prior(parameters)
    mean = np.concatenate([part.prior.mean.ravel() for part in parameters.parts.values()])
    x, shift = parameters.x, rng.normal(size=parameters.n)
    assert parameters.prior_value() == pytest.approx((x - mean) @ precision @ (x - mean))
    np.testing.assert_allclose(parameters.prior_half_gradient(), precision @ (x - mean))
    np.testing.assert_allclose(parameters.prior_product(shift), precision @ shift)
    for name, part in parameters.parts.items():
        of = parameters.slices[name]
        np.testing.assert_array_equal(part.dense_prior(), precision[of, of])


@pytest.mark.parametrize("series", SERIES)
def test_normal_matrices_from_the_diagonal_of_the_tables(series):
    parameters, rng = random_parameters(series=series), np.random.default_rng(5)
    for part in parameters.parts.values():
        shape = part.table(part.values).shape
        diagonal = rng.uniform(0, 3, shape)
        weights = weights_of(part, *shape)
        expected = np.einsum("srn,sr,srm->nm", weights, diagonal, weights)
        np.testing.assert_allclose(part.normal(diagonal), expected + part.dense_prior())
        across = np.eye(shape[1]) if part.across is None else part.across
        for row, normal in zip(diagonal, part.by_row(diagonal)):
            np.testing.assert_allclose(normal, across.T @ np.diag(row) @ across, atol=1e-14)


def test_parts_of_stills():
    parts = random_parameters().parts.values()
    assert [part.by_still for part in parts] == [True, True, False, False]
    parts = random_parameters(series=NAMES[:2]).parts.values()
    assert not any(part.by_still for part in parts)


def test_a_part_without_weights_is_its_table():
    values = np.arange(12.0).reshape(2, 6)
    prior = Quadratic(np.zeros((2, 6)), np.zeros((2, 6, 6)))
    part = Part("offset", values, None, None, prior)
    np.testing.assert_array_equal(part.table(values), values)
    np.testing.assert_array_equal(part.by_parameters(values), values)
    assert part.values.shape[1] == N_RADIAL
