"""The factors and terms of the diffuse scaling model, as DIALS's scale components.

Each one keeps its parameters the way DIALS does (flex.double, e.s.d.s, free
parameters), so that DIALS's parameter managers and refineries work with it. What is smooth is
tabulated from DIALS's own Gaussian smoothers: thousands of stills with millions of
observations then need a table look-up each instead of a sparse row of weights.

This module imports nothing beyond DIALS, cctbx and numpy, because DIALS itself loads it.
"""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy
from scitbx import sparse

from dials.algorithms.scaling.model.components.scale_components import (
    ScaleComponentBase,
    SingleScaleFactor,
)
from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother1D,
    GaussianSmoother2D,
)
from dials.array_family import flex

# Bins of the look-up tables over their whole range. A smoother's shortest
# period is many bins, so the nearest bin is as good as the exact position.
N_RADIAL = 512
N_AZIMUTHAL = 96

NOT_DEFINITE = (
    "The observations do not determine the scaling model (a normal matrix is not positive definite): "
    "use fewer components or stronger restraints"
)


class FreeParametersMixin:
    """The minimiser sees free parameters f: the parameters are unit * f, or unit @ f, plus what
    follows from another component.

    With a unit such that the functional is about f^2 in all directions (the e.s.d., or the inverse
    of a Cholesky factor of the normal matrix) L-BFGS converges in tens of steps.
    """

    _unit: float | np.ndarray = 1.0
    _inverse_unit: float | np.ndarray = 1.0
    _leader: FreeParametersMixin | None = None
    _slope: np.ndarray | None = None
    _free_esds: np.ndarray | None = None

    @property
    def unit(self) -> float | np.ndarray:
        return self._unit

    def set_unit(self, unit: float | np.ndarray, inverse: float | np.ndarray) -> None:
        """Set the unit, (n, n) or a number, and its inverse"""
        self._unit, self._inverse_unit = unit, inverse

    def follow(self, leader: FreeParametersMixin | None, slope: np.ndarray | None = None) -> None:
        """Let the free parameters stand for what is left besides slope @ leader's parameters.

        Where more of one component and less of another is nearly the same to the functional, the
        slope of that valley makes the free parameters of the two independent. The
        manager sets the leader first, as the model's components are ordered.

        Args:
            leader: another component; None to stand alone again
            slope: (n, parameters of the leader) derivatives along the valley
        """
        self._leader, self._slope = leader, None if leader is None else slope

    @property
    def slope(self) -> np.ndarray | None:
        """(n, parameters of the leader), None for a component that follows none"""
        return self._slope

    def _along(self) -> float | np.ndarray:
        return 0.0 if self._leader is None else self._slope @ self._leader.values()

    @property
    def free_parameters(self):
        return _as_flex(_times(self._inverse_unit, self.values() - self._along()))

    @free_parameters.setter
    def free_parameters(self, parameters):
        if self._leader is None and np.ndim(self._unit) == 0:
            self._parameters = parameters * self._unit
            return
        free = flumpy.to_numpy(parameters)
        self._parameters = _as_flex(_times(self._unit, free) + self._along())

    @property
    def free_parameter_esds(self):
        if not self._parameter_esds:
            return None
        if np.ndim(self._unit) == 0 and self._leader is None:
            return self._parameter_esds / self._unit
        # in these units they are 1 and independent, or the unit is no good
        return flex.double(self._n_params, 1.0)

    @free_parameter_esds.setter
    def free_parameter_esds(self, esds):
        assert len(esds) == len(self._parameters)
        self._free_esds = np.array(esds)
        self._parameter_esds = _as_flex(np.sqrt(self.variances(self._free_esds)))

    def variances(
        self, free_esds: np.ndarray | None = None, convention: np.ndarray | None = None
    ) -> np.ndarray:
        """Variances of the parameters, from those of independent free parameters.

        Args:
            free_esds: (n,), by default 1, with those of the leader 1 as well
            convention: (n, n) projection of shifts on those that keep a convention

        Returns:
            (n,)
        """
        esds = np.ones(self._n_params) if free_esds is None else free_esds
        project = np.eye(self._n_params) if convention is None else convention
        out = _squares(project @ np.atleast_2d(self._unit), esds)
        if self._leader is not None:
            of_leader = None if free_esds is None else self._leader._free_esds
            if of_leader is None:
                of_leader = np.ones(self._leader.n_params)
            out = out + _squares(
                project @ self._slope @ np.atleast_2d(self._leader.unit), of_leader
            )
        return out

    def free_gradient(self, gradient: np.ndarray) -> np.ndarray:
        """Derivatives by the parameters (n,) -> derivatives by the free parameters (n,)"""
        return gradient * self._unit if np.ndim(self._unit) == 0 else gradient @ self._unit

    def values(self) -> np.ndarray:
        """The parameters as numpy array (a copy)"""
        return flumpy.to_numpy(self._parameters).copy()

    def set_values(self, values: np.ndarray) -> None:
        """Set all parameters from numpy values"""
        self.parameters = flex.double(np.asarray(values, dtype=float).tolist())


def _as_flex(values: np.ndarray) -> flex.double:
    # through a name: flumpy shares the memory
    out = np.require(values, np.float64, ["C", "W", "O"])
    return flumpy.from_numpy(out)


def _times(unit: float | np.ndarray, vector: np.ndarray) -> np.ndarray:
    return unit * vector if np.ndim(unit) == 0 else unit @ vector


def _squares(unit: np.ndarray, esds: np.ndarray) -> np.ndarray:
    return unit**2 @ esds**2


def whitening(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units U with U^T N U = 1 for normal matrices N, and their inverses.

    Cholesky's L with N = L L^T, column by column for all matrices at once: LAPACK, called for
    thousands of small ones, would spend its time on waking up its threads.

    Args:
        normal: (n, n) or (S, n, n)

    Returns:
        (U, inverse of U), shaped as normal

    Raises:
        ValueError: a matrix is not positive definite.
    """
    if normal.ndim == 2:
        try:
            lower = np.linalg.cholesky(normal)
        except np.linalg.LinAlgError as error:
            raise ValueError(NOT_DEFINITE) from error
        return np.linalg.inv(lower).T, lower.T
    n = normal.shape[-1]
    lower, inverse = np.zeros_like(normal), np.zeros_like(normal)
    for i in range(n):
        done = lower[:, i, :i]
        pivot = normal[:, i, i] - np.sum(done**2, axis=1)
        if not np.all(pivot > 0):
            raise ValueError(NOT_DEFINITE)
        pivot = np.sqrt(pivot)
        lower[:, i, i] = pivot
        rest = np.einsum("skj,sj->sk", lower[:, i + 1 :, :i], done)
        lower[:, i + 1 :, i] = (normal[:, i + 1 :, i] - rest) / pivot[:, None]
        inverse[:, i, i] = 1.0 / pivot
        inverse[:, i, :i] = -np.einsum("sk,skj->sj", done, inverse[:, :i, :i]) / pivot[:, None]
    return np.swapaxes(inverse, 1, 2), np.swapaxes(lower, 1, 2)


class StillScale(FreeParametersMixin, SingleScaleFactor):
    """b, the scale of one still"""


class SelectedData(FreeParametersMixin, ScaleComponentBase):
    """What a component needs of each observation, whole or in selected blocks."""

    column: str

    def update_reflection_data(self, selection=None, block_selections=None):
        data = self.data[self.column]
        if selection is not None:
            blocks = [data.select(selection)]
        elif block_selections:
            blocks = [data.select(block) for block in block_selections]
        else:
            blocks = [data]
        self._blocks = blocks
        self._n_refl = [len(block) for block in blocks]

    def calculate_scales(self, block_id=0):
        """Values of one block of observations, flex.double"""
        return self.calculate_scales_and_derivatives(block_id)[0]


class ScaleSeries(SelectedData):
    """b as a smooth function of p_order, where stills follow each other on one crystal

    Attributes:
        p_order: (S,) position of each still in the series
    """

    null_parameter_value = 1.0
    column = "p_order"

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
        n = intervals + 1 if intervals < 3 else intervals + 2
        return cls(flex.double(n, 1.0), p_order).closest_to(scales)

    def closest_to(self, scales: np.ndarray) -> ScaleSeries:
        """A series with the same smoother, closest to scales (S,)"""
        n = self.n_params
        out = type(self)(flex.double(n, 1.0), self.p_order)
        mean = float(np.mean(scales))
        # what no still determines stays at the mean
        weights = np.vstack((out.table_weights(), 1e-3 * np.eye(n)))
        target = np.concatenate((np.asarray(scales) - mean, np.zeros(n)))
        shift = np.linalg.lstsq(weights, target, rcond=None)[0]
        out.set_values(np.maximum(mean + shift, 0.01 * mean))
        return out

    def calculate_scales_and_derivatives(self, block_id=0):
        """Values (flex.double) and derivatives (sparse, observations x parameters)"""
        value, weight, total = self.smoother.multi_value_weight(
            self._blocks[block_id], self._parameters
        )
        return value, normalised(weight, total)

    def table_weights(self) -> np.ndarray:
        """(S, n_params): b of the stills = weights @ parameters"""
        _, weight, total = self.smoother.multi_value_weight(
            flex.double(self.p_order.tolist()), self._parameters
        )
        return dense(weight) / flumpy.to_numpy(total)[:, None]


class PanelScale(SelectedData):
    """d, one factor a panel of the detector, shared by all stills"""

    null_parameter_value = 1.0
    column = "panel"

    def calculate_scales_and_derivatives(self, block_id=0):
        """Values (flex.double) and derivatives (sparse, observations x parameters)"""
        panels = self._blocks[block_id]
        derivatives = sparse.matrix(panels.size(), self.n_params)
        for row, panel in enumerate(panels):
            derivatives[row, int(panel)] = 1.0
        return self._parameters.select(panels), derivatives


class RadialOffset(SelectedData):
    """c(|q|), what one still has on top of the crystal's scattering: solvent, loop, air

    Attributes:
        q_max: the smoother runs from 0 to q_max, 1/Angstrom
    """

    null_parameter_value = 0.0
    column = "q"

    def __init__(self, initial_values, q_max: float, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self.q_max = float(q_max)
        self.smoother = GaussianSmoother1D((0.0, self.q_max), intervals_of(self.n_params))
        self.set_unit(np.eye(self.n_params), np.eye(self.n_params))

    def calculate_scales_and_derivatives(self, block_id=0):
        """Values (flex.double) and derivatives (sparse, observations x parameters)"""
        value, weight, total = self.smoother.multi_value_weight(
            self._blocks[block_id], self._parameters
        )
        return value, normalised(weight, total)

    def bin_of(self, q: np.ndarray) -> np.ndarray:
        """|q| (N,) -> bins of the table (N,) int16"""
        return nearest_bins(np.asarray(q) * (N_RADIAL / self.q_max), N_RADIAL).astype(np.int16)

    def bin_centres(self) -> np.ndarray:
        """|q| of the bins of the table"""
        return (np.arange(N_RADIAL) + 0.5) * (self.q_max / N_RADIAL)

    def positions(self) -> np.ndarray:
        """|q| of the parameters, 1/Angstrom (the outermost lie outside the range)"""
        return np.array(self.smoother.positions()) * (self.q_max / intervals_of(self.n_params))

    def table_weights(self) -> np.ndarray:
        """(N_RADIAL, n_params): table of values = weights @ parameters"""
        _, weight, total = self.smoother.multi_value_weight(
            flex.double(self.bin_centres().tolist()), self._parameters
        )
        return dense(weight) / flumpy.to_numpy(total)[:, None]


class Sensitivity(SelectedData):
    """a(x, y), a smooth factor over the direction of s1 around the beam, shared by all stills

    Attributes:
        extent: (x_min, x_max, y_min, y_max) of the projected direction
        shape: number of smoother positions along x and y; in the parameters x runs fastest
    """

    null_parameter_value = 1.0
    column = "xy"

    def __init__(self, initial_values, extent, shape, parameter_esds=None):
        super().__init__(initial_values, parameter_esds)
        self.extent = tuple(float(value) for value in extent)
        self.shape = tuple(int(n) for n in shape)
        if self.shape[0] * self.shape[1] != self.n_params:
            raise ValueError(
                f"{self.n_params} sensitivity parameters do not fill a grid of {self.shape}"
            )
        self.smoother = GaussianSmoother2D(
            self.extent[:2],
            intervals_of(self.shape[0]),
            self.extent[2:],
            intervals_of(self.shape[1]),
        )

    def calculate_scales_and_derivatives(self, block_id=0):
        """Values (flex.double) and derivatives (sparse, observations x parameters)"""
        x, y = self._blocks[block_id].parts()
        value, weight, total = self.smoother.multi_value_weight(x, y, self._parameters)
        return value, normalised(weight, total)

    def bin_of(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Projected directions (N,), (N,) -> bins of the flattened table (N,) int32"""
        x0, x1, y0, y1 = self.extent
        i = nearest_bins((np.asarray(x) - x0) * (N_AZIMUTHAL / (x1 - x0)), N_AZIMUTHAL)
        j = nearest_bins((np.asarray(y) - y0) * (N_AZIMUTHAL / (y1 - y0)), N_AZIMUTHAL)
        return j * np.int32(N_AZIMUTHAL) + i

    def bin_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y of the bins of the flattened table"""
        x0, x1, y0, y1 = self.extent
        steps = (np.arange(N_AZIMUTHAL) + 0.5) / N_AZIMUTHAL
        y, x = np.meshgrid(y0 + steps * (y1 - y0), x0 + steps * (x1 - x0), indexing="ij")
        return x.ravel(), y.ravel()

    def table_weights(self) -> np.ndarray:
        """(N_AZIMUTHAL^2, n_params): table of values = weights @ parameters"""
        x, y = self.bin_centres()
        _, weight, total = self.smoother.multi_value_weight(
            flex.double(x.tolist()), flex.double(y.tolist()), self._parameters
        )
        return dense(weight) / flumpy.to_numpy(total)[:, None]


def nearest_bins(scaled: np.ndarray, n: int) -> np.ndarray:
    """Bins (N,) int32 of positions in units of a bin, those outside in the first or last of n; 0 for NaN"""
    with np.errstate(invalid="ignore"):
        return np.clip(np.minimum(scaled, n).astype(np.int32), 0, n - 1)


def intervals_of(n_params: int) -> int:
    """Intervals of a smoother with this many parameters (DIALS: n + 2 values, 2 and 3 for
    one and two intervals)

    Raises:
        ValueError: 4 or fewer than 2, which no number of intervals has.
    """
    if n_params < 2 or n_params == 4:
        raise ValueError(f"A smoother can't have {n_params} parameters: 2, 3, 5 or more")
    return n_params - 1 if n_params < 4 else n_params - 2


def n_parameters_of(intervals: int) -> int:
    """Parameters of a smoother with this many intervals along one axis"""
    return intervals + 1 if intervals < 3 else intervals + 2


def dense(matrix) -> np.ndarray:
    return flumpy.to_numpy(matrix.as_dense_matrix()).reshape(matrix.n_rows, matrix.n_cols)


def normalised(weight, total):
    """Derivatives: weights over their sum, row by row"""
    from dials_scaling_ext import row_multiply

    return row_multiply(weight, 1.0 / total)
