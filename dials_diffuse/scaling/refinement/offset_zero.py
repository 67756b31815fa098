"""Zero of the offsets: the smallest c/b over all stills is 0 at each |q|, by convention.

c_i -> c_i - b_i f(|q|), I -> I + f changes no expectation for any f.
"""

from __future__ import annotations

import numpy as np

from dials_diffuse.model.components import N_RADIAL

# Relative error of the subtracted background of a still as a whole, as its pulse was stronger or
# weaker than those of the empty shots
BACKGROUND_ERROR = 0.02
# Largest ratio of the variance of the offsets' noise to their covariances
MOST_EXCESS = 2.0
# Standard deviations by which the offset of another still must be lower than that of the still that
# sets the zero
LOWER = 2.0
# Standard deviations that are added to the offset of a still before the lowest is looked for, and
# that b must be above 0
CERTAIN = 3.0


def fix_offset_zero(scaler, used: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Fix what the data do not determine: set the zero of the offsets c(|q|).

    A function f(|q|) added to all intensities, and b f subtracted from the offset of each still with
    scale b, leaves all expected observations as they are. It is chosen such that the smallest c/b of the
    stills becomes zero at each |q|, within its error. Stills whose scale b is not significantly above zero
    have no part in the choice; their offsets are changed like all others.

    Args:
        scaler: the offsets of its models are changed in place
        used: (S,) bool, True for stills that were refined
        covariances: (S, 1 + n, 1 + n) of b and of the n parameters of c

    Returns:
        (n,) parameters of f. The intensities follow by themselves: they are computed from the models
    """
    certain = used & (scaler.tables.b > CERTAIN * np.sqrt(covariances[:, 0, 0]))
    used = certain if np.count_nonzero(certain) > 1 else used
    models = [m for m, u in zip(scaler.models, used) if u]
    b = scaler.tables.b[used][:, None]
    fraction = np.array([m.components["offset"].values() for m in models]) / b
    # d(c/b) = (dc - c/b db) / b
    by_c = np.broadcast_to(np.eye(fraction.shape[1]), (*fraction.shape, fraction.shape[1]))
    jacobian = np.concatenate((-fraction[:, :, None], by_c), axis=2)
    covariance = np.einsum("spk,skl,sql->spq", jacobian, covariances[used], jacobian, optimize=True)
    background = BACKGROUND_ERROR * mean_background(scaler)
    covariance += np.outer(background, background)
    lowest = lowest_offset(fraction, covariance / b[:, :, None] ** 2)
    for model in scaler.models:
        offset = model.components["offset"]
        scale = model.components["scale"].parameters[0]
        offset.set_values(offset.values() - scale * lowest)
    scaler.update_for_minimisation()
    return lowest


def mean_background(scaler) -> np.ndarray:
    """(n,): mean background at the positions of c over |q|, photons/(s sr)."""
    data, offset = scaler.data, scaler.models[0].components["offset"]
    accepted = data.weight > 0
    exposure, background = (
        np.bincount(data.radial[accepted], values[accepted], minlength=N_RADIAL)[:N_RADIAL]
        for values in (data.exposure, data.background)
    )
    seen = exposure > 0
    return np.interp(
        offset.positions(), offset.bin_centres()[seen], background[seen] / exposure[seen]
    )


def lowest_offset(fraction: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """The smallest c/b over the stills at each |q|, as it would be without noise.

    The plain minimum of many noisy values lies some sigmas too low. But the offsets of all stills
    consist of a few shapes (air, water): singular vectors of their deviations from the mean, in units
    of their errors, with singular values beyond noise. The amount of each shape in a still is shrunk
    towards the population of all stills according to its error. The still with certainly least
    offset over all |q| sets the zero; others lower it where they are more than LOWER standard
    deviations below.

    Args:
        fraction: (S, n) c/b
        covariances: (S, n, n)

    Returns:
        (n,)
    """
    n = fraction.shape[1]
    variance = np.diagonal(covariances, axis1=1, axis2=2)
    mean = np.sum(fraction / variance, axis=0) / np.sum(1 / variance, axis=0)
    usual = np.sqrt(np.median(variance, axis=0))
    # the size of the errors of each still, and the correlation that those of all stills have
    size = np.sqrt(np.mean(variance / usual**2, axis=1))[:, None]
    shared = np.mean(covariances / (size[:, :, None] ** 2 * np.outer(usual, usual)), axis=0)
    root = np.linalg.cholesky(shared + 1e-9 * np.trace(shared) / n * np.eye(n))
    deviations = np.linalg.solve(root, ((fraction - mean) / usual / size).T).T
    _, values, shapes = np.linalg.svd(deviations, full_matrices=False)
    n_shapes, excess = shapes_beyond_noise(values, len(fraction) - 1, n)
    amounts, errors = shrink_towards_population(
        size * (deviations @ shapes[:n_shapes].T), excess * size[:, 0] ** 2
    )
    to_offsets = usual[:, None] * (root @ shapes[:n_shapes].T)
    offsets, total = amounts @ to_offsets.T, to_offsets.sum(axis=0)
    # among many uncertain ones some seem lowest
    sigma = np.sqrt(np.einsum("k,skl,l->s", total, errors, total))
    least = np.argmin(amounts @ total + CERTAIN * sigma)
    # with the errors of single values, since the shapes are not exact either
    below = offsets[least] - offsets - LOWER * np.sqrt(variance + variance[least])
    return mean + offsets[least] - np.maximum(below, 0.0).max(axis=0)


def shapes_beyond_noise(values: np.ndarray, n_rows: int, n_columns: int) -> tuple[int, float]:
    """Number of singular values beyond what noise alone reaches, and the variance of the noise.

    For a matrix whose elements have errors of 1 or somewhat more, with three standard deviations to
    spare (Johnstone 2001, Ann. Stat. 29, 295). The variance is that of the other singular values.

    Args:
        values: (K,) singular values, largest first
        n_rows, n_columns: of the matrix, all of which is noisy
    """
    a, b = np.sqrt(n_rows), np.sqrt(n_columns)
    edge = np.sqrt((a + b) ** 2 + 3 * (a + b) * (1 / a + 1 / b) ** (1 / 3))
    most = min(n_rows, n_columns)
    for k in range(most):
        # variance of the noise if all values before are signal
        rest = np.clip(np.sum(values[k:] ** 2) / ((n_rows - k) * (n_columns - k)), 1.0, MOST_EXCESS)
        if values[k] <= edge * np.sqrt(rest):
            return k, float(rest)
    return most, 1.0


def shrink_towards_population(
    amounts: np.ndarray, variance: np.ndarray, n_steps: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Best estimates of normally distributed amounts that were measured with errors.

    Mean and covariance of the distribution are found by expectation maximisation (Dempster, Laird &
    Rubin 1977, J. R. Stat. Soc. B 39, 1).

    Args:
        amounts: (S, K)
        variance: (S,) of their errors, the same for all K

    Returns:
        estimates (S, K) and their covariances (S, K, K)
    """
    weight = variance[:, None] ** -1 / np.sum(1 / variance)
    mean = np.sum(weight * amounts, axis=0)
    spread = (weight * (amounts - mean)).T @ (amounts - mean)
    for _ in range(n_steps):
        axis_variances, axes = np.linalg.eigh(spread)
        share = axis_variances / (axis_variances + variance[:, None])
        errors = share * variance[:, None]
        shrunk = (share * ((amounts - mean) @ axes)) @ axes.T
        mean = mean + shrunk.mean(axis=0)
        shrunk = shrunk - shrunk.mean(axis=0)
        spread = shrunk.T @ shrunk / len(shrunk) + (axes * errors.mean(axis=0)) @ axes.T
    return mean + shrunk, np.einsum("kj,sj,lj->skl", axes, errors, axes)
