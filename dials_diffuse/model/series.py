"""c and a as smooth functions of p_order too, where stills follow each other on one crystal.

DIALS's smoothers in two and three dimensions have weights that are products of one weight for each
axis. At the p_order of one still the function therefore is a function of |q|, or of (x, y), whose
parameters are sums over the axis of p_order; these are stored in the model of the still.

This module imports nothing beyond DIALS, cctbx and numpy, because DIALS itself loads it.
"""

from __future__ import annotations

import numpy as np

from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother2D,
    GaussianSmoother3D,
)
from dials.array_family import flex

from dials_diffuse.model.components import (
    N_AZIMUTHAL,
    FreeParameters,
    RadialOffset,
    Sensitivity,
    intervals_of,
    smoother_weights,
)

# Most steps of a(x, y, p_order) along p_order, or this many for each interval if that is more
MOST_STEPS = 64
STEPS_PER_INTERVAL = 12


class _Series(FreeParameters):
    """Common part: parameters (n_p, n_params of one still), flattened."""

    def _set_p_order(self, p_order: np.ndarray, n_still: int) -> None:
        """Set p_order (S,), its range, and n_p from the number of parameters of one still."""
        self.n_p = self.n_params // n_still
        if self.n_p * n_still != self.n_params:
            raise ValueError(f"{self.n_params} parameters are no multiple of {n_still}")
        if self.n_p < 3:
            # with one interval along an axis, DIALS's smoothers average over fewer positions on all axes
            raise ValueError(
                "A function of p_order and more needs two or more intervals along p_order"
            )
        self.p_order = np.asarray(p_order, dtype=float)
        self.range = (float(self.p_order.min()), float(self.p_order.max()))

    def parameter_rows(self) -> np.ndarray:
        """Parameters (n_p, n_params of one still)."""
        return self.values().reshape(self.n_p, -1)

    def weights_at(self, p_order: np.ndarray) -> np.ndarray:
        """(P, n_p): parameters of a still at p_order (P,) = weights @ parameter_rows()."""
        p_order = np.asarray(p_order, dtype=float)
        # the weights of the other axes, at any position, add up to 1
        middle = [np.full(len(p_order), value) for value in self._middle()]
        weights = smoother_weights(self.smoother, self._parameters, *middle, p_order)
        return weights.reshape(len(p_order), self.n_p, -1).sum(axis=2)

    def positions_of_p(self) -> np.ndarray:
        """p_order of the parameters (the outermost lie outside the range)."""
        low, high = self.range
        steps = self.smoother.y_positions() if self.n_axes == 2 else self.smoother.z_positions()
        return low + np.array(steps) * (high - low) / intervals_of(self.n_p)


class OffsetSeries(_Series):
    """c(|q|, p_order).

    Args:
        initial_values: parameters, those along |q| run fastest
        q_max: the smoother runs from 0 to q_max, 1/Angstrom
        n_radial: parameters along |q|
        p_order: (S,) of each still

    Attributes:
        weights: (S, n_p): parameters of c(|q|) of the stills = weights @ parameter_rows()
        radial: RadialOffset of one still, which knows the bins
    """

    null_parameter_value = 0.0
    n_axes = 2

    def __init__(self, initial_values, q_max, n_radial, p_order, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self._set_p_order(p_order, n_radial)
        self.smoother = GaussianSmoother2D(
            (0.0, float(q_max)), intervals_of(n_radial), self.range, intervals_of(self.n_p)
        )
        self.radial = RadialOffset(flex.double(n_radial, 0.0), q_max)
        self.weights = self.weights_at(self.p_order)
        self.set_unit(np.eye(self.n_params), np.eye(self.n_params))

    def _middle(self) -> tuple[float]:
        return (0.5 * self.q_max,)

    @property
    def q_max(self) -> float:
        """End of the smoother along |q|, 1/Angstrom."""
        return self.radial.q_max

    def positions(self) -> np.ndarray:
        """|q| of the parameters, 1/Angstrom."""
        return self.radial.positions()

    def bin_of(self, q: np.ndarray) -> np.ndarray:
        """Bins of the table along |q| (N,) for |q| (N,)."""
        return self.radial.bin_of(q)

    def table_weights(self) -> np.ndarray:
        """(N_RADIAL, n_radial): table of one still = weights @ its parameters."""
        return self.radial.table_weights()

    def by_still(self) -> np.ndarray:
        """(S, n_radial): parameters of c(|q|) of each still."""
        return self.weights @ self.parameter_rows()

    def gradient(self, per_still: np.ndarray) -> np.ndarray:
        """Gradient (n_params,) from derivatives by the parameters of each still (S, n_radial)."""
        return (self.weights.T @ per_still).ravel()

    def normal(self, per_still: np.ndarray) -> np.ndarray:
        """Normal matrix (n_params, n_params) from those of each still (S, n_radial, n_radial)."""
        pairs = self.weights[:, :, None] * self.weights[:, None, :]
        out = np.tensordot(pairs, per_still, axes=(0, 0))  # i, j, q, r
        return out.transpose(0, 2, 1, 3).reshape(self.n_params, self.n_params)

    def covariances(self) -> np.ndarray:
        """(S, n_radial, n_radial) of the parameters of each still, for free parameters of variance 1."""
        unit = np.asarray(self.unit).reshape(self.n_p, -1, self.n_params)
        per_still = np.tensordot(self.weights, unit, axes=(1, 0))
        return per_still @ per_still.transpose(0, 2, 1)

    def to_dict(self) -> dict:
        """The function as a scaling model stores it, without the p_order of the still."""
        n_radial = self.n_params // self.n_p
        return {
            "parameters": self.values().tolist(),
            "n_radial": n_radial,
            "q_max": self.q_max,
            "range": list(self.range),
        }

    @classmethod
    def from_dict(cls, stored: dict, p_order: np.ndarray) -> OffsetSeries:
        """The function of to_dict, for stills at p_order (S,) within its range."""
        padded = np.concatenate((stored["range"], np.asarray(p_order, dtype=float)))
        out = cls(flex.double(stored["parameters"]), stored["q_max"], stored["n_radial"], padded)
        out.p_order, out.weights = padded[2:], out.weights[2:]
        return out


class OffsetOfStill:
    """c(|q|) of one still of c(|q|, p_order), as a leader for the still's b to follow."""

    def __init__(self, series: OffsetSeries, still: int):
        self.series, self.weights = series, series.weights[still]

    def values(self) -> np.ndarray:
        """(n_radial,)"""
        return self.weights @ self.series.parameter_rows()


class ProductWeights:
    """Weights (P D, n_p n) that are products of those over steps (P, n_p) and directions (D, n).

    It replaces the array of all products, which would be too large.
    """

    __array_ufunc__ = None  # numpy leaves array @ weights to __rmatmul__

    def __init__(self, steps: np.ndarray, directions: np.ndarray):
        self.steps, self.directions = steps, directions

    def __len__(self) -> int:
        return len(self.steps) * len(self.directions)

    def __matmul__(self, parameters: np.ndarray) -> np.ndarray:
        rows = parameters.reshape(self.steps.shape[1], -1)
        return (self.steps @ (rows @ self.directions.T)).ravel()

    def __rmatmul__(self, vector: np.ndarray) -> np.ndarray:
        table = vector.reshape(len(self.steps), len(self.directions))
        return ((self.steps.T @ table) @ self.directions).ravel()

    def normal(self, diagonal: np.ndarray) -> np.ndarray:
        """weights.T @ diag(diagonal) @ weights, (n_p n, n_p n), for diagonal (P D,)."""
        table = diagonal.reshape(len(self.steps), len(self.directions))
        n_p, n = self.steps.shape[1], self.directions.shape[1]
        out = np.zeros((n_p, n, n_p, n))
        for i in range(n_p):
            for j in range(i, n_p):
                pair = self.steps[:, i] * self.steps[:, j]
                if pair.any():
                    block = self.directions.T @ ((pair @ table)[:, None] * self.directions)
                    out[i, :, j] = block
                    out[j, :, i] = block
        return out.reshape(n_p * n, n_p * n)

    def sparse_product(self, matrix) -> np.ndarray:
        """matrix @ weights, (K, n_p n), for a scipy sparse matrix (K, P D)."""
        columns = matrix.tocsc()
        d = len(self.directions)
        per_step = [
            columns[:, p * d : (p + 1) * d] @ self.directions for p in range(len(self.steps))
        ]
        products = np.einsum("pi,pkn->kin", self.steps, np.array(per_step))
        return products.reshape(matrix.shape[0], -1)


class SensitivitySeries(_Series):
    """a(x, y, p_order).

    Args:
        initial_values: parameters; of x, y and p_order x runs fastest, p_order slowest
        extent, shape: as in Sensitivity
        p_order: (S,) of each still

    Attributes:
        steps: (P,) values of p_order for which a is tabulated
        step_of_still: (S,) number of the step nearest to each still
        weights: (P, n_p): parameters of a(x, y) at the steps = weights @ parameter_rows()
        plane: Sensitivity of one still, which knows the bins of directions
    """

    null_parameter_value = 1.0
    n_axes = 3

    def __init__(self, initial_values, extent, shape, p_order, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        n = int(shape[0] * shape[1])
        self._set_p_order(p_order, n)
        self.plane = Sensitivity(flex.double(n, 1.0), extent, shape)
        self.extent, self.shape = self.plane.extent, self.plane.shape
        n_x, n_y, n_p = map(intervals_of, (*self.shape, self.n_p))
        self.smoother = GaussianSmoother3D(
            self.extent[:2], n_x, self.extent[2:], n_y, self.range, n_p
        )
        self.steps, self.step_of_still = steps_along(self.p_order, n_p)
        self.weights = self.weights_at(self.steps)

    def _middle(self) -> tuple[float, float]:
        x0, x1, y0, y1 = self.extent
        return 0.5 * (x0 + x1), 0.5 * (y0 + y1)

    def bin_of(self, x: np.ndarray, y: np.ndarray, still: np.ndarray) -> np.ndarray:
        """Bins of the flattened table (N,) int32 for projected directions and stills (N,)."""
        step = self.step_of_still[still].astype(np.int32)
        return step * N_AZIMUTHAL**2 + self.plane.bin_of(x, y)

    def table_weights(self) -> ProductWeights:
        """Table of values (steps x directions, flattened) = weights @ parameters."""
        return ProductWeights(self.weights, self.plane.table_weights())

    def by_step(self) -> np.ndarray:
        """(P, n_params of one still): parameters of a(x, y) at each step."""
        return self.weights @ self.parameter_rows()

    def to_dict(self) -> dict:
        """The function as a scaling model stores it, without the p_order of the still."""
        return {
            "parameters": self.values().tolist(),
            "extent": list(self.extent),
            "shape": list(self.shape),
            "range": list(self.range),
        }

    @classmethod
    def from_dict(cls, stored: dict, p_order: np.ndarray) -> SensitivitySeries:
        """The function of to_dict, for stills at p_order (S,) within its range."""
        padded = np.concatenate((stored["range"], np.asarray(p_order, dtype=float)))
        out = cls(flex.double(stored["parameters"]), stored["extent"], stored["shape"], padded)
        out.p_order, out.step_of_still = padded[2:], out.step_of_still[2:]
        return out


def steps_along(p_order: np.ndarray, intervals: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps (P,) along p_order, and the number of each still's step (S,).

    The steps are the different p_order (S,) themselves if there are few, else means over equal
    ranges that are small compared with the intervals of the smoother.
    """
    most = max(MOST_STEPS, STEPS_PER_INTERVAL * intervals)
    steps, number = np.unique(p_order, return_inverse=True)
    if len(steps) <= most:
        return steps, number.ravel()
    low, high = steps[0], steps[-1]
    bins = np.minimum((p_order - low) * (most / (high - low)), most - 1).astype(int)
    _, number = np.unique(bins, return_inverse=True)
    number = number.ravel()
    return np.bincount(number, p_order) / np.bincount(number), number
