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
    RadialOffset,
    Sensitivity,
    Values,
    intervals_of,
    smoother_weights,
)

# Most steps of a(x, y, p_order) along p_order, or this many for each interval if that is more
MOST_STEPS = 64
STEPS_PER_INTERVAL = 12


class _Series(Values):
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
