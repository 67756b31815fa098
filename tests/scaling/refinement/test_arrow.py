"""Inverses of arrow matrices, against those of the whole matrix by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.scaling.refinement.arrow import Arrow, inverse_root

SIZES = [(4, 3, 5), (1, 1, 1), (6, 2, 0), (4, 0, 5)]


def random_arrow(n_stills, m, n, with_cross=True, seed=0):
    """(own, shared, cross) and the matrix of all, stills first"""
    rng = np.random.default_rng(seed)
    size = n_stills * m + n
    jacobian = rng.normal(size=(4 * size, size))
    # parameters of very different units
    jacobian *= 10.0 ** rng.uniform(-3, 3, size)
    # each row of it belongs to one still
    still = np.arange(len(jacobian)) % n_stills
    for i in range(n_stills):
        jacobian[still != i, i * m : (i + 1) * m] = 0
    matrix = jacobian.T @ jacobian
    if not with_cross:
        matrix[: n_stills * m, n_stills * m :] = matrix[n_stills * m :, : n_stills * m] = 0
    blocks = [slice(i * m, (i + 1) * m) for i in range(n_stills)]
    own = np.array([matrix[of, of] for of in blocks])
    cross = np.array([matrix[n_stills * m :, of] for of in blocks])
    return own, matrix[n_stills * m :, n_stills * m :], cross, matrix


def close(found, expected):
    """Compare covariance matrices in units of their e.s.d.s"""
    unit = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    scale = unit[..., :, None] * unit[..., None, :]
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-7)


@pytest.mark.parametrize("with_cross", [True, False])
@pytest.mark.parametrize("n_stills, m, n", SIZES)
def test_covariances_are_blocks_of_the_inverse(n_stills, m, n, with_cross):
    own, shared, cross, matrix = random_arrow(n_stills, m, n, with_cross)
    arrow = Arrow(own, shared, cross if with_cross else None)
    inverse = np.linalg.inv(matrix)
    found = arrow.covariances()
    assert found.shape == (n_stills, m, m)
    for i in range(n_stills):
        of = slice(i * m, (i + 1) * m)
        close(found[i], inverse[of, of])
        close(arrow.own[i], np.linalg.inv(own[i]))
    close(arrow.shared, inverse[n_stills * m :, n_stills * m :])


@pytest.mark.parametrize("n_stills, m, n", SIZES)
def test_slopes_follow_the_shared_parameters(n_stills, m, n):
    own, shared, cross, _ = random_arrow(n_stills, m, n)
    slopes = Arrow(own, shared, cross).slopes
    for i in range(n_stills):
        # the stills' own parameters at the least of the functional for fixed shared ones
        np.testing.assert_allclose(slopes[i], -np.linalg.solve(own[i], cross[i].T))


@pytest.mark.parametrize("n_stills, m, n", SIZES)
def test_for_free_parameters_the_matrix_is_the_unit_matrix(n_stills, m, n):
    own, shared, cross, matrix = random_arrow(n_stills, m, n)
    arrow = Arrow(own, shared, cross)

    def flat(both):
        return np.concatenate([v.ravel() for v in both])

    def stacked(x):
        return x[: n_stills * m].reshape(n_stills, m), x[n_stills * m :]

    unit = np.eye(len(matrix))
    # columns: parameters of each free one
    root = np.array([flat(arrow.from_free(*stacked(e))) for e in unit]).T
    np.testing.assert_allclose(root.T @ matrix @ root, unit, atol=1e-8)
    # derivatives transform with the transpose
    by_free = np.array([flat(arrow.by_free(*stacked(e))) for e in unit]).T
    np.testing.assert_allclose(by_free, root.T, rtol=1e-8, atol=1e-12 * abs(root).max())


def test_inverse_root():
    own, *_ = random_arrow(5, 3, 0)
    root = inverse_root(own)
    close(root @ np.swapaxes(root, 1, 2), np.linalg.inv(own))
    assert inverse_root(np.zeros((4, 0, 0))).shape == (4, 0, 0)


@pytest.mark.parametrize("bad", [[[1.0, 2], [2, 1]], [[0.0, 0], [0, 1]], [[np.nan, 0], [0, 1]]])
def test_what_is_not_positive_definite_is_refused(bad):
    good = np.eye(2)
    with pytest.raises(ValueError, match="do not determine the scaling model"):
        Arrow(np.array([good, bad]), good)
    with pytest.raises(ValueError, match="do not determine the scaling model"):
        Arrow(np.array([good, good]), np.array(bad))
    # each block is positive definite, not so the whole
    with pytest.raises(ValueError, match="do not determine the scaling model"):
        Arrow(good[None], good, 1.5 * good[None])
