"""The target of diffuse scaling for DIALS's refineries."""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy
from scitbx import sparse

from dials.algorithms.scaling.target_function import ScalingTarget
from dials.array_family import flex

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.scaling.expectation.kernels import profile_functional

# Elements of the dense Jacobian of the least-squares engines (8 bytes each, a few copies)
MOST_ELEMENTS = 2e7


class DiffuseScalingTarget(ScalingTarget):
    """Weighted squares of (counts - background) - exposure (g I_v + h), I_v in closed form.

    Args:
        scaler: the DiffuseScaler whose components are refined
        restraints: object with functional_gradients(scaler) -> (float, dict of numpy
            gradients by component), or None
        names: components that are refined
    """

    rmsd_names = ["RMSD"]
    rmsd_units = ["sigma"]

    def __init__(self, scaler, restraints=None, names=("scale", "offset", "panel", "sensitivity")):
        super().__init__()
        self.rmsd_names = ["RMSD"]
        self.rmsd_units = ["sigma"]
        self.scaler = scaler
        self.restraints = restraints
        self.names = tuple(names)
        self.reference = np.zeros(len(scaler.data.voxel))
        self._parts: list | None = None
        self._last = 0.0
        self.n_calls = 0

    def rmsds(self, Ih_table, apm) -> list[float]:
        """Root mean square of residuals over their expected sigma, at the last evaluation"""
        return [float(np.sqrt(self._last / max(self.scaler.data.size, 1)))]

    def compute_functional_gradients(self, block):
        """(functional, gradient over the free parameters in the parameter manager's order)"""
        functional, gradients = self.functional_and_gradients(block)
        return functional, self._in_order(gradients)

    def functional_and_gradients(self, block) -> tuple[float, dict[str, np.ndarray]]:
        """(functional, its derivatives by the parameters of each component)"""
        places, tables = block.places(), self.scaler.tables()

        if self._parts is None:
            self._parts = [
                (voxels, self.scaler.empty_gradients()) for voxels in self.scaler.parts()
            ]

        def of_part(part: tuple[slice, tuple[np.ndarray, ...]]) -> float:
            voxels, gradients = part
            for gradient in gradients:
                gradient[:] = 0.0
            return profile_functional(
                block.start[voxels.start : voxels.stop + 1],
                *places,
                block.y,
                block.exposure,
                block.weight,
                *tables,
                self.reference[voxels],
                *gradients,
            )

        functional = sum(map_in_threads(of_part, self._parts, self.scaler.n_threads))
        gradients = tuple(
            sum(of_parts) for of_parts in zip(*(gradients for _, gradients in self._parts))
        )
        self.n_calls += 1
        self._last = functional
        return functional, self.scaler.gradient_by_parameters(*gradients)

    def squares(self, block) -> np.ndarray:
        """(N,): the functional's part from each observation"""
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
        residuals, intensity, exposure, detector, g = self._residuals(block)
        signal = scaler.b[block.still] * intensity + scaler.c[block.still, block.radial]
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
                    of = (-exposure * detector * intensity)[own]
                    follower = manager.components.get("offset")
                    if by_offset is not None and follower.slope is not None:
                        of = of + by_offset @ follower.slope[:, 0]
                    jacobian[own, column] = component.free_gradient(of)
                elif name == "offset":
                    jacobian[own, column:last] = component.free_gradient(by_offset)
                elif name == "panel":
                    of = np.zeros((block.size, component.n_params))
                    of[np.arange(block.size), block.panel] = shared_part * scaler.a[block.direction]
                    follower = manager.components.get("sensitivity")
                    if follower is not None and follower.slope is not None:
                        of += self._by_sensitivity(block, shared_part) @ follower.slope
                    jacobian[:, column:last] = component.free_gradient(of)
                else:
                    of = self._by_sensitivity(block, shared_part)
                    jacobian[:, column:last] = component.free_gradient(of)
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
                residuals, of = terms[name]
                if of.ndim == 3:
                    residuals, of = residuals[number], of[number]
                blocks.append((len(residuals), column, component.free_gradient(of)))
                if component.slope is not None:
                    # the leader is the first of the manager's components
                    leader = next(iter(manager.components.values()))
                    blocks.append((0, first_column, leader.free_gradient(of @ component.slope)))
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
        of = (shared_part * scaler.d[block.panel])[:, None]
        return of * scaler.direction_weights[block.direction]

    def _residuals(self, block):
        scaler = self.scaler
        detector = scaler.a[block.direction] * scaler.d[block.panel]
        g = block.exposure * detector * scaler.b[block.still]
        net = block.y - block.exposure * detector * scaler.c[block.still, block.radial]
        num = np.add.reduceat(block.weight * g * net, block.start[:-1])
        den = np.add.reduceat(block.weight * g * g, block.start[:-1])
        self.reference = np.divide(num, den, out=np.zeros_like(num), where=den > 0)
        intensity = np.repeat(self.reference, np.diff(block.start))
        residuals = net - g * intensity
        self._last = float(np.sum(block.weight * residuals**2))
        self.n_calls += 1
        return residuals, intensity, block.exposure, detector, g

    def _in_order(self, gradients: dict) -> flex.double:
        """Derivatives by the free parameters: still after still, then the detector"""
        stills, detector = [], []
        first = self.scaler.models[0].components
        if self.scaler.offset_series is not None:
            return _flex(self._in_order_with_offset_series(gradients))
        if "scale" in self.names and self.scaler.series is not None:
            detector.append(self.scaler.series.free_gradient(gradients["scale"]))
        elif "scale" in self.names:
            of = gradients["scale"]
            if "offset" in first and "offset" in self.names:
                # c follows b
                of = of + np.sum(self.scaler.slopes * gradients["offset"], axis=1)
            stills.append((of * self.scaler.scale_units)[:, None])
        if "offset" in first and "offset" in self.names:
            stills.append(np.einsum("sp,spq->sq", gradients["offset"], self.scaler.offset_units))
        detector.extend(self._of_detector(gradients))
        parts = [np.concatenate(stills, axis=1).ravel()] if stills else []
        return _flex(np.concatenate([*parts, *detector]))

    def _in_order_with_offset_series(self, gradients: dict) -> np.ndarray:
        """The same where c is a function of p_order: before the stills where b follows it,
        after b where it follows b"""
        scaler = self.scaler
        of_b, of_c = gradients["scale"], gradients["offset"]
        parts = []
        if scaler.series is None:
            if "offset" in self.names:
                if "scale" in self.names:
                    of_c = of_c + scaler.offset_series.gradient(scaler.slopes * of_b[:, None])
                parts.append(scaler.offset_series.free_gradient(of_c))
            if "scale" in self.names:
                parts.append(of_b * scaler.scale_units)
        else:
            if "scale" in self.names:
                if "offset" in self.names and scaler.offset_series.slope is not None:
                    of_b = of_b + of_c @ scaler.offset_series.slope
                parts.append(scaler.series.free_gradient(of_b))
            if "offset" in self.names:
                parts.append(scaler.offset_series.free_gradient(of_c))
        return np.concatenate([*parts, *self._of_detector(gradients)])

    def _of_detector(self, gradients: dict) -> list[np.ndarray]:
        """Derivatives by the free parameters of d and a"""
        out = []
        shared = self.scaler.shared
        for name in ("panel", "sensitivity"):
            if name in shared and name in self.names:
                of = gradients[name]
                follower = shared.get("sensitivity")
                if name == "panel" and follower is not None and follower.slope is not None:
                    # a follows d
                    of = of + gradients["sensitivity"] @ follower.slope
                out.append(shared[name].free_gradient(of))
        return out


def _flex(values: np.ndarray) -> flex.double:
    return flumpy.from_numpy(np.require(values, np.float64, ["C", "W"]).copy())


def _sparse(matrix: np.ndarray) -> sparse.matrix:
    dense = flumpy.from_numpy(np.array(matrix, dtype=np.float64, order="C"))
    out = sparse.matrix(*(int(n) for n in matrix.shape))
    out.assign_block(dense, 0, 0)
    return out
