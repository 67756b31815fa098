"""All parameters of a fit as one array, in coordinates in which the functional is round.

DIALS's parameter manager sets the parameters of one still after the other, which takes longer than
the functional of thousands of stills, and units within each component say nothing of what components do
to each other: more of every c_i and less of every I_v is nearly the same to the functional, and L-BFGS takes
hundreds of steps along such valleys. Here the coordinates z are those of the Gauss-Newton matrix with
the reference projected out (Kaufman, BIT 15 (1975) 49), from a part of the voxels: parameters = start + U z with
U U^T its inverse. The functional is about (z - z_best)^2, and a few steps are enough.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from dxtbx import flumpy

from dials_diffuse.scaling.components import (
    PanelScale,
    RadialOffset,
    Sensitivity,
    StillScale,
    whitening,
)

# Observations a parameter for the matrix: its elements are then known to a tenth of the diagonal
OBSERVATIONS_A_PARAMETER = 100
LEAST_OBSERVATIONS = 30_000

# Least eigenvalue with noise allowed for, relative to that without
LEAST_SHARE = 0.03

# One matrix for up to this many parameters; beyond, one for each still and one for the detector
MOST_IN_ONE_MATRIX = 1500


def can_be_whole(scaler) -> bool:
    """True where each component is of a kind that is known here: no functions of p_order"""
    kinds = {
        "scale": StillScale, "offset": RadialOffset, "panel": PanelScale, "sensitivity": Sensitivity,
    }  # fmt: skip
    first = scaler.models[0].components
    return scaler.series is None and all(
        type(first[name]) is kinds[name] for name in first
    )


class WholeParameters:
    """What DIALS's L-BFGS refinery needs of a parameter manager, for all parameters together.

    Their order is: for each still b and c, then d, then a.

    Args:
        target: DiffuseScalingTarget with its scaler, restraints and names, evaluated at the start
    """

    def __init__(self, target):
        self.target = target
        self.scaler = scaler = target.scaler
        first = scaler.models[0].components
        names = [name for name in first if name in target.names]
        self.n_scale = int("scale" in names)
        self.n_offset = first["offset"].n_params if "offset" in names else 0
        self.n_still = self.n_scale + self.n_offset
        self.detector = {n: scaler.shared[n] for n in ("panel", "sensitivity") if n in names}
        self.n_of_stills = len(scaler.models) * self.n_still
        sizes = [component.n_params for component in self.detector.values()]
        self.n_active_params = self.n_of_stills + sum(sizes)
        self.origin = self._from_components()
        self.terms = target.restraints.terms(scaler) if target.restraints is not None else {}
        self._units()
        self.z = np.zeros(self.n_active_params)

    # --- what DIALS's refinery calls

    def get_param_vals(self):
        """z, flex.double"""
        return _as_flex(self.z)

    def set_param_vals(self, x) -> None:
        """Set z; set_tables gives the scaler what follows"""
        self.z = np.array(flumpy.to_numpy(x))

    def compute_functional_gradients(self, block):
        """(functional, derivatives by z)"""
        functional, gradients = self.target.functional_and_gradients(block)
        self._gradient = self._by_z(self._joined(gradients))
        self._expect()
        return functional, _as_flex(self._gradient)

    def compute_restraints_functional_gradients(self, apm):
        """(functional, derivatives by z) of the restraints, or None.

        They are linear in the parameters, so that their terms at the start are all that is needed.
        """
        if not self.terms:
            return None
        shifts = self.split(self._times_units(self.z))
        value, gradients = 0.0, {}
        for name, (residuals, of) in self.terms.items():
            if name in shifts:
                if of.ndim == 3:
                    residuals = residuals + np.einsum("skp,sp->sk", of, shifts[name])
                    gradients[name] = 2 * np.einsum("sk,skp->sp", residuals, of)
                else:
                    residuals = residuals + of @ shifts[name]
                    gradients[name] = 2 * of.T @ residuals
            value += float(np.sum(residuals**2))
        of_z = self._by_z(self._joined(gradients))
        self._gradient = self._gradient + of_z
        self._expect()
        return value, _as_flex(of_z)

    # ---

    def _expect(self) -> None:
        """Tell the target by how much the functional should fall to the minimum"""
        # f0 + g z + z^2 has its minimum g^2 / 4 below f0
        self.target.expected_decrease = float(self._gradient @ self._gradient) / 4

    def parameters(self) -> np.ndarray:
        """(n_active_params,)"""
        return self.origin + self._times_units(self.z)

    def split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters, or their shifts, by component: (S, n) for "scale" and "offset", else (n,)"""
        out = {}
        of_stills = values[: self.n_of_stills].reshape(len(self.scaler.models), self.n_still)
        if self.n_scale:
            out["scale"] = of_stills[:, :1]
        if self.n_offset:
            out["offset"] = of_stills[:, self.n_scale :]
        first = self.n_of_stills
        for name, component in self.detector.items():
            out[name] = values[first : first + component.n_params]
            first += component.n_params
        return out

    def set_tables(self) -> None:
        """Give the scaler the tables that follow from z"""
        values, scaler = self.split(self.parameters()), self.scaler
        if "scale" in values:
            scaler.b = values["scale"][:, 0].copy()
        if "offset" in values:
            scaler.c = values["offset"] @ scaler.radial_weights.T
        if "panel" in values:
            scaler.d = values["panel"]
        if "sensitivity" in values:
            scaler.a = scaler.direction_weights @ values["sensitivity"]

    def to_components(self) -> None:
        """Write the parameters to the models of all stills"""
        values = self.split(self.parameters())
        for name in ("scale", "offset"):
            if name in values:
                for model, row in zip(self.scaler.models, values[name]):
                    model.components[name].set_values(row)
        for name, component in self.detector.items():
            component.set_values(values[name])

    def start_at_best_guess(self) -> None:
        """Let z be where the matrix says that the minimum is, if that is better than 0"""

        def functional_and_gradients():
            self.scaler.update_for_minimisation(self)
            f, g = self.compute_functional_gradients(self.scaler.data)
            restraints = self.compute_restraints_functional_gradients(self)
            if restraints is not None:
                f, g = f + restraints[0], g + restraints[1]
            return f, flumpy.to_numpy(g)

        before, gradients = functional_and_gradients()
        # the functional is about f0 + g z + z^2
        self.z = -0.5 * gradients
        after, _ = functional_and_gradients()
        if not after < before:
            self.z = np.zeros_like(self.z)
            self.scaler.update_for_minimisation(self)

    def _from_components(self) -> np.ndarray:
        models = self.scaler.models
        parts = []
        if self.n_scale:
            parts.append([[model.components["scale"].parameters[0]] for model in models])
        if self.n_offset:
            parts.append([model.components["offset"].values() for model in models])
        out = [np.concatenate(parts, axis=1).ravel()] if parts else []
        out += [component.values() for component in self.detector.values()]
        return np.concatenate(out)

    def _joined(self, gradients: dict[str, np.ndarray]) -> np.ndarray:
        """Derivatives by component -> one array in the order of the parameters"""
        n = len(self.scaler.models)
        parts = []
        if self.n_scale:
            parts.append(gradients["scale"].reshape(n, 1))
        if self.n_offset:
            parts.append(gradients["offset"])
        out = [np.concatenate(parts, axis=1).ravel()] if parts else []
        return np.concatenate([*out, *(gradients[name] for name in self.detector)])

    def _units(self) -> None:
        """Set the matrix U, whole or by stills and detector"""
        self.unit = self.still_unit = None
        if self.n_active_params <= MOST_IN_ONE_MATRIX:
            self.unit = self._unit_of(self._normal_matrices(stills=True), self.n_of_stills)
            return
        if self.n_still:
            normal = self.scaler.still_normal_matrices(self.target.restraints, self.target.reference)
            if not self.n_scale:
                normal = normal[:, 1:, 1:]
            self.still_unit, _ = whitening(np.ascontiguousarray(normal[:, : self.n_still, : self.n_still]))
        if self.detector:
            self.unit = self._unit_of(self._normal_matrices(stills=False), 0)

    def _unit_of(self, matrices: tuple[np.ndarray, np.ndarray], first: int) -> np.ndarray:
        """U from the matrices of _normal_matrices, with the restraints"""
        for matrix in matrices:
            self._add_restraints(matrix, first)
        positive, noisy = matrices
        unit, _ = whitening(positive)
        values, vectors = np.linalg.eigh(unit.T @ noisy @ unit)
        # what is left after the noise may be nothing, or less
        return unit @ (vectors / np.sqrt(np.clip(values, LEAST_SHARE, None)))

    def _add_restraints(self, normal: np.ndarray, first: int) -> None:
        """Add those of the stills, if first > 0, and of the detector from element `first` on"""
        for name, (_, of) in self.terms.items():
            if of.ndim == 3 and first and name in ("scale", "offset"):
                if not (self.n_scale if name == "scale" else self.n_offset):
                    continue
                begin = self.n_scale if name == "offset" else 0
                for still, each in enumerate(of):
                    rows = slice(
                        still * self.n_still + begin, still * self.n_still + begin + each.shape[1]
                    )
                    normal[rows, rows] += each.T @ each
        for name, component in self.detector.items():
            rows = slice(first, first + component.n_params)
            if name in self.terms:
                of = self.terms[name][1]
                normal[rows, rows] += of.T @ of
            first += component.n_params

    def _normal_matrices(self, stills: bool) -> tuple[np.ndarray, np.ndarray]:
        """Two matrices (halved) of second derivatives by the parameters of the detector, and of the stills if so
        asked; from as many voxels as needed, weighed up to all.

        The first is Gauss and Newton's with the reference projected out, positive. Of the second
        the part is taken away that is owed to the noise of the voxels' intensities, which
        would pass for structure that tells b from c: on the average what the derivatives of the
        derivatives by the intensity make, times its variance.
        """
        scaler, data = self.scaler, self.scaler.data
        n = self.n_active_params - (0 if stills else self.n_of_stills)
        share = min(1.0, max(OBSERVATIONS_A_PARAMETER * n, LEAST_OBSERVATIONS) / data.size)
        # another irrational number than those that choose the voxels of the fit
        position = np.arange(len(data.voxel)) * 0.5698402909980532 % 1.0
        chosen = position < share
        sizes = np.diff(data.start)
        rows = np.flatnonzero(np.repeat(chosen, sizes))
        voxel = np.repeat(np.arange(np.count_nonzero(chosen)), sizes[chosen])
        intensity = self.target.reference[chosen][voxel]
        root = np.sqrt(data.weight[rows])
        detector = scaler.d[data.panel[rows]] * scaler.a[data.direction[rows]]
        exposure = root * data.exposure[rows]
        b = scaler.b[data.still[rows]]
        signal = b * intensity + scaler.c[data.still[rows], data.radial[rows]]
        jacobian = self._jacobian(rows, exposure, detector, intensity, signal, stills)
        along = exposure * detector * b
        norm = np.sqrt(np.bincount(voxel, along**2, minlength=1))[voxel]
        inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
        noise = self._jacobian(rows, exposure * inverse, detector, 1.0, b, stills, offset=False)
        projection = sparse.csr_matrix(
            (along * inverse, (voxel, np.arange(len(rows)))), (np.count_nonzero(chosen), len(rows))
        )
        positive, of_noise = (
            (matrix.T @ matrix).toarray() - _square(projection @ matrix)
            for matrix in (jacobian, noise)
        )
        accepted = np.count_nonzero(root)
        factor = np.count_nonzero(data.weight) / max(accepted, 1)
        return factor * positive, factor * (positive - of_noise)

    def _jacobian(
        self, rows, exposure, detector, of_scale, signal, stills: bool, offset: bool = True
    ) -> sparse.csr_matrix:
        """Derivatives of exposure * detector * signal, of_scale being that of signal by b"""
        scaler, data = self.scaler, self.scaler.data
        number = np.arange(len(rows))
        blocks = []
        if stills and self.n_still:
            place = data.still[rows].astype(np.int64) * self.n_still
            parts = []
            if self.n_scale:
                parts.append((number, place, exposure * detector * of_scale))
            if self.n_offset and offset:
                weights = sparse.csr_matrix(scaler.radial_weights)[data.radial[rows]].tocoo()
                value = weights.data * (exposure * detector)[weights.row]
                parts.append((weights.row, place[weights.row] + self.n_scale + weights.col, value))
            shape = (len(rows), self.n_of_stills)
            if parts:
                row, column, value = (np.concatenate(part) for part in zip(*parts))
                blocks.append(sparse.csr_matrix((value, (row, column)), shape))
            else:
                blocks.append(sparse.csr_matrix(shape))
        panel, direction = data.panel[rows], data.direction[rows]
        if "panel" in self.detector:
            value = exposure * scaler.a[direction] * signal
            blocks.append(sparse.csr_matrix((value, (number, panel)), (len(rows), len(scaler.d))))
        if "sensitivity" in self.detector:
            weights = sparse.csr_matrix(scaler.direction_weights)[direction]
            blocks.append(sparse.diags(exposure * scaler.d[panel] * signal) @ weights)
        return sparse.hstack(blocks, format="csr")

    def _times_units(self, z: np.ndarray) -> np.ndarray:
        """z -> shifts of the parameters"""
        if self.still_unit is None:
            return self.unit @ z
        of_stills = z[: self.n_of_stills].reshape(-1, self.n_still)
        shifts = np.einsum("spq,sq->sp", self.still_unit, of_stills).ravel()
        if not self.detector:
            return shifts
        return np.concatenate((shifts, self.unit @ z[self.n_of_stills :]))

    def _by_z(self, gradient: np.ndarray) -> np.ndarray:
        """Derivatives by the parameters -> derivatives by z"""
        if self.still_unit is None:
            return gradient @ self.unit
        of_stills = gradient[: self.n_of_stills].reshape(-1, self.n_still)
        out = np.einsum("sp,spq->sq", of_stills, self.still_unit).ravel()
        if not self.detector:
            return out
        return np.concatenate((out, gradient[self.n_of_stills :] @ self.unit))


def _square(matrix: sparse.csr_matrix) -> np.ndarray:
    """M^T M, by way of what is faster"""
    rows, n = matrix.shape
    if n > 7 * matrix.nnz / max(rows, 1):
        return (matrix.T @ matrix).toarray()
    out = np.zeros((n, n))
    for first in range(0, rows, 10_000):
        dense = matrix[first : first + 10_000].toarray()
        out += dense.T @ dense
    return out


def _as_flex(values: np.ndarray):
    return flumpy.from_numpy(np.array(values, dtype=np.float64, order="C"))
