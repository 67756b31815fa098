"""Restraints on what the data leave undetermined, and the conventions that fix the rest.

Free without restraints (I_v, b, c, a, d give the same expectations when):

- b -> k b, I -> I / k;  a or d -> k a, b -> b / k, c -> c / k: fixed by convention, mean b = 1, mean
  ln a = mean ln d = 0 over the observations of the fit. During a cycle the means of a and d are
  held: other restraints on them cost nothing for an a that shrinks to nothing;
- c_i -> c_i - b_i f(|q|), I -> I + f for any f: fixed by convention, the smallest c_i / b_i is 0 at each |q|;
- a -> a f(|q|), I -> I / f with one wavelength and no c: whatever of a depends on |q| only can't be told from
  the intensities; the mean of a over each ring of |q| is held at the mean of all, firmly, because the
  data have nothing to say against it and what little drift they cause would end up in the map;
- a(x, y, p_order) -> a f(p_order), b -> b / f: the mean of a is held firmly at each place of the series, too;
- parameters of a, c and d where there are no observations: smooth continuation, or 1.

Each restraint is a normal prior, its sigma in the scope `restraints`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from dials_diffuse.model.components import N_RADIAL
from dials_diffuse.model.series import SensitivitySeries

# Sigma of the means of a and d in a cycle
MEAN = 1e-4


@dataclass(frozen=True)
class RestraintSettings:
    """Sigmas of the priors.

    Attributes:
        offset: of c, as a fraction of the still's mean intensity at that |q|
        offset_smoothness: of second differences of the same
        panel: of d around 1
        sensitivity: of a around 1
        sensitivity_smoothness: of second differences of a
        sensitivity_rings: of the mean of a over a ring of |q|, around that of all rings; and
            at a place of a series, around that of all places
        scale: of b around what the still's radial profile says, as a fraction of it
    """

    offset: float = 1.0
    offset_smoothness: float = 0.3
    panel: float = 0.05
    sensitivity: float = 0.2
    sensitivity_smoothness: float = 0.1
    sensitivity_rings: float = 0.001
    scale: float = 1.0


def second_differences(n: int) -> np.ndarray:
    """(max(n - 2, 0), n) matrix"""
    matrix = np.zeros((max(n - 2, 0), n))
    for i in range(n - 2):
        matrix[i, i : i + 3] = (1, -2, 1)
    return matrix


def grid_second_differences(n_x: int, n_y: int) -> np.ndarray:
    """Second differences along both axes of a grid whose x runs fastest"""
    return np.vstack(
        (
            np.kron(np.eye(n_y), second_differences(n_x)),
            np.kron(second_differences(n_y), np.eye(n_x)),
        )
    )


def mean_over_observations(scaler, name: str) -> np.ndarray:
    """(n,): mean of d ("panel") or a ("sensitivity") over the accepted observations = row @ parameters"""
    data = scaler.data
    weights, index = np.eye(scaler.shared[name].n_params), data.panel
    if name == "sensitivity":
        weights, index = scaler.direction_weights, data.direction
    seen = np.bincount(index, data.weight > 0, minlength=len(weights))
    return (seen / max(seen.sum(), 1)) @ weights


def ring_means(scaler) -> np.ndarray:
    """(rings, parameters): mean of a over the observations of each ring of |q|, less the mean over
    all observations = matrix @ parameters.

    Rings are half as wide as the distance between the smoother's positions.
    """
    component = scaler.shared["sensitivity"]
    x, y = component.bin_centres()
    radius = np.hypot(x, y)
    width = np.diff(component.extent[:2])[0] / (2 * max(component.shape))
    ring = (radius / width).astype(int)
    seen = np.bincount(scaler.data.direction, scaler.data.weight > 0, minlength=len(radius))
    total = np.bincount(ring, seen)
    table = np.zeros((len(total), component.n_params))
    np.add.at(table, ring, seen[:, None] * scaler.direction_weights)
    return table[total > 0] / total[total > 0, None] - table.sum(axis=0) / total.sum()


def means_of_series(scaler) -> np.ndarray:
    """The same for a(x, y, p_order): means over rings of |q| of all stills together, and
    over the stills around each position of the smoother along p_order."""
    component = scaler.shared["sensitivity"]
    weights = scaler.direction_weights
    x, y = component.plane.bin_centres()
    width = np.diff(component.extent[:2])[0] / (2 * max(component.shape))
    ring = (np.hypot(x, y) / width).astype(int)
    ones = np.ones(len(ring))
    in_ring = sparse.coo_matrix((ones, (ring, np.arange(len(ring))))).tocsr()
    seen = np.bincount(scaler.data.direction, scaler.data.weight > 0, minlength=len(weights))
    seen = seen.reshape(len(weights.places), -1)
    # (places, rings, parameters of one still)
    table = np.array([in_ring @ (of[:, None] * weights.directions) for of in seen])
    n_seen = seen.sum(axis=1)
    rings = np.einsum("pi,prk->rik", weights.places, table).reshape(table.shape[1], -1)
    places = np.einsum(
        "pj,pi,pk->jik", weights.places, weights.places, table.sum(axis=1), optimize=True
    ).reshape(component.n_p, -1)
    totals = np.concatenate((in_ring @ seen.sum(axis=0), weights.places.T @ n_seen))
    out = np.vstack((rings, places))[totals > 0] / totals[totals > 0, None]
    return out - rings.sum(axis=0) / n_seen.sum()


class Restraints:
    """Sum of ((parameter - expectation) / sigma)^2 over all components of a scaler.

    Args:
        scaler: DiffuseScaler
        settings: sigmas
        start: (S,) scales from the radial profiles
        prior: function |q| -> mean intensity
    """

    def __init__(self, scaler, settings: RestraintSettings, start: np.ndarray, prior):
        self.settings = settings
        self.start = np.asarray(start, dtype=float)
        self.matrices: dict[str, np.ndarray] = {}
        self.series_start = None
        if scaler.series is not None:
            self.series_start = scaler.series.closest_to(self.start).values()
        first = scaler.models[0].components
        if "offset" in first:
            offset = first["offset"]
            n = len(offset.positions())
            # the smoother's positions, at which the mean intensity is the natural unit
            q = np.clip(offset.positions(), 0.0, offset.q_max)
            unit = np.diag(1.0 / prior(q))
            self.matrices["offset"] = np.vstack(
                (unit / settings.offset, second_differences(n) @ unit / settings.offset_smoothness)
            )
        if scaler.offset_series is not None:
            self.matrices["offset"] = self._of_offset_series(
                scaler.offset_series, self.matrices["offset"], unit
            )
        if "panel" in scaler.shared:
            self.matrices["panel"] = np.eye(scaler.shared["panel"].n_params) / settings.panel
        component = scaler.shared.get("sensitivity")
        if isinstance(component, SensitivitySeries):
            self.matrices["sensitivity"] = self._of_sensitivity_series(scaler, component)
        elif component is not None:
            self.matrices["sensitivity"] = np.vstack(
                (
                    np.eye(component.n_params) / settings.sensitivity,
                    grid_second_differences(*component.shape) / settings.sensitivity_smoothness,
                    ring_means(scaler) / settings.sensitivity_rings,
                )
            )
        self.means = {
            name: mean_over_observations(scaler, name)
            for name in ("panel", "sensitivity")
            if name in scaler.shared
        }
        self.held = dict.fromkeys(self.means, 1.0)

    def _of_offset_series(self, series, of_still: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Matrix for c(|q|, p_order): that of one still at each position along p_order, whose scale is
        what the radial profiles say there, and second differences along p_order"""
        order = np.argsort(series.p_order, kind="stable")
        scale = np.interp(series.positions_of_p(), series.p_order[order], self.start[order])
        along = second_differences(series.n_p) / self.settings.offset_smoothness / scale.mean()
        return np.vstack((np.kron(np.diag(1.0 / scale), of_still), np.kron(along, unit)))

    def _of_sensitivity_series(self, scaler, series: SensitivitySeries) -> np.ndarray:
        """Matrix for a(x, y, p_order)"""
        settings = self.settings
        plane = grid_second_differences(*series.shape)
        along = second_differences(series.n_p)
        return np.vstack(
            (
                np.eye(series.n_params) / settings.sensitivity,
                np.kron(np.eye(series.n_p), plane) / settings.sensitivity_smoothness,
                np.kron(along, np.eye(plane.shape[1])) / settings.sensitivity_smoothness,
                means_of_series(scaler) / settings.sensitivity_rings,
            )
        )

    def hold_means(self, scaler) -> None:
        """Hold the means of a and d where they are"""
        for name, row in self.means.items():
            self.held[name] = float(row @ scaler.shared[name].values())

    def terms(self, scaler) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each component: residuals, and their derivatives by its parameters.

        "scale" and "offset" that are not functions of p_order: residuals (S, n), derivatives (S, n,
        parameters of one still); the others (n,) and (n, parameters).
        """
        if scaler.series is None:
            width = self.settings.scale * self.start
            of_b = (((scaler.b - self.start) / width)[:, None], (1.0 / width)[:, None, None])
        else:
            width = self.settings.scale * self.series_start
            of_b = ((scaler.series.values() - self.series_start) / width, np.diag(1.0 / width))
        out = {"scale": of_b}
        for name, matrix in self.matrices.items():
            if name == "offset" and scaler.offset_series is not None:
                out[name] = (matrix @ scaler.offset_series.values(), matrix)
            elif name == "offset":
                values = np.array([m.components["offset"].values() for m in scaler.models])
                each = matrix[None] / self.start[:, None, None]
                out[name] = (np.einsum("skp,sp->sk", each, values), each)
            else:
                values, mean = scaler.shared[name].values(), self.means[name]
                out[name] = (
                    np.append(matrix @ (values - 1.0), (mean @ values - self.held[name]) / MEAN),
                    np.vstack((matrix, mean / MEAN)),
                )
        return out

    def functional_gradients(self, scaler) -> tuple[float, dict[str, np.ndarray]]:
        """Value, and derivatives by component (in parameters, not free parameters)"""
        terms = self.terms(scaler)
        value = sum(float(np.sum(r**2)) for r, _ in terms.values())
        gradients = {
            name: 2 * np.einsum("sk,skp->sp", r, of) if of.ndim == 3 else 2 * of.T @ r
            for name, (r, of) in terms.items()
        }
        if scaler.series is None:
            gradients["scale"] = gradients["scale"][:, 0]
        return value, gradients


def apply_conventions(scaler, used: np.ndarray) -> None:
    """Mean b = 1, mean ln a = mean ln d = 0. Expectations stay the same.

    Args:
        scaler: its models are changed in place
        used: (S,) bool: stills that were refined

    Raises:
        ValueError: an a or d of accepted observations is not positive.
    """
    data = scaler.data
    scaler.update_for_minimisation()
    factor = 1.0
    for name, table, index in (
        ("panel", scaler.d, data.panel),
        ("sensitivity", scaler.a, data.direction),
    ):
        if name in scaler.shared:
            accepted = table[index[data.weight > 0]]
            if not np.all(accepted > 0):
                raise ValueError(
                    f"The fit makes {name} factors zero or negative: they can't be told from the rest (model.{name}=False)"
                )
            mean = np.exp(np.log(accepted).mean()) if len(accepted) else 1.0
            component = scaler.shared[name]
            component.set_values(component.values() / mean)
            factor *= mean
    mean_b = scaler.b[used].mean()
    if scaler.series is not None:
        scaler.series.set_values(scaler.series.values() / mean_b)
    for model, b in zip(scaler.models, scaler.b):
        model.components["scale"].set_values([b / mean_b])
        if "offset" in model.components and scaler.offset_series is None:
            offset = model.components["offset"]
            offset.set_values(offset.values() * factor)
    if scaler.offset_series is not None:
        scaler.offset_series.set_values(scaler.offset_series.values() * factor)
    scaler.update_for_minimisation()


def lift_offsets(scaler, used: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Make the smallest c / b 0 at each |q|. Expectations stay the same.

    A still whose b can't be told from 0 has no c / b.

    Args:
        covariances: (S, 1 + n, 1 + n) of b and c

    Returns:
        (n,) parameters of f, which was added to the intensities and, times b, taken from c
    """
    certain = used & (scaler.b > CERTAIN * np.sqrt(covariances[:, 0, 0]))
    used = certain if np.count_nonzero(certain) > 1 else used
    models = [m for m, u in zip(scaler.models, used) if u]
    b = scaler.b[used][:, None]
    fraction = np.array([m.components["offset"].values() for m in models]) / b
    # d(c/b) = (dc - c/b db) / b
    of_c = np.broadcast_to(np.eye(fraction.shape[1]), (*fraction.shape, fraction.shape[1]))
    to_fraction = np.concatenate((-fraction[:, :, None], of_c), axis=2)
    of_fraction = np.einsum(
        "spk,skl,sql->spq", to_fraction, covariances[used], to_fraction, optimize=True
    )
    background = BACKGROUND_ERROR * mean_background(scaler)
    of_fraction += np.outer(background, background)
    lowest = lowest_offset(fraction, of_fraction / b[:, :, None] ** 2)
    for model in scaler.models:
        offset = model.components["offset"]
        scale = model.components["scale"].parameters[0]
        offset.set_values(offset.values() - scale * lowest)
    scaler.update_for_minimisation()
    return lowest


def mean_background(scaler) -> np.ndarray:
    """(n,): mean background at the positions of c over |q|, photons/(s sr)"""
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


# By how much, relatively, the subtracted background of a still may be wrong altogether, as its pulse was stronger or
# weaker than those of the empty shots
BACKGROUND_ERROR = 0.02
# How much larger the noise of offsets may be than their covariances say, in variance
MOST_EXCESS = 2.0
# Standard deviations by which another still must have less than the one that sets the zero
LOWER = 2.0
# Standard deviations by which its own offset may be higher than it seems
CERTAIN = 3.0


def lowest_offset(fraction: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """The smallest c/b over the stills at each |q|, as it would be without noise.

    The plain minimum of many noisy values lies some sigmas too low. But the offsets of all stills have a few
    shapes in common (air, water): those of their deviations from the mean, in units of their errors, that stand out by
    their singular values. How much of each shape a still has is drawn towards what the others have by as much as it
    is uncertain. The still with certainly least offset over all |q| then sets the zero, and what others are below it by
    more than LOWER standard deviations lowers it.

    Args:
        fraction: (S, n)
        covariances: (S, n, n)

    Returns:
        (n,)
    """
    n = fraction.shape[1]
    variance = np.diagonal(covariances, axis1=1, axis2=2)
    mean = np.sum(fraction / variance, axis=0) / np.sum(1 / variance, axis=0)
    usual = np.sqrt(np.median(variance, axis=0))
    # each still's errors over the usual ones, and how the errors of one still belong together
    size = np.sqrt(np.mean(variance / usual**2, axis=1))[:, None]
    shared = np.mean(covariances / (size[:, :, None] ** 2 * np.outer(usual, usual)), axis=0)
    root = np.linalg.cholesky(shared + 1e-9 * np.trace(shared) / n * np.eye(n))
    deviations = np.linalg.solve(root, ((fraction - mean) / usual / size).T).T
    _, values, shapes = np.linalg.svd(deviations, full_matrices=False)
    n_shapes, excess = shapes_beyond_noise(values, len(fraction) - 1, n)
    amounts, errors = drawn_to_each_other(
        size * (deviations @ shapes[:n_shapes].T), excess * size[:, 0] ** 2
    )
    of_amounts = usual[:, None] * (root @ shapes[:n_shapes].T)
    offsets, total = amounts @ of_amounts.T, of_amounts.sum(axis=0)
    # of many uncertain ones some seem lowest
    least = np.argmin(
        amounts @ total + CERTAIN * np.sqrt(np.einsum("k,skl,l->s", total, errors, total))
    )
    # of their own: the shapes are not exact either
    below = offsets[least] - offsets - LOWER * np.sqrt(variance + variance[least])
    return mean + offsets[least] - np.maximum(below, 0.0).max(axis=0)


def shapes_beyond_noise(values: np.ndarray, n_rows: int, n_columns: int) -> tuple[int, float]:
    """How many singular values of a matrix whose elements have errors of 1 (or somewhat more) are beyond what noise
    alone reaches (Johnstone 2001, Ann. Stat. 29, 295, with three standard deviations to spare), and the variance
    of the errors that the others show.

    Args:
        values: (K,), largest first
        n_rows, n_columns: of the matrix, whose noise fills all of it
    """
    a, b = np.sqrt(n_rows), np.sqrt(n_columns)
    edge = np.sqrt((a + b) ** 2 + 3 * (a + b) * (1 / a + 1 / b) ** (1 / 3))
    most = min(n_rows, n_columns)
    for k in range(most):
        # what noise is left if all before are signal
        rest = np.clip(np.sum(values[k:] ** 2) / ((n_rows - k) * (n_columns - k)), 1.0, MOST_EXCESS)
        if values[k] <= edge * np.sqrt(rest):
            return k, float(rest)
    return most, 1.0


def drawn_to_each_other(
    amounts: np.ndarray, variance: np.ndarray, n_steps: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Best estimates of amounts that were measured with errors and have a normal distribution themselves, whose mean and
    covariance are found by expectation maximisation (Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39, 1).

    Args:
        amounts: (S, K); variance: (S,) of their errors, the same for all K

    Returns:
        estimates (S, K) and their covariances (S, K, K)
    """
    weight = variance[:, None] ** -1 / np.sum(1 / variance)
    mean = np.sum(weight * amounts, axis=0)
    spread = (weight * (amounts - mean)).T @ (amounts - mean)
    for _ in range(n_steps):
        of_axes, axes = np.linalg.eigh(spread)
        share = of_axes / (of_axes + variance[:, None])
        errors = share * variance[:, None]
        drawn = (share * ((amounts - mean) @ axes)) @ axes.T
        mean = mean + drawn.mean(axis=0)
        drawn = drawn - drawn.mean(axis=0)
        spread = drawn.T @ drawn / len(drawn) + (axes * errors.mean(axis=0)) @ axes.T
    return mean + drawn, np.einsum("kj,sj,lj->skl", axes, errors, axes)
