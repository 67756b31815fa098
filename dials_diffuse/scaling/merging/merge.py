"""Merging: one intensity a voxel of the asymmetric unit from all stills, a pair of files at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.model.components import N_AZIMUTHAL, RadialOffset, Sensitivity
from dials_diffuse.scaling.expectation.patches import patch_of
from dials_diffuse.scaling.merging.merge_kernels import (
    MergeRows,
    VoxelSums,
    accumulate_ratio,
    accumulate_weighted,
    count_stills,
    deviations_from_rest,
)
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.observations.sorting import MOST_CHUNKS
from dials_diffuse.scaling.observations.source import Observations, ObservationSource

# Observations whose factors are looked up together: they fit into a processor's cache
_ROWS = 1 << 15


@dataclass
class ScaleTables:
    """Factors of all stills as look-up tables.

    Attributes:
        b: (S,)
        excluded: (S,) bool: stills that take no part
        c: (S, n_radial) or None
        d: (P,) or None
        a: flattened table, of all steps if a is a function of p_order; or None
        offset, sensitivity: components that know the bins
        step_of_still: (S,) step of each still in a; None if all have the same a
        n_threads: that look up factors
    """

    b: np.ndarray
    excluded: np.ndarray
    c: np.ndarray | None = None
    d: np.ndarray | None = None
    a: np.ndarray | None = None
    offset: RadialOffset | None = None
    sensitivity: Sensitivity | None = None
    step_of_still: np.ndarray | None = None
    n_threads: int = 1

    @classmethod
    def from_models(cls, models: list, excluded: np.ndarray, n_threads: int = 1) -> ScaleTables:
        """Tables of the scaling models of all stills, whose d is the same."""
        first = models[0].components
        tables = cls(
            b=np.array([m.components["scale"].parameters[0] for m in models]),
            excluded=np.asarray(excluded, dtype=bool),
            n_threads=n_threads,
        )
        if "offset" in first:
            tables.offset = first["offset"]
            weights = tables.offset.table_weights().T
            parameters = np.array([m.components["offset"].values() for m in models])
            tables.c = (parameters @ weights).astype(np.float32)
        if "panel" in first:
            tables.d = first["panel"].values()
        if "sensitivity" in first:
            tables.sensitivity = first["sensitivity"]
            weights = tables.sensitivity.table_weights()
            per_still = [m.components["sensitivity"] for m in models]
            different = list({id(component): component for component in per_still}.values())
            tables.a = np.concatenate([weights @ component.values() for component in different])
            if len(different) > 1:
                step = {id(component): number for number, component in enumerate(different)}
                steps = [step[id(component)] for component in per_still]
                tables.step_of_still = np.array(steps, dtype=np.int32)
        return tables

    def factors(self, obs: Observations) -> tuple[np.ndarray, np.ndarray]:
        """Inverse scale factor g = a d b and offset h = a d c of observations, (N,) each."""
        g, h = np.empty(len(obs)), np.zeros(len(obs))

        def fill(start: int) -> None:
            rows = slice(start, start + _ROWS)
            still = obs.still[rows]
            detector = np.ones(len(still))
            if self.d is not None:
                detector *= self.d.take(obs.panel[rows])
            if self.a is not None:
                direction = self.sensitivity.bin_of(obs.x[rows], obs.y[rows])
                if self.step_of_still is not None:
                    direction += self.step_of_still.take(still) * np.int32(N_AZIMUTHAL**2)
                detector *= self.a.take(direction)
            if self.c is not None:
                h[rows] = detector * self.c[still, self.offset.bin_of(obs.q[rows])]
            g[rows] = detector * self.b.take(still)

        for _ in map_in_threads(fill, range(0, len(obs), _ROWS), self.n_threads):
            pass
        return g, h


@dataclass
class Block:
    """Observations of one pair of files with their factors.

    Attributes:
        number: of the pair
        obs: observations
        rows: arrays for the compiled loops
    """

    number: int
    obs: Observations
    rows: MergeRows

    def chunks(self) -> list[slice]:
        """Rows in chunks without a common voxel, which may be merged at the same time.

        They do not depend on the number of threads; all rows are one chunk unless sorted by voxel.
        """
        index = self.rows.index
        if len(index) < MOST_CHUNKS or np.any(index[1:] < index[:-1]):
            return [slice(0, len(index))]
        middle = index[np.linspace(0, len(index), MOST_CHUNKS + 1).astype(int)[1:-1]]
        edges = [0, *np.searchsorted(index, middle).tolist(), len(index)]
        return [slice(first, last) for first, last in zip(edges[:-1], edges[1:])]


@dataclass
class Merged:
    """Merged voxels.

    Attributes:
        voxels: (V,) packed, sorted
        intensity: photons/(s sr) on the scale of b = 1, NaN where nothing is left
        variance: by propagation of the expected variances
        expected: intensity that the weights were made with
        n_obs, n_stills, exposure: (V,), exposure = sum of exposure times g
        half: (2, V) intensities of the two halves of the stills, NaN where a half is absent
        num, den: (V,) weighted sums
        variance_scatter: (V,) variance from the scatter of the observations, NaN for one alone
    """

    voxels: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    expected: np.ndarray
    n_obs: np.ndarray
    n_stills: np.ndarray
    exposure: np.ndarray
    half: np.ndarray
    num: np.ndarray
    den: np.ndarray
    variance_scatter: np.ndarray | None = None


def _ratio(num: np.ndarray, den: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(den > 0, num / den, np.nan)


def _grouped(index: np.ndarray, ok: np.ndarray, still: np.ndarray) -> tuple[np.ndarray, ...]:
    """The three, sorted by still unless they are, or are sorted by voxel and then by still."""
    if np.all(index[1:] >= index[:-1]) or np.all(still[1:] >= still[:-1]):
        return index, ok, still
    order = np.argsort(still, kind="stable")
    return index[order], ok[order], still[order]


def split_halves(used: np.ndarray, seed: int) -> np.ndarray:
    """Half set 0 or 1 of each still (S,): random, equal in number among the used ones (S,) bool."""
    half = np.zeros(len(used), dtype=np.int8)
    dealt = np.arange(np.count_nonzero(used)) % 2
    np.random.default_rng(seed).shuffle(dealt)
    half[used] = dealt
    return half


def _rows_of(columns, rows: slice):
    """Rows of an array, or of all arrays of a named tuple."""
    if isinstance(columns, np.ndarray):
        return columns[rows]
    return type(columns)(*(column[rows] for column in columns))


class Merger:
    """Merges the observations of a source with given scales.

    Args:
        source: observations
        overview: of the source
        tables: scales
        prior: function |q| -> mean intensity
        half: (S,) half set of each still
        prior_strength: photons by which expected intensities are drawn towards the prior
        readout_noise: per pixel, photons

    Attributes:
        error_b: fraction of the intensity that adds to sigma (error model)
        rejected: for each pair its outliers as packed bits, or None
    """

    def __init__(
        self,
        source: ObservationSource,
        overview: Overview,
        tables: ScaleTables,
        prior: Callable,
        half: np.ndarray,
        prior_strength: float,
        readout_noise: float,
    ):
        self.source = source
        self.overview = overview
        self.tables = tables
        self.half = half
        self.prior_strength = prior_strength
        self.readout_noise = readout_noise
        self.error_b = 0.0
        q = np.linalg.norm(source.grid.q_of_voxel(unpack_voxels(overview.voxels)), axis=1)
        self.prior_of_q = prior
        self.prior = prior(q)
        self.rejected: list[np.ndarray | None] = [None] * len(source.pairs)
        self._blocks: dict[int, Block] = {}

    def reject_patches(self, bad_patches: np.ndarray) -> None:
        """Flag the usable observations in patches (S, N_PATCHES) bool as outliers."""
        if not bad_patches.any():
            return
        affected = bad_patches.any(axis=1)
        for number, obs in enumerate(self.source):
            rows = np.flatnonzero(obs.usable & affected[obs.still])
            patch = patch_of(obs.x[rows], obs.y[rows], self.overview.extent)
            outliers = self.outliers(number, len(obs))
            outliers[rows[bad_patches[obs.still[rows], patch]]] = True
            self.rejected[number] = np.packbits(outliers)

    def outliers(self, number: int, n: int) -> np.ndarray:
        """(n,) bool: outliers among the n rows of a pair."""
        bits = self.rejected[number]
        if bits is None:
            return np.zeros(n, dtype=bool)
        return np.unpackbits(bits, count=n).astype(bool)

    def n_outliers(self) -> int:
        """Number of outliers in all pairs."""
        return sum(int(np.unpackbits(bits).sum()) for bits in self.rejected if bits is not None)

    def blocks(self) -> Iterator[Block]:
        """The observations of each pair, with their factors."""
        for number, (obs, index) in enumerate(self.source.indexed(self.overview.voxels)):
            block = self._blocks.get(number)
            if block is None:
                block = self._block(number, obs, index)
                if self.source.keeps(number):
                    self._blocks[number] = block
            if self.rejected[number] is not None:
                ok = block.rows.ok & ~self.outliers(number, len(obs))
                block = Block(number, obs, block.rows._replace(ok=ok))
            yield block

    def _block(self, number: int, obs: Observations, index: np.ndarray) -> Block:
        g, h = self.tables.factors(obs)
        rows = MergeRows(
            index=index,
            ok=obs.usable & (index >= 0) & ~self.tables.excluded[obs.still],
            still=obs.still,
            panel=obs.panel,
            counts=obs.counts,
            background=obs.background,
            net=obs.net,
            exposure=obs.exposure,
            g=g,
            h=h,
            floor=obs.variance_floor(self.readout_noise),
        )
        return Block(number, obs, rows)

    def add_in_chunks(self, kernel, block: Block, columns: tuple, *tables, sums=None) -> None:
        """Call kernel(*columns, *tables[, sums]) for each chunk of a block, in threads.

        Args:
            columns: arrays (N,) or named tuples of these, of which each chunk gets its rows
            tables: what chunks share: numbers, and arrays over voxels, changed in place by some
            sums: named tuple of arrays that all voxels have in common; added to in place
        """

        def run(rows: slice):
            arguments = [*(_rows_of(column, rows) for column in columns), *tables]
            if sums is None:
                kernel(*arguments)
                return ()
            own = type(sums)(*(np.zeros_like(total) for total in sums))
            kernel(*arguments, own)
            return own

        for own in map_in_threads(run, block.chunks(), self.tables.n_threads):
            for total, values in zip(sums or (), own):
                total += values

    def expected_intensity(self) -> np.ndarray:
        """(V,) ratio of sums in each voxel, drawn towards the prior."""
        n = len(self.overview.voxels)
        num, den = np.zeros(n), np.zeros(n)
        for block in self.blocks():
            self.add_in_chunks(accumulate_ratio, block, (block.rows,), num, den)
        k = self.prior_strength
        return (np.maximum(num, 0.0) + k) / (den + k / self.prior)

    def merge(self) -> Merged:
        """Merge all observations, which are read twice: for expected variances and for means."""
        n = len(self.overview.voxels)
        expected = self.expected_intensity()
        n_obs, n_stills = (np.zeros(n, dtype=np.int32) for _ in range(2))
        sums = VoxelSums(np.zeros((2, n)), np.zeros((2, n)), np.zeros(n), n_obs)
        last = np.full(n, -1, dtype=np.int32)
        for block in self.blocks():
            rows = block.rows
            self.add_in_chunks(
                accumulate_weighted, block, (rows,), self.half, expected, self.error_b, sums
            )
            grouped = _grouped(rows.index, rows.ok, rows.still)
            self.add_in_chunks(count_stills, block, grouped, last, n_stills)
        num, den = sums.num.sum(axis=0), sums.den.sum(axis=0)
        return Merged(
            voxels=self.overview.voxels,
            intensity=_ratio(num, den),
            variance=_ratio(np.ones(n), den),
            expected=expected,
            n_obs=n_obs,
            n_stills=n_stills,
            exposure=sums.exposure,
            half=_ratio(sums.num, sums.den),
            num=num,
            den=den,
        )

    def reject_outliers(self, cutoff: float, n_rounds: int = 5) -> Merged:
        """Flag observations that deviate by more than cutoff sigma from the others of their voxel.

        An outlier shifts the mean, so that others seem to deviate: in each round only those are
        flagged that deviate nearly as much as the worst of their voxel, then all is merged again.

        Returns:
            the voxels merged without them
        """
        merged = self.merge()
        for _ in range(n_rounds):
            worst = np.zeros(len(self.overview.voxels))
            for block in self.blocks():
                z = self._deviations(block, merged)
                far = np.flatnonzero(z > cutoff)
                np.maximum.at(worst, block.rows.index[far], z[far])
            if not worst.any():
                break
            for block in self.blocks():
                z = self._deviations(block, merged)
                far = np.flatnonzero(z > cutoff)
                far = far[z[far] >= 0.7 * worst[block.rows.index[far]]]
                if len(far):
                    outliers = self.outliers(block.number, len(block.obs))
                    outliers[far] = True
                    self.rejected[block.number] = np.packbits(outliers)
            merged = self.merge()
        return merged

    def _deviations(self, block: Block, merged: Merged) -> np.ndarray:
        """(N,) absolute deviations from the rest of the voxel, in sigma."""
        z = np.empty(len(block.obs))
        self.add_in_chunks(
            deviations_from_rest,
            block,
            (block.rows, z),
            merged.expected,
            self.error_b,
            self.prior,
            merged.num,
            merged.den,
        )
        return np.abs(z, out=z)
