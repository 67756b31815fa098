"""c and a as smooth functions of p_order too, where stills follow each other on one crystal.

DIALS's smoothers in two and three dimensions have weights that are products of one weight for each
axis. So what a still has of the whole function is a function of |q|, or of (x, y), with parameters that are
sums over the axis of p_order: after the fit each still's model holds that, as it would its own.

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
    RadialOffset,
    SelectedData,
    Sensitivity,
    dense,
    intervals_of,
    normalised,
)

# Places of a(x, y, p_order): stills closer to each other in p_order share one
MOST_PLACES = 64
PLACES_PER_INTERVAL = 12


class _Series(SelectedData):
    """What the two have in common: parameters (n_p, those of one still), flattened"""

    def _set_places(self, places: np.ndarray, n_p: int) -> None:
        if n_p < 3:
            # with one interval along an axis, DIALS's smoothers average over fewer positions on all axes
            raise ValueError(
                "A function of p_order and more needs two or more intervals along p_order"
            )
        self.p_order = np.asarray(places, dtype=float)
        self.n_p = n_p
        self.range = (float(self.p_order.min()), float(self.p_order.max()))

    def parts(self) -> np.ndarray:
        """Parameters (n_p, n_params of one still)"""
        return self.values().reshape(self.n_p, -1)

    def weights_at(self, p_order: np.ndarray) -> np.ndarray:
        """(P, n_p): what a still at p_order (P,) has = weights @ parts()"""
        p_order = np.asarray(p_order, dtype=float)
        start = [flex.double(len(p_order), value) for value in self._anywhere()]
        _, weight, total = self.smoother.multi_value_weight(
            *start, flex.double(p_order.tolist()), self._parameters
        )
        each = dense(weight) / np.array(total)[:, None]
        return each.reshape(len(p_order), self.n_p, -1).sum(axis=2)

    def calculate_scales_and_derivatives(self, block_id=0):
        """Values (flex.double) and derivatives (sparse, observations x parameters)"""
        value, weight, total = self.smoother.multi_value_weight(
            *self._blocks[block_id].parts(), self._parameters
        )
        return value, normalised(weight, total)

    def positions_of_p(self) -> np.ndarray:
        """p_order of the parameters (the outermost lie outside the range)"""
        low, high = self.range
        steps = self.smoother.y_positions() if self.n_axes == 2 else self.smoother.z_positions()
        return low + np.array(steps) * (high - low) / intervals_of(self.n_p)


class OffsetSeries(_Series):
    """c(|q|, p_order)

    Args:
        initial_values: parameters, those along |q| run fastest
        q_max: the smoother runs from 0 to q_max, 1/Angstrom
        n_radial: parameters along |q|
        p_order: (S,) place of each still

    Attributes:
        weights: (S, n_p): parameters of c(|q|) of the stills = weights @ parts()
        radial: RadialOffset of one still, which knows the bins
    """

    null_parameter_value = 0.0
    column = "q_p"
    n_axes = 2

    def __init__(self, initial_values, q_max, n_radial, p_order, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self._set_places(p_order, self.n_params // n_radial)
        if self.n_p * n_radial != self.n_params:
            raise ValueError(f"{self.n_params} parameters are no multiple of {n_radial}")
        self.smoother = GaussianSmoother2D(
            (0.0, float(q_max)), intervals_of(n_radial), self.range, intervals_of(self.n_p)
        )
        self.radial = RadialOffset(flex.double(n_radial, 0.0), q_max)
        self.weights = self.weights_at(self.p_order)
        self.set_unit(np.eye(self.n_params), np.eye(self.n_params))

    def _anywhere(self) -> tuple[float]:
        return (0.5 * self.q_max,)

    @property
    def q_max(self) -> float:
        """End of the smoother along |q|, 1/Angstrom"""
        return self.radial.q_max

    def positions(self) -> np.ndarray:
        """|q| of the parameters, 1/Angstrom"""
        return self.radial.positions()

    def bin_of(self, q: np.ndarray) -> np.ndarray:
        """|q| (N,) -> bins of the table along |q| (N,)"""
        return self.radial.bin_of(q)

    def table_weights(self) -> np.ndarray:
        """(N_RADIAL, n_radial): table of one still = weights @ its parameters"""
        return self.radial.table_weights()

    def by_still(self) -> np.ndarray:
        """(S, n_radial): parameters of c(|q|) of each still"""
        return self.weights @ self.parts()

    def gradient(self, of: np.ndarray) -> np.ndarray:
        """Derivatives by the parameters of each still (S, n_radial) -> (n_params,)"""
        return (self.weights.T @ of).ravel()

    def normal(self, of: np.ndarray) -> np.ndarray:
        """Normal matrices of each still (S, n_radial, n_radial) -> (n_params, n_params)"""
        pairs = self.weights[:, :, None] * self.weights[:, None, :]
        out = np.tensordot(pairs, of, axes=(0, 0))  # i, j, q, r
        return out.transpose(0, 2, 1, 3).reshape(self.n_params, self.n_params)

    def covariances(self) -> np.ndarray:
        """(S, n_radial, n_radial): of the parameters of each still, where those of the free ones are 1"""
        unit = np.asarray(self.unit).reshape(self.n_p, -1, self.n_params)
        each = np.tensordot(self.weights, unit, axes=(1, 0))
        return each @ each.transpose(0, 2, 1)

    def to_dict(self) -> dict:
        """As a scaling model keeps it, without the place of the still"""
        n_radial = self.n_params // self.n_p
        return {
            "parameters": self.values().tolist(),
            "n_radial": n_radial,
            "q_max": self.q_max,
            "range": list(self.range),
        }

    @classmethod
    def from_dict(cls, kept: dict, p_order: np.ndarray) -> OffsetSeries:
        """Back, for stills at p_order within the range kept"""
        places = np.concatenate((kept["range"], np.asarray(p_order, dtype=float)))
        out = cls(flex.double(kept["parameters"]), kept["q_max"], kept["n_radial"], places)
        out.p_order, out.weights = places[2:], out.weights[2:]
        return out


class OffsetOfStill:
    """What one still has of c(|q|, p_order), for its b to follow"""

    def __init__(self, series: OffsetSeries, still: int):
        self.series, self.weights = series, series.weights[still]

    def values(self) -> np.ndarray:
        """(n_radial,)"""
        return self.weights @ self.series.parts()


class ProductWeights:
    """Weights (P D, n_p n) that are products of those over places (P, n_p) and over directions (D, n).

    Stands in for the array of all, which would be too large.
    """

    __array_ufunc__ = None  # array @ this comes here

    def __init__(self, places: np.ndarray, directions: np.ndarray):
        self.places, self.directions = places, directions

    def __len__(self) -> int:
        return len(self.places) * len(self.directions)

    def __matmul__(self, parameters: np.ndarray) -> np.ndarray:
        parts = parameters.reshape(self.places.shape[1], -1)
        return (self.places @ (parts @ self.directions.T)).ravel()

    def __rmatmul__(self, of: np.ndarray) -> np.ndarray:
        table = of.reshape(len(self.places), len(self.directions))
        return ((self.places.T @ table) @ self.directions).ravel()

    def normal(self, of: np.ndarray) -> np.ndarray:
        """weights.T @ diag(of) @ weights"""
        table = of.reshape(len(self.places), len(self.directions))
        n_p, n = self.places.shape[1], self.directions.shape[1]
        out = np.zeros((n_p, n, n_p, n))
        for i in range(n_p):
            for j in range(i, n_p):
                pair = self.places[:, i] * self.places[:, j]
                if pair.any():
                    block = self.directions.T @ ((pair @ table)[:, None] * self.directions)
                    out[i, :, j] = block
                    out[j, :, i] = block
        return out.reshape(n_p * n, n_p * n)

    def rows(self, matrix) -> np.ndarray:
        """matrix @ weights, for a sparse matrix (K, P D)"""
        columns = matrix.tocsc()
        d = len(self.directions)
        each = [columns[:, p * d : (p + 1) * d] @ self.directions for p in range(len(self.places))]
        return np.einsum("pi,pkn->kin", self.places, np.array(each)).reshape(matrix.shape[0], -1)


class SensitivitySeries(_Series):
    """a(x, y, p_order)

    Args:
        initial_values: parameters; of x, y and p_order x runs fastest, p_order slowest
        extent, shape: as in Sensitivity
        p_order: (S,) place of each still

    Attributes:
        place: (S,) number of the still's place among those of the table
        weights: (P, n_p): parameters of a(x, y) at the places = weights @ parts()
        plane: Sensitivity of one still, which knows the bins of directions
    """

    null_parameter_value = 1.0
    column = "xyp"
    n_axes = 3

    def __init__(self, initial_values, extent, shape, p_order, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        n = int(shape[0] * shape[1])
        self._set_places(p_order, self.n_params // n)
        if self.n_p * n != self.n_params:
            raise ValueError(f"{self.n_params} parameters are no multiple of {n}")
        self.plane = Sensitivity(flex.double(n, 1.0), extent, shape)
        self.extent, self.shape = self.plane.extent, self.plane.shape
        self.smoother = GaussianSmoother3D(
            self.extent[:2],
            intervals_of(self.shape[0]),
            self.extent[2:],
            intervals_of(self.shape[1]),
            self.range,
            intervals_of(self.n_p),
        )
        self.places, self.place = places_of(self.p_order, intervals_of(self.n_p))
        self.weights = self.weights_at(self.places)

    def _anywhere(self) -> tuple[float, float]:
        x0, x1, y0, y1 = self.extent
        return 0.5 * (x0 + x1), 0.5 * (y0 + y1)

    def bin_of(self, x: np.ndarray, y: np.ndarray, still: np.ndarray) -> np.ndarray:
        """Projected directions and stills (N,) -> bins of the flattened table (N,) int32"""
        return self.place[still].astype(np.int32) * N_AZIMUTHAL**2 + self.plane.bin_of(x, y)

    def table_weights(self) -> ProductWeights:
        """Table of values (places x directions, flattened) = weights @ parameters"""
        return ProductWeights(self.weights, self.plane.table_weights())

    def of_places(self) -> np.ndarray:
        """(P, n_params of one still)"""
        return self.weights @ self.parts()

    def to_dict(self) -> dict:
        """As a scaling model keeps it, without the place of the still"""
        return {
            "parameters": self.values().tolist(),
            "extent": list(self.extent),
            "shape": list(self.shape),
            "range": list(self.range),
        }

    @classmethod
    def from_dict(cls, kept: dict, p_order: np.ndarray) -> SensitivitySeries:
        """Back, for stills at p_order within the range kept"""
        places = np.concatenate((kept["range"], np.asarray(p_order, dtype=float)))
        out = cls(flex.double(kept["parameters"]), kept["extent"], kept["shape"], places)
        out.p_order, out.place = places[2:], out.place[2:]
        return out


def places_of(p_order: np.ndarray, intervals: int) -> tuple[np.ndarray, np.ndarray]:
    """(places (P,), number of each still's place (S,)): p_order itself where there are few, else the
    means of equal steps that are small to the smoother's intervals"""
    most = max(MOST_PLACES, PLACES_PER_INTERVAL * intervals)
    places, number = np.unique(p_order, return_inverse=True)
    if len(places) <= most:
        return places, number.ravel()
    low, high = places[0], places[-1]
    step = np.minimum((p_order - low) * (most / (high - low)), most - 1).astype(int)
    _, number = np.unique(step, return_inverse=True)
    number = number.ravel()
    return np.bincount(number, p_order) / np.bincount(number), number
