"""Zero of the offsets."""

from __future__ import annotations

import numpy as np
import pytest

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.scaling.refinement.offset_zero import lowest_offset


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
