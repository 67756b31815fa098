"""The target of diffuse scaling for DIALS's refineries."""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy
from scitbx import sparse

from dials.algorithms.scaling.target_function import ScalingTarget
from dials.array_family import flex

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.scaling.expectation.kernels import ModelTables, profile_functional

# Elements of the dense Jacobian of the least-squares engines (8 bytes each, a few copies)
MOST_ELEMENTS = 2e7


class DiffuseScalingTarget(ScalingTarget):
    """Weighted squares of net photons less exposure (g I_v + h), with I_v in closed form.

    Args:
        scaler: the DiffuseScaler whose components are refined
        restraints: object with functional_gradients(scaler) -> (float, dict of numpy
            gradients by component), or None
        names: components that are refined
    """

    def __init__(self, scaler, restraints=None, names=("scale", "offset", "panel", "sensitivity")):
        super().__init__()
        self.rmsd_names = ["RMSD"]
        self.rmsd_units = ["sigma"]
        self.scaler = scaler
        self.restraints = restraints
        self.names = tuple(names)
        self.reference = np.zeros(len(scaler.data.voxel))
        self._chunks: list | None = None
        self._last = 0.0
        self.n_calls = 0

    def rmsds(self, Ih_table, apm) -> list[float]:
        """Root mean square of residuals over their expected sigma, at the last evaluation"""
        return [float(np.sqrt(self._last / max(self.scaler.data.size, 1)))]

    def compute_functional_gradients(self, block):
        """(functional, gradient by the free parameters in the order of the parameter manager)."""
        functional, gradients = self.functional_and_gradients(block)
        return functional, self._in_order(gradients)

    def functional_and_gradients(self, block) -> tuple[float, dict[str, np.ndarray]]:
        """(functional, its derivatives by the parameters of each component)."""
        scaler = self.scaler
        if self._chunks is None:
            self._chunks = [(chunk, scaler.empty_tables()) for chunk in scaler.chunks()]

        def add_up(chunk: tuple[slice, ModelTables]) -> float:
            voxels, gradients = chunk
            for gradient in gradients:
                gradient[:] = 0.0
            data, reference = block.of_voxels(voxels), self.reference[voxels]
            return profile_functional(data, scaler.tables, reference, gradients)

        functional = sum(map_in_threads(add_up, self._chunks, scaler.n_threads))
        per_table = zip(*(gradients for _, gradients in self._chunks))
        self.n_calls += 1
        self._last = functional
        return functional, scaler.gradient_by_parameters(ModelTables(*map(sum, per_table)))

    def squares(self, block) -> np.ndarray:
        """(N,): the contribution of each observation to the functional."""
        residuals, *_ = self._residuals(block)
        return block.weight * residuals**2

    def compute_restraints_functional_gradients(self, apm):
        """(functional, gradient) of the restraints, or None"""
        if self.restraints is None:
            return None
        functional, gradients = self.restraints.functional_gradients(self.scaler)
        return functional, self._in_order(gradients)

    # --- for the least-squares engines, which need all derivatives of all residuals

    def compute_residuals(self, block):
        """(residuals, weights) of all observations"""
        residuals, *_ = self._residuals(block)
        return _flex(residuals), _flex(block.weight)

    def compute_residuals_and_gradients(self, block):
        """(residuals, Jacobian by the free parameters, weights).

        The intensities follow the parameters: what of a derivative lies along them is
        projected out (Kaufman's form of variable projection, BIT 15 (1975) 49).

        Raises:
            ValueError: the dense matrix would be too large.
        """
        scaler = self.scaler
        if scaler.has_series:
            raise ValueError("Smooth functions of p_order (series) need fit.engine=SimpleLBFGS")
        n_columns = sum(
            component.n_params
            for manager in scaler.data_managers
            for name, component in manager.components.items()
            if name in self.names
        )
        if block.size * n_columns > MOST_ELEMENTS:
            raise ValueError(
                f"{block.size} observations times {n_columns} parameters are too many for this engine: "
                "use fit.engine=SimpleLBFGS, or a smaller fit.max_observations"
            )
        residuals, intensity, detector, g = self._residuals(block)
        exposure, tables = block.exposure, scaler.tables
        signal = tables.b[block.still] * intensity + tables.c[block.still, block.radial]
        jacobian = np.zeros((block.size, n_columns), order="F")
        column = 0
        shared_part = -exposure * signal
        for number, manager in enumerate(scaler.data_managers):
            own = block.still == number
            by_offset = None
            if "offset" in manager.components and "offset" in self.names:
                by_offset = (-exposure * detector)[own, None] * scaler.radial_weights[
                    block.radial[own]
                ]
            for name, component in manager.components.items():
                if name not in self.names:
                    continue
                last = column + component.n_params
                if name == "scale":
                    columns = (-exposure * detector * intensity)[own]
                    follower = manager.components.get("offset")
                    if by_offset is not None and follower.slope is not None:
                        columns = columns + by_offset @ follower.slope[:, 0]
                    jacobian[own, column] = component.free_gradient(columns)
                elif name == "offset":
                    jacobian[own, column:last] = component.free_gradient(by_offset)
                elif name == "panel":
                    columns = np.zeros((block.size, component.n_params))
                    rows = np.arange(block.size)
                    columns[rows, block.panel] = shared_part * tables.a[block.direction]
                    follower = manager.components.get("sensitivity")
                    if follower is not None and follower.slope is not None:
                        columns += self._by_sensitivity(block, shared_part) @ follower.slope
                    jacobian[:, column:last] = component.free_gradient(columns)
                else:
                    columns = self._by_sensitivity(block, shared_part)
                    jacobian[:, column:last] = component.free_gradient(columns)
                column = last
        along = block.weight * g
        norm = np.add.reduceat(along * g, block.start[:-1])
        sizes = np.diff(block.start)
        for k in range(n_columns):
            share = np.add.reduceat(along * jacobian[:, k], block.start[:-1])
            share = np.divide(share, norm, out=np.zeros_like(share), where=norm > 0)
            jacobian[:, k] -= g * np.repeat(share, sizes)
        return _flex(residuals), _sparse(jacobian), _flex(block.weight)

    def compute_restraints_residuals_and_gradients(self, apm):
        """(residuals, Jacobian by the free parameters, weights) of the restraints, or None"""
        if self.restraints is None:
            return None
        terms = self.restraints.terms(self.scaler)
        rows, blocks = [], []
        column = 0
        for number, manager in enumerate(self.scaler.data_managers):
            first_column = column
            for name, component in manager.components.items():
                if name not in self.names:
                    continue
                residuals, columns = terms[name]
                if columns.ndim == 3:
                    residuals, columns = residuals[number], columns[number]
                blocks.append((len(residuals), column, component.free_gradient(columns)))
                if component.slope is not None:
                    # the leader is the first of the manager's components
                    leader = next(iter(manager.components.values()))
                    by_leader = leader.free_gradient(columns @ component.slope)
                    blocks.append((0, first_column, by_leader))
                rows.append(residuals)
                column += component.n_params
        residuals = np.concatenate(rows)
        jacobian = np.zeros((len(residuals), column))
        row = 0
        for n_rows, first, values in blocks:
            # zero rows: another part of the rows just written
            begin = row if n_rows else row - len(values)
            jacobian[begin : begin + len(values), first : first + values.shape[1]] = values
            row += n_rows
        return _flex(residuals), _sparse(jacobian), flex.double(len(residuals), 1.0)

    def _by_sensitivity(self, block, shared_part: np.ndarray) -> np.ndarray:
        """(N, parameters of a): derivatives of the residuals"""
        scaler = self.scaler
        by_table = (shared_part * scaler.tables.d[block.panel])[:, None]
        return by_table * scaler.direction_weights[block.direction]

    def _residuals(self, block):
        """(residuals, I, a d, E g), (N,) each; sets the reference."""
        tables = self.scaler.tables
        detector = tables.a[block.direction] * tables.d[block.panel]
        g = block.exposure * detector * tables.b[block.still]
        offset = block.exposure * detector * tables.c[block.still, block.radial]
        crystal = block.net - offset
        num = np.add.reduceat(block.weight * g * crystal, block.start[:-1])
        den = np.add.reduceat(block.weight * g * g, block.start[:-1])
        self.reference = np.divide(num, den, out=np.zeros_like(num), where=den > 0)
        intensity = np.repeat(self.reference, np.diff(block.start))
        residuals = crystal - g * intensity
        self._last = float(np.sum(block.weight * residuals**2))
        self.n_calls += 1
        return residuals, intensity, detector, g

    def _in_order(self, gradients: dict) -> flex.double:
        """Derivatives by the free parameters: in the order of the scaler's data managers."""
        scaler, names = self.scaler, self.names
        if scaler.offset_series is not None:
            return _flex(self._in_order_with_offset_series(gradients))
        has_offset = "offset" in scaler.models[0].components and "offset" in names
        stills, detector = [], []
        if "scale" in names and scaler.series is not None:
            detector.append(scaler.series.free_gradient(gradients["scale"]))
        elif "scale" in names:
            by_b = gradients["scale"]
            if has_offset:
                # c follows b
                by_b = by_b + np.sum(scaler.slopes * gradients["offset"], axis=1)
            stills.append((by_b * scaler.scale_units)[:, None])
        if has_offset:
            stills.append(np.einsum("sp,spq->sq", gradients["offset"], scaler.offset_units))
        detector.extend(self._by_detector(gradients))
        per_still = [np.concatenate(stills, axis=1).ravel()] if stills else []
        return _flex(np.concatenate([*per_still, *detector]))

    def _in_order_with_offset_series(self, gradients: dict) -> np.ndarray:
        """The same if c is a function of p_order.

        c comes before the stills if their b follow it, and after b(p_order) if it follows that.
        """
        scaler = self.scaler
        by_b, by_c = gradients["scale"], gradients["offset"]
        has_scale, has_offset = "scale" in self.names, "offset" in self.names
        ordered = []
        if scaler.series is None:
            if has_offset:
                if has_scale:
                    by_c = by_c + scaler.offset_series.gradient(scaler.slopes * by_b[:, None])
                ordered.append(scaler.offset_series.free_gradient(by_c))
            if has_scale:
                ordered.append(by_b * scaler.scale_units)
        else:
            if has_scale:
                if has_offset and scaler.offset_series.slope is not None:
                    by_b = by_b + by_c @ scaler.offset_series.slope
                ordered.append(scaler.series.free_gradient(by_b))
            if has_offset:
                ordered.append(scaler.offset_series.free_gradient(by_c))
        return np.concatenate([*ordered, *self._by_detector(gradients)])

    def _by_detector(self, gradients: dict) -> list[np.ndarray]:
        """Derivatives by the free parameters of d and a."""
        out = []
        shared = self.scaler.shared
        for name in ("panel", "sensitivity"):
            if name in shared and name in self.names:
                gradient = gradients[name]
                follower = shared.get("sensitivity")
                if name == "panel" and follower is not None and follower.slope is not None:
                    # a follows d
                    gradient = gradient + gradients["sensitivity"] @ follower.slope
                out.append(shared[name].free_gradient(gradient))
        return out


def _flex(values: np.ndarray) -> flex.double:
    return flumpy.from_numpy(np.require(values, np.float64, ["C", "W"]).copy())


def _sparse(matrix: np.ndarray) -> sparse.matrix:
    dense = flumpy.from_numpy(np.array(matrix, dtype=np.float64, order="C"))
    out = sparse.matrix(*(int(n) for n in matrix.shape))
    out.assign_block(dense, 0, 0)
    return out
