"""The functional of a fit as a function of its parameters, with gradient and normal matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.model.components import N_AZIMUTHAL
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.refinement.arrow import Arrow
from dials_diffuse.scaling.refinement.kernels import (
    FitData,
    Linearised,
    curvatures,
    functional_and_gradient,
    linearise,
    normal_product,
    squares_of,
)
from dials_diffuse.scaling.refinement.parameters import Parameters, Part

# Coarse bins of directions along x and y, and the coarse bin of each bin of the table a
N_COARSE = 24
_J, _I = np.divmod(np.arange(N_AZIMUTHAL**2), N_AZIMUTHAL)
COARSE = (_J * N_COARSE // N_AZIMUTHAL) * N_COARSE + _I * N_COARSE // N_AZIMUTHAL

# Most chunks of observations, each with sums of its own
MOST_CHUNKS = 8


def chunks_of(data: FitData, n_sums: int) -> list[slice]:
    """Ranges of voxels with about as many observations each, whose sums are made separately.

    They do not depend on the number of threads, and are few if the sums are large compared with the data.

    Args:
        n_sums: numbers that each chunk sums up
    """
    n_obs, n_voxels = len(data.rows), len(data.prior)
    n = int(np.clip(n_obs // (8 * n_sums), 1, MOST_CHUNKS))
    edges = np.searchsorted(data.start, np.linspace(0, n_obs, n + 1)[1:-1])
    edges = [0, *edges.tolist(), n_voxels]
    return [slice(first, last) for first, last in zip(edges[:-1], edges[1:])]


def sum_over_chunks(
    data: FitData, empty: Callable, add: Callable, n_threads: int, n_sums: int | None = None
):
    """Sum up in threads what a loop adds to arrays of its own in each chunk.

    Args:
        empty: makes the arrays, a tuple
        add: add(data of the chunk, the chunk's voxels, arrays) -> a number, or None
        n_sums: numbers in all arrays; None: they are counted

    Returns:
        (sum of the numbers, arrays)
    """
    if n_sums is None:
        n_sums = max(sum(array.size for array in empty()), 1)

    def run(voxels: slice):
        arrays = empty()
        return add(data.of_voxels(voxels), voxels, arrays), arrays

    number, total = 0.0, None
    for value, arrays in map_in_threads(run, chunks_of(data, n_sums), n_threads):
        number += value or 0.0
        if total is None:
            total = arrays
            continue
        for array, other in zip(total, arrays):
            array += other
    return number, total


class Objective:
    """Weighted squares of residuals and priors, as a function of the parameters.

    Args:
        data: observations with weights
        parameters: what is refined
        n_threads: that share the work; the result does not depend on it

    Attributes:
        intensity, information: (V,) at the last evaluation
        sum_of_squares: of the residuals over sigma at the last evaluation
        n_passes: over the observations so far
    """

    def __init__(self, data: FitData, parameters: Parameters, n_threads: int = 1):
        self.data, self.parameters, self.n_threads = data, parameters, n_threads
        self.intensity, self.information = np.zeros(len(data.prior)), np.zeros(len(data.prior))
        self.sum_of_squares, self.n_passes = 0.0, 0
        self._linear: Linearised | None = None

    def evaluate(self) -> tuple[float, np.ndarray]:
        """(functional, half its gradient by x) at the present parameters."""
        self._linear = None
        tables = self.parameters.tables()

        def add(data: FitData, voxels: slice, arrays: tuple) -> float:
            out = self.intensity[voxels], self.information[voxels]
            return functional_and_gradient(data, tables, *out, ScaleTables(*arrays, tables.step))

        self.sum_of_squares, (b, c, d, a) = self._sum(tables, add)
        by_tables = ScaleTables(b, c, d / tables.d, a / tables.a, tables.step)
        gradient = -self.parameters.gradient(by_tables)
        gradient += self.parameters.prior_half_gradient()
        return self.sum_of_squares + self.parameters.prior_value(), gradient

    def product(self, x: np.ndarray) -> np.ndarray:
        """(n,): the normal matrix at the last evaluation, times x."""
        tables, shift = self.parameters.tables(), self.parameters.shifts(x)
        shift = shift._replace(d=shift.d / tables.d, a=shift.a / tables.a)
        if self._linear is None:
            self._linear = self._linearise(tables)

        def add(data: FitData, voxels: slice, arrays: tuple) -> None:
            linear = self._linear.of_voxels(voxels)
            out = ScaleTables(*arrays, tables.step)
            normal_product(linear, data.rows, tables.step, shift, out)

        _, (b, c, d, a) = self._sum(tables, add)
        out = ScaleTables(b, c, d / tables.d, a / tables.a, tables.step)
        return self.parameters.gradient(out) + self.parameters.prior_product(x)

    def _linearise(self, tables: ScaleTables) -> Linearised:
        drawn = np.empty(len(self.data.prior))
        size, signal = (np.empty(len(self.data.rows), dtype=np.float32) for _ in range(2))

        def fill(voxels: slice) -> None:
            rows = slice(self.data.start[voxels.start], self.data.start[voxels.stop])
            known = self.intensity[voxels], self.information[voxels]
            out = drawn[voxels], size[rows], signal[rows]
            linearise(self.data.of_voxels(voxels), tables, *known, *out)

        list(map_in_threads(fill, chunks_of(self.data, 1), self.n_threads))
        return Linearised(self.data.start, self.information, drawn, size, signal, tables.b)

    def squares(self) -> np.ndarray:
        """(N,): what each observation contributes to the functional."""
        out, tables = np.empty(len(self.data.rows)), self.parameters.tables()

        def fill(voxels: slice) -> None:
            rows = slice(self.data.start[voxels.start], self.data.start[voxels.stop])
            squares_of(self.data.of_voxels(voxels), tables, out[rows])

        list(map_in_threads(fill, chunks_of(self.data, 1), self.n_threads))
        return out

    def _sum(self, tables: ScaleTables, add: Callable):
        self.n_passes += 1
        return sum_over_chunks(self.data, lambda: tables.zeros()[:4], add, self.n_threads)

    def curvatures(self) -> tuple[ScaleTables, np.ndarray, np.ndarray]:
        """Diagonal of the tables' normal matrix, and elements between b and c, and of the detector."""
        tables, parts = self.parameters.tables(), self.parameters.parts
        size = N_COARSE**2 + len(tables.d) if {"panel", "sensitivity"} & set(parts) else 1

        def empty() -> tuple:
            return (*tables.zeros()[:4], np.zeros_like(tables.c), np.zeros((size, size)))

        def add(data: FitData, voxels: slice, arrays: tuple) -> None:
            known = self.intensity[voxels], self.information[voxels]
            diagonal = ScaleTables(*arrays[:4], tables.step)
            curvatures(data, tables, *known, diagonal, *arrays[4:], COARSE)

        self.n_passes += 1
        _, arrays = sum_over_chunks(self.data, empty, add, self.n_threads)
        return (ScaleTables(*arrays[:4], tables.step), *arrays[4:])


class Preconditioner:
    """The arrow matrix of an objective at its last evaluation.

    Free parameters are those for which this matrix is the unit matrix.

    Args:
        objective: evaluated

    Raises:
        ValueError: the observations do not determine the model.
    """

    def __init__(self, objective: Objective):
        self.parameters = objective.parameters
        parts = self.parameters.parts
        self._own = [part for part in parts.values() if part.by_still]
        self._shared = [part for part in parts.values() if not part.by_still]
        diagonal, cross, self._detector = objective.curvatures()
        self.diagonal = {
            name: Parameters.matrix(name, getattr(diagonal, table))
            for name, table in (
                ("scale", "b"),
                ("offset", "c"),
                ("panel", "d"),
                ("sensitivity", "a"),
            )
        }
        self._cross = cross[:, :-1]
        self.arrow = Arrow(*self._blocks(len(diagonal.b)))

    def _blocks(self, n_stills: int):
        own = self._matrices(n_stills, self._own, self._own)
        first = 0
        for part in self._own:
            last = first + part.values.shape[1]
            own[:, first:last, first:last] += part.prior.precision
            first = last
        n = sum(part.values.size for part in self._shared)
        shared = np.zeros((n, n))
        cross = [np.zeros((n_stills, 0, own.shape[1]))]
        ends = np.cumsum([0] + [part.values.size for part in self._shared])
        for part, first, last in zip(self._shared, ends[:-1], ends[1:]):
            shared[first:last, first:last] = self._normal(part)
            rows = self._matrices(n_stills, [part], self._own)
            if part.name in ("scale", "offset"):
                rows = np.einsum("si,spm->sipm", part.along, rows)
            else:
                rows = np.zeros((n_stills, last - first, own.shape[1]))
            cross.append(rows.reshape(n_stills, last - first, own.shape[1]))
            for other, begin, end in zip(self._shared, ends[:-1], ends[1:]):
                if begin > first:
                    block = self._between(part, other)
                    shared[first:last, begin:end] = block
                    shared[begin:end, first:last] = block.T
        return own, shared, np.concatenate(cross, axis=1)

    def _normal(self, part: Part) -> np.ndarray:
        """(n, n): normal matrix of a part that stills share, prior included."""
        if part.name in ("panel", "sensitivity") and part.along is None:
            across = self._over_detector(part)
            return across.T @ self._detector @ across + part.dense_prior()
        return part.normal(self.diagonal[part.name])

    def _over_detector(self, part: Part) -> np.ndarray:
        """(C + P, n): coarse bins of a and panels, as they follow from the parameters of d or a(x, y)."""
        n_panels, n = len(self._detector) - N_COARSE**2, part.values.shape[1]
        out = np.zeros((len(self._detector), n))
        if part.name == "panel":
            out[-n_panels:] = np.eye(n)
        else:
            n_fine = np.bincount(COARSE)
            columns = [np.bincount(COARSE, column) / n_fine for column in part.across.T]
            out[: N_COARSE**2] = np.array(columns).T
        return out

    def _matrices(self, n_stills: int, parts: list[Part], others: list[Part]) -> np.ndarray:
        """(S, m, k): elements of each still's normal matrix between b and c of two lists of parts."""
        blocks = []
        for part in parts:
            row = [np.zeros((n_stills, part.values.shape[1], 0))]
            for other in others:
                if part.name == other.name:
                    row.append(part.by_row(self.diagonal[part.name]))
                elif {part.name, other.name} == {"scale", "offset"}:
                    offset = part if part.name == "offset" else other
                    between = (self._cross @ offset.across)[:, None]
                    row.append(between if part.name == "scale" else np.swapaxes(between, 1, 2))
                else:
                    row.append(np.zeros((n_stills, part.values.shape[1], other.values.shape[1])))
            blocks.append(np.concatenate(row, axis=2))
        if not blocks:
            return np.zeros((n_stills, 0, sum(other.values.shape[1] for other in others)))
        return np.concatenate(blocks, axis=1)

    def _between(self, part: Part, other: Part) -> np.ndarray:
        """Elements of the normal matrix between two parts that stills share."""
        if {part.name, other.name} == {"scale", "offset"}:
            rows = self._matrices(len(self._cross), [part], [other])
            out = np.einsum("si,sj,spq->ipjq", part.along, other.along, rows, optimize=True)
            return out.reshape(part.values.size, other.values.size)
        if (part.name, other.name) == ("panel", "sensitivity") and other.along is None:
            return self._over_detector(part).T @ self._detector @ self._over_detector(other)
        return np.zeros((part.values.size, other.values.size))

    def _stacked(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slices = self.parameters.slices
        n_stills = len(self.arrow.own)
        own = [x[slices[part.name]].reshape(n_stills, -1) for part in self._own]
        shared = [x[slices[part.name]] for part in self._shared]
        return (
            np.concatenate([np.zeros((n_stills, 0)), *own], axis=1),
            np.concatenate([np.zeros(0), *shared]),
        )

    def _flat(self, own: np.ndarray, shared: np.ndarray) -> np.ndarray:
        out = np.empty(self.parameters.n)
        slices, first = self.parameters.slices, 0
        for part in self._own:
            last = first + part.values.shape[1]
            out[slices[part.name]] = own[:, first:last].ravel()
            first = last
        first = 0
        for part in self._shared:
            last = first + part.values.size
            out[slices[part.name]] = shared[first:last]
            first = last
        return out

    def from_free(self, free: np.ndarray) -> np.ndarray:
        """Changes of x (n,) for changes of the free parameters (n,)."""
        return self._flat(*self.arrow.from_free(*self._stacked(free)))

    def by_free(self, gradient: np.ndarray) -> np.ndarray:
        """Derivatives by the free parameters (n,) from those by x (n,)."""
        return self._flat(*self.arrow.by_free(*self._stacked(gradient)))

    def still_covariances(self) -> np.ndarray:
        """(S, k, k): covariances of b and the k - 1 parameters of c(|q|) of each still.

        c(|q|) that is not refined has none (k = 1), and b that is not refined has zeros.
        """
        parts = self.parameters.parts
        n_stills = len(self._cross)
        kinds = [parts[name] for name in ("scale", "offset") if name in parts]
        own = self.arrow.covariances()
        sizes = {"scale": 1, "offset": parts["offset"].values.shape[1] if "offset" in parts else 0}
        # d(b, c of a still) / d(own parameters of the still), / d(shared ones)
        k = 1 + sizes["offset"]
        by_own = np.zeros((k, own.shape[1]))
        by_shared = np.zeros((n_stills, k, len(self.arrow.shared)))
        first_own = first_shared = 0
        for part in [p for p in (*self._own, *self._shared) if p in kinds]:
            rows = slice(0, 1) if part.name == "scale" else slice(1, k)
            n = sizes[part.name]
            if part.by_still:
                by_own[rows, first_own : first_own + n] = np.eye(n)
                first_own += n
        for part in self._shared:
            n = part.values.size
            if part in kinds:
                rows = slice(0, 1) if part.name == "scale" else slice(1, k)
                weights = np.einsum("si,pq->spiq", part.along, np.eye(sizes[part.name]))
                by_shared[:, rows, first_shared : first_shared + n] = weights.reshape(
                    n_stills, sizes[part.name], n
                )
            first_shared += n
        total = by_shared + by_own @ self.arrow.slopes
        out = by_own @ self.arrow.own @ by_own.T
        return out + np.einsum("skn,nm,slm->skl", total, self.arrow.shared, total, optimize=True)

    def covariance_of(self, name: str) -> np.ndarray:
        """(n, n): covariances of the parameters of a component that stills share."""
        first = 0
        for part in self._shared:
            last = first + part.values.size
            if part.name == name:
                return self.arrow.shared[first:last, first:last]
            first = last
        raise KeyError(name)
