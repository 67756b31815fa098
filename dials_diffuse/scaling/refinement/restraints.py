"""Priors and conventions for what the data do not determine.

The expectations stay the same if I_v, b, c, a and d change as follows:

- b -> k b, I -> I / k;  a or d -> k a, b -> b / k, c -> c / k: fixed by convention, mean b = 1, mean
  ln a = mean ln d = 0 over the observations of the fit. During a cycle the means of a and d are held, since an a
  that shrinks to nothing would fulfil all other priors;
- c_i -> c_i - b_i f(|q|), I -> I + f for any f: in the fit the intensities stay around the mean of their shell;
  afterwards a zero of the offsets is chosen (offset_zero);
- a -> a f(|q|), I -> I / f with one wavelength and no c: the mean of a over each ring of |q| is held
  firmly at the mean of all, because a small drift would end up in the map;
- a(x, y, p_order) -> a f(p_order), b -> b / f: the mean of a is held firmly at each p_order, too;
- parameters of a, c and d without observations: smooth continuation, or 1.

Each prior is normal, its sigma in the scope `restraints`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from dials_diffuse.model.components import RadialOffset, ScaleSeries, Sensitivity
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.refinement.parameters import Part, Quadratic
from dials_diffuse.scaling.refinement.settings import RestraintSettings

# Sigma of the means of a and d
MEAN = 1e-4
# Least b of a still, as a fraction of that of its radial profile
LEAST_SCALE = 0.02
# Sigma of b, as a fraction of that of the radial profile, and of c, of the mean intensity, before their priors are learnt
WIDE, WIDE_OFFSET = 1.0, 5.0
# Standard deviations beyond which b of a still is not like that of the others, and its c in one of many directions
UNUSUAL, UNUSUAL_OFFSET = 2.0, 3.5
# Least variance of c in any direction, as a fraction of that of its errors
REMAINING = 0.1


def second_differences(n: int) -> np.ndarray:
    """(max(n - 2, 0), n) matrix of the second differences of n values."""
    matrix = np.zeros((max(n - 2, 0), n))
    for i in range(n - 2):
        matrix[i, i : i + 3] = (1, -2, 1)
    return matrix


def grid_second_differences(n_x: int, n_y: int) -> np.ndarray:
    """Matrix of second differences along both axes of a grid whose x runs fastest."""
    return np.vstack(
        (
            np.kron(np.eye(n_y), second_differences(n_x)),
            np.kron(second_differences(n_y), np.eye(n_x)),
        )
    )


def scale_part(start: np.ndarray, series: ScaleSeries | None, sigma: float) -> Part:
    """b of each still, or as a function of p_order.

    Args:
        start: (S,) scales of the radial profiles
        series: with the weights of p_order, or None
        sigma: as a fraction of start
    """
    if series is not None:
        mean = series.closest_to(start).values()[:, None]
        precision = np.diag((sigma * mean[:, 0]) ** -2)
        return Part("scale", mean.copy(), series.table_weights(), None, Quadratic(mean, precision))
    mean = start[:, None]
    precision = ((sigma * mean) ** -2)[:, :, None]
    limit = LEAST_SCALE * mean
    return Part("scale", mean.copy(), None, None, Quadratic(mean, precision), positive=limit)


def offset_part(
    component: RadialOffset | OffsetSeries,
    start: np.ndarray,
    intensity: Callable,
    sigma: float,
    smoothness: float,
) -> Part:
    """c(|q|) of each still, or as a function of p_order.

    Args:
        component: with the smoother
        start: (S,) scales of the radial profiles
        intensity: function |q| -> mean intensity
        sigma: of c, as a fraction of the still's mean intensity
        smoothness: sigma of the second differences of c, as a fraction of the same
    """
    n = len(component.positions())
    unit = np.diag(1.0 / intensity(np.clip(component.positions(), 0.0, component.q_max)))
    matrix = np.vstack((unit / sigma, second_differences(n) @ unit / smoothness))
    across = component.table_weights()
    if isinstance(component, OffsetSeries):
        order = np.argsort(component.p_order, kind="stable")
        scale = np.interp(component.positions_of_p(), component.p_order[order], start[order])
        along = second_differences(component.n_p) / smoothness / scale.mean()
        all_of_it = np.vstack((np.kron(np.diag(1.0 / scale), matrix), np.kron(along, unit)))
        mean = np.zeros((component.n_p, n))
        prior = Quadratic(mean, all_of_it.T @ all_of_it)
        return Part("offset", mean.copy(), component.weights, across, prior)
    mean = np.zeros((len(start), n))
    precision = (matrix.T @ matrix) / start[:, None, None] ** 2
    return Part("offset", mean.copy(), None, across, Quadratic(mean, precision))


def panel_part(seen: np.ndarray, sigma: float) -> Part:
    """d of each panel.

    Args:
        seen: (P,) observations of each panel
        sigma: around 1
    """
    n = len(seen)
    row = seen / max(seen.sum(), 1) / MEAN
    mean = np.ones((1, n))
    return Part(
        "panel", mean.copy(), None, None, Quadratic(mean, np.eye(n) / sigma**2 + np.outer(row, row))
    )


def sensitivity_part(
    component: Sensitivity | SensitivitySeries, seen: np.ndarray, settings: RestraintSettings
) -> Part:
    """a(x, y), or as a function of p_order too.

    Args:
        component: with the smoother
        seen: (steps, directions) observations
    """
    is_series = isinstance(component, SensitivitySeries)
    plane = component.plane if is_series else component
    across = plane.table_weights()
    along = component.weights if is_series else np.ones((1, 1))
    n_along = along.shape[1]
    smooth = grid_second_differences(*component.shape) / settings.sensitivity_smoothness
    # weighted by observations: parameters (n_along, n_across) at each step, as sums
    by_step = seen @ across
    mean = np.einsum("pi,pk->ik", along, by_step).ravel() / max(seen.sum(), 1)
    rows = [
        np.eye(n_along * plane.n_params) / settings.sensitivity,
        np.kron(np.eye(n_along), smooth),
        _held_means(plane, along, across, seen) / settings.sensitivity_rings,
        mean[None] / MEAN,
    ]
    if n_along > 2:
        differences = second_differences(n_along) / settings.sensitivity_smoothness
        rows.append(np.kron(differences, np.eye(plane.n_params)))
    matrix = np.vstack(rows)
    ones = np.ones((n_along, plane.n_params))
    prior = Quadratic(ones, matrix.T @ matrix)
    return Part("sensitivity", ones.copy(), along if is_series else None, across, prior)


def _held_means(plane, along, across, seen) -> np.ndarray:
    """(n, parameters): means of a over rings of |q| of all stills together, and of a series over the stills
    around each position along p_order, less the mean of all = matrix @ parameters.

    Rings are half as wide as the distance between the smoother's positions.
    """
    x, y = plane.bin_centres()
    width = np.diff(plane.extent[:2])[0] / (2 * max(plane.shape))
    ring = (np.hypot(x, y) / width).astype(int)
    in_ring = sparse.coo_matrix((np.ones(len(ring)), (ring, np.arange(len(ring))))).tocsr()
    # (steps, rings, parameters of one still)
    table = np.array([in_ring @ (in_step[:, None] * across) for in_step in seen])
    sums = np.einsum("pi,prk->rik", along, table).reshape(table.shape[1], -1)
    totals = in_ring @ seen.sum(axis=0)
    mean = sums.sum(axis=0) / max(seen.sum(), 1)
    if along.shape[1] > 1:
        around = np.einsum("pj,pi,pk->jik", along, along, table.sum(axis=1), optimize=True)
        sums = np.vstack((sums, around.reshape(along.shape[1], -1)))
        totals = np.concatenate((totals, along.T @ seen.sum(axis=1)))
    return sums[totals > 0] / totals[totals > 0, None] - mean


def learnt_offset_prior(
    values: np.ndarray, start: np.ndarray, covariances: np.ndarray
) -> tuple[Quadratic, np.ndarray]:
    """Prior of c of each still, from the spread of c/b over the stills.

    In units of their errors, the deviations of the stills from their mean are spread more than noise in some
    directions (air, water). In these c stays as free as the stills differ. In all others their differences are noise,
    and c is drawn to the mean: b of the stills then rest on all photons, not only on the anisotropic part.

    Args:
        values: (S, n) c of the stills that take part, with a wide prior
        start: (S,) scales of the radial profiles
        covariances: (S, n, n) of c

    Returns:
        (prior, (S,) 1 for stills that are like the others, 0 for those of which it says nothing)
    """
    n = values.shape[1]
    fraction = values / start[:, None]
    noise = np.median(covariances / start[:, None, None] ** 2, axis=0)
    root = np.linalg.cholesky(noise + 1e-6 * np.trace(noise) / n * np.eye(n))
    mean = np.median(fraction, axis=0)
    deviations = np.linalg.solve(root, (fraction - mean).T).T
    _, _, directions = np.linalg.svd(deviations, full_matrices=False)
    along = deviations @ directions.T
    variance = np.maximum(robust_variance(along), 1.0 + REMAINING)
    usual = likeness(np.max(abs(along) / np.sqrt(variance), axis=1), UNUSUAL_OFFSET)
    scaled = root @ directions.T
    covariance = (scaled * (variance - 1.0)) @ scaled.T + REMAINING * root @ root.T
    precision = np.linalg.inv(covariance) / start[:, None, None] ** 2
    # of the usual ones, so that the prior leaves their zero where it is
    mean = np.average(fraction, axis=0, weights=usual) if usual.any() else mean
    return Quadratic(start[:, None] * mean, precision), usual


def learnt_scale_prior(
    b: np.ndarray, sigma: np.ndarray, start: np.ndarray, start_sigma: np.ndarray
) -> tuple[Quadratic, np.ndarray]:
    """Prior of b of each still around the scale of its radial profile, from how far the two differ.

    What the spread of b over the profile's scale is in excess of its errors, with one standard deviation to spare, and
    the error of the profile's scale.

    Args:
        b, sigma: (S,) of the stills that take part, and their errors
        start, start_sigma: (S,) scales of the radial profiles, and their errors by counting statistics

    Returns:
        (prior, (S,) 1 for stills that are like the others, 0 for those of which it says nothing)
    """
    ratio = b / start
    middle, noise = np.median(ratio), np.median((sigma / start) ** 2)
    variance = robust_variance(ratio[:, None])[0]
    usual = likeness(abs(ratio - middle) / np.sqrt(max(variance, noise)), UNUSUAL)
    spread = max(variance - noise, 0.0) + np.sqrt(2.0 / len(b)) * max(variance, noise)
    total = spread * start**2 + start_sigma**2
    return Quadratic(start[:, None] * middle, 1.0 / total[:, None, None]), usual


def likeness(deviation: np.ndarray, limit: float) -> np.ndarray:
    """(S,) 1 for deviations (S,) well below a limit, 0 for those well above, 0.5 at the limit.

    Without a step: a still near the limit must not depend on rounding.
    """
    return np.clip(2.5 - 2.0 * deviation / limit, 0.0, 1.0)


def robust_variance(values: np.ndarray) -> np.ndarray:
    """(n,) variance of values (S, n) around their median, from the median of the deviations."""
    return (1.4826 * np.median(abs(values - np.median(values, axis=0)), axis=0)) ** 2
