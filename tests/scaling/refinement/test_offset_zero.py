"""Zero of the offsets."""

from __future__ import annotations

import numpy as np
import pytest

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.scaling.refinement.offset_zero import (
    BACKGROUND_ERROR,
    background_errors,
    far_below,
    lowest_offset,
    n_left_out,
    shapes_beyond_noise,
    shrink_towards_population,
)


def same_errors(sigma, shape):
    return np.broadcast_to(sigma**2 * np.eye(shape[1]), (shape[0], shape[1], shape[1]))


def test_lowest_offset_is_not_dragged_down_by_noise():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (400, 3))
    truth[0] = 0
    exact, _ = lowest_offset(truth, same_errors(1e-4, truth.shape), skip=0)
    np.testing.assert_allclose(exact, 0, atol=1e-3)
    measured = truth + rng.normal(0, 0.2, truth.shape)
    lowest, _ = lowest_offset(measured, same_errors(0.2, truth.shape), skip=0)
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
    lowest, _ = lowest_offset(5 + noise, covariances)
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
    lowest, _ = lowest_offset(truth + sigma * rng.normal(size=truth.shape), covariances, skip=0)
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
    lowest, _ = lowest_offset(truth + sigma * rng.normal(size=truth.shape), covariances, skip=0)
    assert abs(lowest - truth.min(axis=0)).max() < 0.03


def test_the_zero_is_a_low_quantile_of_many_stills():
    rng = np.random.default_rng(4)
    shape = np.array([1.0, 2.0, 0.5])
    truth = rng.permutation(np.arange(400.0))[:, None] * shape
    assert n_left_out(400) == 8 and n_left_out(49) == 0
    lowest, order = lowest_offset(truth, same_errors(1e-3, truth.shape))
    np.testing.assert_allclose(lowest, 8 * shape, atol=0.05)
    np.testing.assert_array_equal(order, np.argsort(truth[:, 0]))


def test_stills_far_below_the_others_are_found():
    rng = np.random.default_rng(5)
    fraction = rng.uniform(0, 3, (50, 6)) + rng.normal(0, 0.1, (50, 6))
    covariance = same_errors(0.1, fraction.shape)
    assert not far_below(fraction, covariance).any()
    fraction[7] -= 60
    # far above is what a loop or ice may do
    fraction[9] += 60
    assert np.flatnonzero(far_below(fraction, covariance)).tolist() == [7]


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_errors_of_the_background_are_found(error):
    rng = np.random.default_rng(6)
    n_stills, n = 200, 8
    b = rng.uniform(0.5, 2, n_stills)[:, None]
    background = (100 * np.exp(-np.linspace(0, 2, n)))[None] / b
    amounts = error * rng.normal(size=n_stills)
    noise = 1.0 / b * rng.normal(size=(n_stills, n))
    covariance = (1.0 / b[:, :, None]) ** 2 * np.eye(n)
    found, spread = background_errors(
        5 + amounts[:, None] * background + noise, covariance, background
    )
    np.testing.assert_allclose(found, amounts - np.median(amounts), atol=0.05)
    assert spread == pytest.approx(max(error, BACKGROUND_ERROR), rel=0.2)
    nothing, none = background_errors(noise, covariance, np.zeros_like(background))
    assert not nothing.any() and none == 0


def test_singular_values_of_noise_are_no_shapes():
    rng = np.random.default_rng(7)
    for n_rows, n_columns in ((10, 21), (500, 8), (2000, 21)):
        noise = rng.normal(0, 1.1, (n_rows, n_columns))
        values = np.linalg.svd(noise, compute_uv=False)
        n, variance = shapes_beyond_noise(values, n_rows, n_columns)
        assert n == 0 and variance == pytest.approx(1.21, rel=0.2)
        noise += 10 * np.outer(rng.normal(size=n_rows), np.ones(n_columns))
        noise += 10 * np.outer(rng.normal(size=n_rows), np.arange(n_columns))
        values = np.linalg.svd(noise, compute_uv=False)
        assert shapes_beyond_noise(values, n_rows, n_columns)[0] == 2


def test_amounts_are_shrunk_as_their_errors_say():
    rng = np.random.default_rng(8)
    mixing = np.array([[2.0, 0.0], [1.0, 1.5]])
    truth = [3.0, -1.0] + rng.normal(size=(2000, 2)) @ mixing.T
    variance = rng.uniform(0.1, 9, 2000)
    measured = truth + np.sqrt(variance)[:, None] * rng.normal(size=truth.shape)
    shrunk, errors = shrink_towards_population(measured, variance)
    np.testing.assert_allclose(shrunk.mean(axis=0), [3, -1], atol=0.2)
    difference = shrunk - truth
    chi2 = np.einsum("sk,skl,sl->s", difference, np.linalg.inv(errors), difference)
    assert chi2.mean() == pytest.approx(2, rel=0.1)
    assert np.mean(difference**2) < 0.5 * np.mean((measured - truth) ** 2)
