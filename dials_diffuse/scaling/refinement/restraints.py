"""Restraints and conventions for what the data do not determine.

The expectations stay the same if I_v, b, c, a and d change as follows:

- b -> k b, I -> I / k;  a or d -> k a, b -> b / k, c -> c / k: fixed by convention, mean b = 1, mean
  ln a = mean ln d = 0 over the observations of the fit. During a cycle the means of a and d are
  held, since an a that shrinks to nothing would fulfil all other restraints;
- c_i -> c_i - b_i f(|q|), I -> I + f for any f: fixed by convention, the smallest c_i / b_i is 0 at each |q|;
- a -> a f(|q|), I -> I / f with one wavelength and no c: the mean of a over each ring of |q| is held
  firmly at the mean of all, because a small drift would end up in the map;
- a(x, y, p_order) -> a f(p_order), b -> b / f: the mean of a is held firmly at each p_order, too;
- parameters of a, c and d without observations: smooth continuation, or 1.

Each restraint is a normal prior, its sigma in the scope `restraints`.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from dials_diffuse.model.series import SensitivitySeries
from dials_diffuse.scaling.refinement.settings import RestraintSettings

# Sigma of the means of a and d in a cycle
MEAN = 1e-4


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


def mean_over_observations(scaler, name: str) -> np.ndarray:
    """(n,): mean of d ("panel") or a ("sensitivity") over the accepted observations = row @ parameters."""
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
    """The same for a(x, y, p_order), (rings + n_p, parameters).

    First the means over rings of |q| of all stills together, then the means over the stills around
    each position of the smoother along p_order.
    """
    component = scaler.shared["sensitivity"]
    weights = scaler.direction_weights
    x, y = component.plane.bin_centres()
    width = np.diff(component.extent[:2])[0] / (2 * max(component.shape))
    ring = (np.hypot(x, y) / width).astype(int)
    ones = np.ones(len(ring))
    in_ring = sparse.coo_matrix((ones, (ring, np.arange(len(ring))))).tocsr()
    seen = np.bincount(scaler.data.direction, scaler.data.weight > 0, minlength=len(weights))
    seen = seen.reshape(len(weights.steps), -1)
    # (steps, rings, parameters of one still)
    table = np.array([in_ring @ (in_step[:, None] * weights.directions) for in_step in seen])
    n_seen = seen.sum(axis=1)
    rings = np.einsum("pi,prk->rik", weights.steps, table).reshape(table.shape[1], -1)
    positions = np.einsum(
        "pj,pi,pk->jik", weights.steps, weights.steps, table.sum(axis=1), optimize=True
    ).reshape(component.n_p, -1)
    totals = np.concatenate((in_ring @ seen.sum(axis=0), weights.steps.T @ n_seen))
    out = np.vstack((rings, positions))[totals > 0] / totals[totals > 0, None]
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
            # the unit is the mean intensity at the positions of the smoother
            q = np.clip(offset.positions(), 0.0, offset.q_max)
            unit = np.diag(1.0 / prior(q))
            self.matrices["offset"] = np.vstack(
                (unit / settings.offset, second_differences(n) @ unit / settings.offset_smoothness)
            )
        if scaler.offset_series is not None:
            self.matrices["offset"] = self._offset_series_matrix(
                scaler.offset_series, self.matrices["offset"], unit
            )
        if "panel" in scaler.shared:
            self.matrices["panel"] = np.eye(scaler.shared["panel"].n_params) / settings.panel
        component = scaler.shared.get("sensitivity")
        if isinstance(component, SensitivitySeries):
            self.matrices["sensitivity"] = self._sensitivity_series_matrix(scaler, component)
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

    def _offset_series_matrix(self, series, per_still: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Matrix for c(|q|, p_order).

        That of one still, with the scale of the radial profiles, at each position along p_order, and
        second differences along p_order.
        """
        order = np.argsort(series.p_order, kind="stable")
        scale = np.interp(series.positions_of_p(), series.p_order[order], self.start[order])
        along = second_differences(series.n_p) / self.settings.offset_smoothness / scale.mean()
        return np.vstack((np.kron(np.diag(1.0 / scale), per_still), np.kron(along, unit)))

    def _sensitivity_series_matrix(self, scaler, series: SensitivitySeries) -> np.ndarray:
        """Matrix for a(x, y, p_order)."""
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
        """Hold the means of a and d at their present values."""
        for name, row in self.means.items():
            self.held[name] = float(row @ scaler.shared[name].values())

    def terms(self, scaler) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each component: residuals, and their derivatives by its parameters.

        "scale" and "offset" that are not functions of p_order: residuals (S, n), derivatives (S, n,
        parameters of one still); the others (n,) and (n, parameters).
        """
        if scaler.series is None:
            width = self.settings.scale * self.start
            residuals = (scaler.tables.b - self.start) / width
            out = {"scale": (residuals[:, None], (1.0 / width)[:, None, None])}
        else:
            width = self.settings.scale * self.series_start
            residuals = (scaler.series.values() - self.series_start) / width
            out = {"scale": (residuals, np.diag(1.0 / width))}
        for name, matrix in self.matrices.items():
            if name == "offset" and scaler.offset_series is not None:
                out[name] = (matrix @ scaler.offset_series.values(), matrix)
            elif name == "offset":
                values = np.array([m.components["offset"].values() for m in scaler.models])
                per_still = matrix[None] / self.start[:, None, None]
                out[name] = (np.einsum("skp,sp->sk", per_still, values), per_still)
            else:
                values, mean = scaler.shared[name].values(), self.means[name]
                out[name] = (
                    np.append(matrix @ (values - 1.0), (mean @ values - self.held[name]) / MEAN),
                    np.vstack((matrix, mean / MEAN)),
                )
        return out

    def functional_gradients(self, scaler) -> tuple[float, dict[str, np.ndarray]]:
        """Value of all restraints, and derivatives by the parameters of each component."""
        terms = self.terms(scaler)
        value = sum(float(np.sum(r**2)) for r, _ in terms.values())
        gradients = {
            name: 2 * np.einsum("sk,skp->sp", r, jac) if jac.ndim == 3 else 2 * jac.T @ r
            for name, (r, jac) in terms.items()
        }
        if scaler.series is None:
            gradients["scale"] = gradients["scale"][:, 0]
        return value, gradients


def apply_conventions(scaler, used: np.ndarray) -> None:
    """Make mean b = 1 and mean ln a = mean ln d = 0. Expectations stay the same.

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
        ("panel", scaler.tables.d, data.panel),
        ("sensitivity", scaler.tables.a, data.direction),
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
    mean_b = scaler.tables.b[used].mean()
    if scaler.series is not None:
        scaler.series.set_values(scaler.series.values() / mean_b)
    for model, b in zip(scaler.models, scaler.tables.b):
        model.components["scale"].set_values([b / mean_b])
        if "offset" in model.components and scaler.offset_series is None:
            offset = model.components["offset"]
            offset.set_values(offset.values() * factor)
    if scaler.offset_series is not None:
        scaler.offset_series.set_values(scaler.offset_series.values() * factor)
    scaler.update_for_minimisation()
