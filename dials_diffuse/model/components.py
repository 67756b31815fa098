"""The factors and terms of the diffuse scaling model, as DIALS's scale components.

Each component keeps its parameters and their e.s.d.s as DIALS does (flex.double), so that DIALS
stores and shows them. Smooth functions are DIALS's Gaussian
smoothers, tabulated: each of millions of observations then costs one look-up.

This module imports nothing beyond DIALS, cctbx and numpy, because DIALS itself loads it.
"""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy

from dials.algorithms.scaling.model.components.scale_components import (
    ScaleComponentBase,
    SingleScaleFactor,
)
from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother1D,
    GaussianSmoother2D,
)
from dials.array_family import flex

# Bins of the look-up tables over their whole range. The shortest period of a smoother is many
# bins long, so that the value of the nearest bin is as good as that of the exact position.
N_RADIAL = 512
N_AZIMUTHAL = 96


class Values(ScaleComponentBase):
    """A component whose parameters are numpy arrays outside of DIALS."""

    def values(self) -> np.ndarray:
        """The parameters as numpy array (a copy)."""
        return flumpy.to_numpy(self._parameters).copy()

    def set_values(self, values: np.ndarray | list[float]) -> None:
        """Set all parameters."""
        self.parameters = flex.double(np.asarray(values, dtype=float).tolist())


def smoother_weights(smoother, parameters: flex.double, *axes: np.ndarray) -> np.ndarray:
    """Weights (N, n) with which the values of a smoother at N positions follow from n parameters.

    Args:
        smoother: DIALS's Gaussian smoother in one, two or three dimensions
        parameters: of the smoother; only their number and order matter
        axes: (N,) coordinates of the positions, an array a dimension
    """
    positions = (flex.double(np.asarray(axis, dtype=float).tolist()) for axis in axes)
    _, weight, total = smoother.multi_value_weight(*positions, parameters)
    dense = flumpy.to_numpy(weight.as_dense_matrix()).reshape(weight.n_rows, weight.n_cols)
    return dense / flumpy.to_numpy(total)[:, None]


class StillScale(Values, SingleScaleFactor):
    """b, the scale of one still."""


class ScaleSeries(Values):
    """b as a smooth function of p_order, where stills follow each other on one crystal.

    Args:
        initial_values: parameters
        p_order: (S,) position of each still in the series
    """

    null_parameter_value = 1.0

    def __init__(self, initial_values, p_order: np.ndarray, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self.p_order = np.asarray(p_order, dtype=float)
        low, high = float(self.p_order.min()), float(self.p_order.max())
        self.smoother = GaussianSmoother1D((low, high), intervals_of(self.n_params))

    @classmethod
    def through(cls, scales: np.ndarray, p_order: np.ndarray, intervals: int) -> ScaleSeries:
        """The smooth function closest to scales (S,).

        Args:
            intervals: of the smoother over the range of p_order
        """
        return cls(flex.double(n_parameters_of(intervals), 1.0), p_order).closest_to(scales)

    def closest_to(self, scales: np.ndarray) -> ScaleSeries:
        """A series with the same smoother, closest to scales (S,)."""
        n = self.n_params
        out = type(self)(flex.double(n, 1.0), self.p_order)
        mean = float(np.mean(scales))
        # parameters that no still determines stay at the mean
        weights = np.vstack((out.table_weights(), 1e-3 * np.eye(n)))
        target = np.concatenate((np.asarray(scales) - mean, np.zeros(n)))
        shift = np.linalg.lstsq(weights, target, rcond=None)[0]
        out.set_values(np.maximum(mean + shift, 0.01 * mean))
        return out

    def table_weights(self) -> np.ndarray:
        """(S, n_params): b of the stills = weights @ parameters."""
        return smoother_weights(self.smoother, self._parameters, self.p_order)


class PanelScale(Values):
    """d, one factor for each panel of the detector, the same for all stills."""

    null_parameter_value = 1.0


class RadialOffset(Values):
    """c(|q|), scattering of one still that is not the crystal's: solvent, loop, air.

    Args:
        initial_values: parameters
        q_max: the smoother runs from 0 to q_max, 1/Angstrom
    """

    null_parameter_value = 0.0

    def __init__(self, initial_values, q_max: float, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self.q_max = float(q_max)
        self.smoother = GaussianSmoother1D((0.0, self.q_max), intervals_of(self.n_params))

    def bin_of(self, q: np.ndarray) -> np.ndarray:
        """Bins of the table (N,) int16 for |q| (N,)."""
        return nearest_bins(np.asarray(q) * (N_RADIAL / self.q_max), N_RADIAL).astype(np.int16)

    def bin_centres(self) -> np.ndarray:
        """|q| of the bins of the table, (N_RADIAL,), 1/Angstrom."""
        return (np.arange(N_RADIAL) + 0.5) * (self.q_max / N_RADIAL)

    def positions(self) -> np.ndarray:
        """|q| of the parameters, 1/Angstrom (the outermost lie outside the range)."""
        return np.array(self.smoother.positions()) * (self.q_max / intervals_of(self.n_params))

    def table_weights(self) -> np.ndarray:
        """(N_RADIAL, n_params): table of values = weights @ parameters."""
        return smoother_weights(self.smoother, self._parameters, self.bin_centres())


class Sensitivity(Values):
    """a(x, y), a smooth factor over the direction of s1 around the beam, the same for all stills.

    Args:
        initial_values: parameters; x runs fastest
        extent: (x_min, x_max, y_min, y_max) of the projected direction
        shape: number of smoother positions along x and y
    """

    null_parameter_value = 1.0

    def __init__(self, initial_values, extent, shape, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self.extent = tuple(float(value) for value in extent)
        self.shape = tuple(int(n) for n in shape)
        if self.shape[0] * self.shape[1] != self.n_params:
            raise ValueError(
                f"{self.n_params} sensitivity parameters do not fill a grid of {self.shape}"
            )
        n_x, n_y = map(intervals_of, self.shape)
        self.smoother = GaussianSmoother2D(self.extent[:2], n_x, self.extent[2:], n_y)

    def bin_of(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Bins of the flattened table (N,) int32 for projected directions (N,), (N,)."""
        x0, x1, y0, y1 = self.extent
        i = nearest_bins((np.asarray(x) - x0) * (N_AZIMUTHAL / (x1 - x0)), N_AZIMUTHAL)
        j = nearest_bins((np.asarray(y) - y0) * (N_AZIMUTHAL / (y1 - y0)), N_AZIMUTHAL)
        return j * np.int32(N_AZIMUTHAL) + i

    def bin_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y of the bins of the flattened table, (N_AZIMUTHAL^2,) each."""
        x0, x1, y0, y1 = self.extent
        steps = (np.arange(N_AZIMUTHAL) + 0.5) / N_AZIMUTHAL
        y, x = np.meshgrid(y0 + steps * (y1 - y0), x0 + steps * (x1 - x0), indexing="ij")
        return x.ravel(), y.ravel()

    def table_weights(self) -> np.ndarray:
        """(N_AZIMUTHAL^2, n_params): flattened table of values = weights @ parameters."""
        return smoother_weights(self.smoother, self._parameters, *self.bin_centres())


def nearest_bins(scaled: np.ndarray, n: int) -> np.ndarray:
    """Bins (N,) int32 of positions in units of a bin.

    Positions outside are in the first or the last of the n bins, NaN is in bin 0.
    """
    with np.errstate(invalid="ignore"):
        return np.clip(np.minimum(scaled, n).astype(np.int32), 0, n - 1)


def intervals_of(n_params: int) -> int:
    """Intervals of a smoother with this many parameters along one axis.

    DIALS's smoothers have two parameters more than intervals, but 2 and 3 for one and two intervals.

    Raises:
        ValueError: 4 or fewer than 2, which no number of intervals has.
    """
    if n_params < 2 or n_params == 4:
        raise ValueError(f"A smoother can't have {n_params} parameters: 2, 3, 5 or more")
    return n_params - 1 if n_params < 4 else n_params - 2


def n_parameters_of(intervals: int) -> int:
    """Parameters of a smoother with this many intervals along one axis."""
    return intervals + 1 if intervals < 3 else intervals + 2
