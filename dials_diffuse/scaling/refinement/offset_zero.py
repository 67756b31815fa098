"""Zero of the offsets: a low quantile of c/b over the stills is 0 at each |q|, by convention.

c_i -> c_i - b_i f(|q|), I -> I + f changes no expectation for any f.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from dials_diffuse.model.components import N_RADIAL
from dials_diffuse.scaling.refinement.parameters import Part

logger = logging.getLogger("dials.diffuse.scaling.offset_zero")

# Least relative error of the subtracted background of a still as a whole, as its pulse was stronger or
# weaker than those of the empty shots
BACKGROUND_ERROR = 0.02
# Relative error of the background beyond which the log warns
NOTABLE_ERROR = 0.06
# Largest ratio of the variance of the noise to what it should be
MOST_EXCESS = 2.0
# Standard deviations by which the offset of another still must be lower than that of the still that
# sets the zero
LOWER = 3.5
# Standard deviations that are added to the offset of a still before the lowest is looked for, and
# that b must be above 0
CERTAIN = 3.0
# Robust standard deviations by which stills are far below the others
FAR = 4.0
# The zero is set by the still at this quantile of those that are not far below
QUANTILE = 0.02


@dataclass
class OffsetZero:
    """How the zero of the offsets was chosen.

    Attributes:
        lift: (n,) f at the parameters of c: to be added to the intensities, and b f subtracted from c
        still: whose offset became zero
        left_out: stills below it
        change: of the intensities, as a fraction of their mean, if the next still had set the zero
        background_error: relative error of the subtracted background, from still to still
        worst: stills whose background deviates most, and by what fraction
    """

    lift: np.ndarray
    still: int
    left_out: list[int]
    change: float
    background_error: float
    worst: list[tuple[int, float]]


def fix_offset_zero(
    part: Part, scales: np.ndarray, fitter, covariances: np.ndarray, drawn: bool = False
) -> OffsetZero:
    """Choose what the data do not determine: the zero of the offsets c(|q|).

    A function f(|q|) added to all intensities, and b f subtracted from the offset of each still with
    scale b, leaves all expected observations as they are. It is chosen such that c/b of the lowest stills
    becomes zero at each |q|, within its error. What may be an error of the subtracted background, a multiple of it
    that is as often too low as too high, lowers nothing. Stills whose scale b is not significantly above zero
    have no part in the choice; their offsets are changed like all others.

    Args:
        part: offsets
        scales: (S,) b of all stills
        fitter: of the fit
        covariances: (S, 1 + n, 1 + n) of b and of the n parameters of c
        drawn: the prior of c was learnt from the stills
    """
    stills = _Fractions(part, scales, fitter, covariances)
    numbers, fraction, covariance = stills.numbers, stills.fraction, stills.covariance
    background, positions = stills.background, stills.positions
    amounts, error = background_errors(fraction, covariance, background)
    worst = stills.worst(amounts)
    # too much subtracted
    fraction = fraction - np.minimum(amounts, 0.0)[:, None] * background
    covariance += BACKGROUND_ERROR**2 * background[:, :, None] * background[:, None, :]
    far = far_below(fraction, covariance)
    numbers, fraction, covariance, wrong = (
        numbers[~far],
        fraction[~far],
        covariance[~far],
        numbers[far],
    )
    lowest, order = lowest_offset(fraction, covariance, drawn=drawn)
    n_out = n_left_out(len(order))
    change = 0.0
    if len(order) > n_out + 2:
        intensity = fitter.prior(np.clip(positions, 0.0, fitter.components.overview.bins.q_max))
        remaining = np.sort(order[n_out + 1 :])
        rest = fraction[remaining], covariance[remaining]
        without, _ = lowest_offset(*rest, skip=0, drawn=drawn)
        change = float(np.mean((without - lowest) / intensity))
    left_out = [*wrong.tolist(), *numbers[order[:n_out]].tolist()]
    still = int(numbers[order[n_out]])
    zero = OffsetZero(lowest, still, left_out, change, error, worst)
    _log(zero)
    return zero


class _Fractions:
    """c/b of the stills whose b is certainly above 0, and the subtracted background over b.

    Attributes:
        numbers: (S,) of the stills
        fraction: (S, n); covariance: (S, n, n) of it
        background: (S, n)
        positions: (n,) |q| of the parameters of c
    """

    def __init__(self, part: Part, scales: np.ndarray, fitter, covariances: np.ndarray):
        used = fitter.used
        certain = used & (scales > CERTAIN * np.sqrt(covariances[:, 0, 0]))
        used = certain if np.count_nonzero(certain) > 1 else used
        self.numbers = np.flatnonzero(used)
        offsets = part.values if part.along is None else part.along @ part.values
        b = scales[used][:, None]
        self.fraction = offsets[used] / b
        # d(c/b) = (dc - c/b db) / b
        n = self.fraction.shape[1]
        by_c = np.broadcast_to(np.eye(n), (*self.fraction.shape, n))
        jacobian = np.concatenate((-self.fraction[:, :, None], by_c), axis=2)
        own = covariances[used]
        covariance = np.einsum("spk,skl,sql->spq", jacobian, own, jacobian, optimize=True)
        self.covariance = covariance / b[:, :, None] ** 2
        self.positions = fitter.components.offset().positions()
        self.background = mean_background(fitter, self.positions)[None] / b

    def worst(self, amounts: np.ndarray) -> list[tuple[int, float]]:
        """Stills with the largest amounts (S,)"""
        pairs = zip(self.numbers.tolist(), amounts.tolist())
        return sorted(pairs, key=lambda pair: -abs(pair[1]))[:5]


def warn_of_background(part: Part, scales: np.ndarray, fitter, covariances: np.ndarray) -> None:
    """Warn if the subtracted background seems to be wrong, by offsets that are not kept. Args: as fix_offset_zero."""
    stills = _Fractions(part, scales, fitter, covariances)
    amounts, error = background_errors(stills.fraction, stills.covariance, stills.background)
    _warn(error, stills.worst(amounts))


def _log(zero: OffsetZero) -> None:
    logger.info(
        "The zero of the offsets is that of still %d%s; with the next higher still the mean intensity would "
        "change by %+.1f %%",
        zero.still,
        f" (lower ones are left out: {', '.join(map(str, zero.left_out[:20]))})"
        if zero.left_out
        else "",
        100 * zero.change,
    )
    _warn(zero.background_error, zero.worst)


def _warn(error: float, worst: list[tuple[int, float]]) -> None:
    if error > NOTABLE_ERROR:
        logger.warning(
            "The subtracted background does not fit the stills: it seems to be wrong by %.0f %% from still to still. "
            "The largest deviations: %s. Refine offsets (model.offset=True), or give each still its own dose",
            100 * error,
            ", ".join(f"still {still} {100 * amount:+.0f} %" for still, amount in worst),
        )


def mean_background(fitter, positions: np.ndarray) -> np.ndarray:
    """(n,): mean background at positions over |q|, photons/(s sr)."""
    data = fitter.data
    rows = data.rows[(data.weight > 0) & (data.rows["radial"] < N_RADIAL)]
    exposure, background = (
        np.bincount(rows["radial"], rows[name], minlength=N_RADIAL)
        for name in ("exposure", "background")
    )
    seen = exposure > 0
    q = fitter.components.overview.bins.q_of(np.flatnonzero(seen))
    return np.interp(positions, q, background[seen] / exposure[seen])


def background_errors(
    fraction: np.ndarray, covariance: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, float]:
    """What part of the subtracted background each still has too much or too little.

    Args:
        fraction: (S, n) c/b; covariance: (S, n, n) of it
        background: (S, n) subtracted background over b

    Returns:
        (deviation of each still from the median (S,) as a fraction of the background, its robust standard
        deviation less noise, BACKGROUND_ERROR at least)
    """
    if not background.any():
        return np.zeros(len(fraction)), 0.0
    inverse = np.linalg.inv(covariance)
    information = np.einsum("sp,spq,sq->s", background, inverse, background, optimize=True)
    deviation = fraction - np.median(fraction, axis=0)
    amounts = np.einsum("sp,spq,sq->s", background, inverse, deviation, optimize=True) / information
    amounts = amounts - np.median(amounts)
    spread = (1.4826 * np.median(abs(amounts))) ** 2 - np.median(1.0 / information)
    return amounts, float(np.sqrt(max(spread, BACKGROUND_ERROR**2)))


def far_below(fraction: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(S,) bool: stills whose c/b (S, n) is far below that of the others, and says nothing of them."""
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    usual = np.sqrt(np.median(variance, axis=0))
    amount = np.mean(fraction / usual, axis=1)
    below = np.median(amount) - amount
    spread = 1.4826 * np.median(abs(below))
    return below > FAR * max(spread, 1.0)


def n_left_out(n_stills: int) -> int:
    """Stills that may lie below the zero"""
    return int(QUANTILE * n_stills)


def lowest_offset(
    fraction: np.ndarray, covariances: np.ndarray, skip: int | None = None, drawn: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A low quantile of c/b over the stills at each |q|, as it would be without noise.

    The plain minimum of many noisy values lies some sigmas too low. But the offsets of all stills
    consist of a few shapes (air, water): singular vectors of their deviations from the mean, in units
    of their errors, with singular values beyond noise. The amount of each shape in a still is shrunk
    towards the population of all stills according to its error. The still with certainly least
    offset over all |q|, but for some that are left out, sets the zero; others lower it where they are more than
    LOWER standard deviations below.

    Args:
        fraction: (S, n) c/b
        covariances: (S, n, n)
        skip: stills that are left out; None: as n_left_out says
        drawn: the fit has drawn c to the population of all stills already

    Returns:
        (the quantile (n,), stills in the order of their certain offsets)
    """
    skip = n_left_out(len(fraction)) if skip is None else skip
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
    amounts, noise = size * (deviations @ shapes[:n_shapes].T), excess * size[:, 0] ** 2
    errors = noise[:, None, None] * np.eye(n_shapes)
    if not drawn:
        amounts, errors = shrink_towards_population(amounts, noise)
    to_offsets = usual[:, None] * (root @ shapes[:n_shapes].T)
    offsets, total = amounts @ to_offsets.T, to_offsets.sum(axis=0)
    # among many uncertain ones some seem lowest
    sigma = np.sqrt(np.einsum("k,skl,l->s", total, errors, total))
    order = np.argsort(amounts @ total + CERTAIN * sigma)
    least, others = order[skip], order[skip:]
    # with the errors of single values, since the shapes are not exact either
    below = offsets[least] - offsets[others] - LOWER * np.sqrt(variance[others] + variance[least])
    return mean + offsets[least] - np.maximum(below, 0.0).max(axis=0), order


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
