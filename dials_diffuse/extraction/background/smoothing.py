"""Smoothing of a background that was measured with few photons a pixel."""

from __future__ import annotations

import numpy as np

from dials_diffuse.geometry.panel import PanelGeometry

_BIN_WIDTH = 0.002  # of radial bins in |q|, 1/Angstrom
_FEWEST_PHOTONS = 400.0  # a radial bin with fewer is joined with the next: 5 % each
_BLOCKS = (64, 32, 16, 8, 4, 2, 1)  # pixels
_SMALL = 4  # blocks no wider follow sharp edges
_MARGIN = 6.0  # of the deviance: a further factor of 20 in what chance does


def radial(
    photons: np.ndarray, dose: np.ndarray, panel: PanelGeometry
) -> tuple[np.ndarray, np.ndarray]:
    """The background of a panel as its acceptance times a function of |q|.

    Args:
        photons: (n_slow, n_fast) sums of photons
        dose: (n_slow, n_fast) sums of the dose, 0 where a pixel is not usable
        panel: its geometry

    Returns:
        (mean, standard deviation of the mean), (n_slow, n_fast) float32, photons per unit of dose; NaN if
        no pixel is usable
    """
    q, acceptance = panel.q_length(), panel.acceptance
    bins = (q / _BIN_WIDTH).astype(np.int32).ravel()
    bins -= bins.min()
    exposed = (dose * acceptance).ravel()
    sums = [np.bincount(bins, x) for x in (photons.ravel(), exposed, q.ravel() * exposed)]
    groups = _join_poor_bins(sums[0])
    sums = [np.bincount(groups, x) for x in sums]
    exposed_groups = sums[1] > 0
    if not exposed_groups.any():
        nothing = np.full(photons.shape, np.nan, dtype=np.float32)
        return nothing, nothing
    counted, exposure, q_sum = (x[exposed_groups] for x in sums)

    def at_pixels(values):
        return np.interp(q.ravel(), q_sum / exposure, values).reshape(q.shape)

    rate = at_pixels(counted / exposure)
    # noise of an integrating detector can be less than nothing
    error = at_pixels(np.sqrt(np.maximum(counted, 0.0)) / exposure)
    return (rate * acceptance).astype(np.float32), (error * acceptance).astype(np.float32)


def adaptive(
    photons: np.ndarray, dose: np.ndarray, panel: PanelGeometry
) -> tuple[np.ndarray, np.ndarray]:
    """The radial background, corrected in blocks of pixels that contradict it; arguments and result as of radial."""
    mean, error = radial(photons, dose, panel)
    everywhere = np.ones(photons.shape, dtype=bool)
    _, _, sharp = _adapted(photons, dose, mean, error, everywhere)
    # A shadow pulls down the mean of the rings and large blocks that it crosses: once more
    # without what only the small blocks could describe
    if (dose > 0)[~sharp].any():
        mean, error = radial(photons * ~sharp, dose * ~sharp, panel)
    mean, error, _ = _adapted(photons, dose, mean, error, ~sharp)
    return mean, error


def _join_poor_bins(photons: np.ndarray) -> np.ndarray:
    """Group numbers of radial bins, so that each group has enough photons to be a mean."""
    groups = np.empty(len(photons), dtype=np.int64)
    group, sum_photons = 0, 0.0
    for i, count in enumerate(photons):
        groups[i] = group
        sum_photons += count
        if sum_photons >= _FEWEST_PHOTONS:
            group, sum_photons = group + 1, 0.0
    # What is left at the far end joins the last full group
    if group > 0 and sum_photons < _FEWEST_PHOTONS:
        groups[groups == group] = group - 1
    return groups


def _adapted(
    photons: np.ndarray, dose: np.ndarray, mean: np.ndarray, error: np.ndarray, smooth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct a smooth background in blocks of pixels that contradict it, large blocks first.

    A block's counts replace those of the model where the two differ by more than chance would
    make one block in all the panel differ (Poisson deviance against the universal threshold 2 ln
    N of wavelet smoothing: Donoho & Johnstone, Biometrika 81, 425 (1994), with some margin).

    Args:
        photons, dose: see radial
        mean, error: the model and its standard deviation, photons per unit of dose
        smooth: (n_slow, n_fast) bool, pixels that large blocks are judged by

    Returns:
        (mean, error, (n_slow, n_fast) bool: pixels that small blocks corrected)
    """
    corrected = np.zeros(mean.shape, dtype=bool)
    if not np.isfinite(mean).all():
        return mean, error, corrected
    model = mean.astype(np.float64)
    relative = np.divide(error, mean, out=np.zeros_like(error), where=mean > 0).astype(np.float64)
    for block in _BLOCKS:
        part = smooth if block > _SMALL else 1.0
        counted = np.maximum(_block_sums(photons * part, block), 0.0)
        expected = _block_sums(model * dose * part, block)
        n_blocks = max(2, np.count_nonzero(expected))
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithm = np.where(counted > 0, counted * np.log(counted / expected), 0.0)
            deviance = 2 * (logarithm - (counted - expected))
            wrong = (expected > 0) & (deviance > 2 * np.log(n_blocks) + _MARGIN)
            factor = np.where(wrong, counted / expected, 1.0)
            relative_of_block = 1 / np.sqrt(counted + 1)
        model *= _spread_out(factor, block, model.shape)
        wrong = _spread_out(wrong, block, model.shape)
        if block <= _SMALL:
            corrected |= wrong
        relative[wrong] = _spread_out(relative_of_block, block, model.shape)[wrong]
    return model.astype(np.float32), (model * relative).astype(np.float32), corrected


def _block_sums(values: np.ndarray, block: int) -> np.ndarray:
    """Sums over blocks x blocks pixels, those at the far edges cut short."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], block), axis=0)
    return np.add.reduceat(rows, np.arange(0, values.shape[1], block), axis=1)


def _spread_out(values: np.ndarray, block: int, shape: tuple[int, int]) -> np.ndarray:
    """Inverse of _block_sums: every pixel gets its block's value."""
    wide = np.repeat(np.repeat(values, block, axis=0), block, axis=1)
    return wide[: shape[0], : shape[1]]
