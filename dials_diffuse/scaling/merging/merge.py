"""Merging: one intensity a voxel of the asymmetric unit, from all stills, pair by pair."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.model.components import N_AZIMUTHAL
from dials_diffuse.scaling.expectation.patches import patch_of
from dials_diffuse.scaling.merging.merge_kernels import (
    accumulate_ratio,
    accumulate_weighted,
    count_stills,
    deviations_from_rest,
)
from dials_diffuse.scaling.observations.overview import Survey
from dials_diffuse.scaling.observations.source import Observations, ObservationSource

logger = logging.getLogger("dials.diffuse.scaling.merge")

# Of the rows of a pair, for threads
MOST_PARTS = 8
# Observations whose factors are looked up together: they fit into a processor's cache
_ROWS = 1 << 15


@dataclass
class ScaleTables:
    """Factors of all stills in the form in which millions of observations look them up.

    Attributes:
        b: (S,) ; c: (S, n_radial) or None; d: (P,) or None; a: flattened table or None
        offset, sensitivity: components that know the bins
        place: (S,) which of the tables in a is the still's, None where all have one
        excluded: (S,) bool: stills that take no part
        n_threads: that look up factors
    """

    b: np.ndarray
    excluded: np.ndarray
    c: np.ndarray | None = None
    d: np.ndarray | None = None
    a: np.ndarray | None = None
    offset: object = None
    sensitivity: object = None
    place: np.ndarray | None = None
    n_threads: int = 1

    @classmethod
    def of_models(cls, models: list, excluded: np.ndarray) -> ScaleTables:
        """From the scaling models of all stills; d is the first model's, and so is a where all have
        the same component"""
        first = models[0].components
        tables = cls(
            b=np.array([m.components["scale"].parameters[0] for m in models]),
            excluded=np.asarray(excluded, dtype=bool),
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
            each = [m.components["sensitivity"] for m in models]
            different = list({id(component): component for component in each}.values())
            tables.a = np.concatenate([weights @ component.values() for component in different])
            if len(different) > 1:
                row = {id(component): number for number, component in enumerate(different)}
                tables.place = np.array([row[id(component)] for component in each], dtype=np.int32)
        return tables

    def factors(self, obs: Observations) -> tuple[np.ndarray, np.ndarray]:
        """Inverse scale factor g = a d b and offset h = a d c of observations, (N,) each"""
        g, h = np.empty(len(obs)), np.zeros(len(obs))

        def fill(start: int) -> None:
            rows = slice(start, start + _ROWS)
            still = obs.still[rows]
            detector = np.ones(len(still))
            if self.d is not None:
                detector *= self.d.take(obs.panel[rows])
            if self.a is not None:
                direction = self.sensitivity.bin_of(obs.x[rows], obs.y[rows])
                if self.place is not None:
                    direction += self.place.take(still) * np.int32(N_AZIMUTHAL**2)
                detector *= self.a.take(direction)
            if self.c is not None:
                h[rows] = detector * self.c[still, self.offset.bin_of(obs.q[rows])]
            g[rows] = detector * self.b.take(still)

        for _ in map_in_threads(fill, range(0, len(obs), _ROWS), self.n_threads):
            pass
        return g, h


@dataclass
class Block:
    """Observations of one pair with their factors.

    Attributes:
        number: of the pair
        index: (N,) position of the voxel, -1 for none
        ok: (N,) bool: takes part in merging
        y: counts less background
        g, h: inverse scale factor and offset
        floor: variance besides that of the signal
    """

    number: int
    obs: Observations
    index: np.ndarray
    ok: np.ndarray
    y: np.ndarray
    g: np.ndarray
    h: np.ndarray
    floor: np.ndarray

    def parts(self) -> list[slice]:
        """Rows in parts without a voxel in common, which may be merged at the same time: the same whatever
        the number of threads; all in one unless sorted by voxel"""
        if len(self.index) < MOST_PARTS or np.any(self.index[1:] < self.index[:-1]):
            return [slice(0, len(self.index))]
        middle = self.index[np.linspace(0, len(self.index), MOST_PARTS + 1).astype(int)[1:-1]]
        edges = [0, *np.searchsorted(self.index, middle).tolist(), len(self.index)]
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


def _grouped(index: np.ndarray, ok: np.ndarray, still: np.ndarray):
    """The three, sorted by still unless they are, or are sorted by voxel and then by still"""
    if np.all(index[1:] >= index[:-1]) or np.all(still[1:] >= still[:-1]):
        return index, ok, still
    order = np.argsort(still, kind="stable")
    return index[order], ok[order], still[order]


def split_halves(used: np.ndarray, seed: int) -> np.ndarray:
    """Half 0 or 1 of each still (S,): random, equal in number among those used, (S,) bool"""
    half = np.zeros(len(used), dtype=np.int8)
    dealt = np.arange(np.count_nonzero(used)) % 2
    np.random.default_rng(seed).shuffle(dealt)
    half[used] = dealt
    return half


class Merger:
    """Merges what a source holds with given scales.

    Args:
        source: observations
        survey: of the source
        tables: scales
        prior: function |q| -> mean intensity
        half: (S,) half of each still
        prior_strength: photons that the expected variance owes to the prior
        readout_noise: per pixel, photons
        error_b: part of the intensity that is added to sigma (error model)

    Attributes:
        rejected: for each pair its outliers as packed bits, or None
    """

    def __init__(
        self,
        source: ObservationSource,
        survey: Survey,
        tables: ScaleTables,
        prior,
        half: np.ndarray,
        prior_strength: float = 2.0,
        readout_noise: float = 0.0,
        error_b: float = 0.0,
    ):
        self.source = source
        self.survey = survey
        self.tables = tables
        self.half = half
        self.prior_strength = prior_strength
        self.readout_noise = readout_noise
        self.error_b = error_b
        q = np.linalg.norm(source.grid.q_of_voxel(unpack_voxels(survey.voxels)), axis=1)
        self.prior_of_q = prior
        self.prior = prior(q)
        self.rejected: list[np.ndarray | None] = [None] * len(source.pairs)
        self._blocks: dict[int, Block] = {}

    def reject_patches(self, bad_patches: np.ndarray) -> None:
        """Flag the usable observations in patches (S, N_PATCHES) bool of stills."""
        if not bad_patches.any():
            return
        affected = bad_patches.any(axis=1)
        for number, obs in enumerate(self.source):
            rows = np.flatnonzero(obs.usable & affected[obs.still])
            patch = patch_of(obs.x[rows], obs.y[rows], self.survey.extent)
            outliers = self.outliers(number, len(obs))
            outliers[rows[bad_patches[obs.still[rows], patch]]] = True
            self.rejected[number] = np.packbits(outliers)

    def outliers(self, number: int, n: int) -> np.ndarray:
        """(N,) bool: outliers among the n rows of a pair"""
        bits = self.rejected[number]
        if bits is None:
            return np.zeros(n, dtype=bool)
        return np.unpackbits(bits, count=n).astype(bool)

    def n_outliers(self) -> int:
        """Outliers in all pairs"""
        return sum(int(np.unpackbits(bits).sum()) for bits in self.rejected if bits is not None)

    def blocks(self) -> Iterator[Block]:
        """The observations pair by pair, with their factors"""
        for number, (obs, index) in enumerate(self.source.indexed(self.survey.voxels)):
            block = self._blocks.get(number)
            if block is None:
                g, h = self.tables.factors(obs)
                floor = (
                    np.maximum(obs.background, 0.0)
                    + obs.background_variance
                    + obs.n_pixels * self.readout_noise**2
                )
                ok = obs.usable & (index >= 0) & ~self.tables.excluded[obs.still]
                block = Block(number, obs, index, ok, obs.counts - obs.background, g, h, floor)
                if self.source.keeps(number):
                    self._blocks[number] = block
            if self.rejected[number] is not None:
                block = replace(block, ok=block.ok & ~self.outliers(number, len(obs)))
            yield block

    def _in_parts(self, kernel, block: Block, columns: tuple[np.ndarray, ...], *tables) -> None:
        """Call kernel(columns, tables) with the rows of each part of a block in threads

        Args:
            columns: (N,) arrays; tables: what parts share, arrays over voxels among them
        """
        self.add_in_parts(kernel, block, columns, tables, ())

    def add_in_parts(
        self,
        kernel,
        block: Block,
        columns: tuple[np.ndarray, ...],
        tables: tuple,
        sums: tuple[np.ndarray, ...],
    ) -> None:
        """Call kernel(columns, tables, sums) with the rows of each part of a block in threads

        Args:
            columns: (N,) arrays; tables: what parts share, arrays over voxels among them
            sums: arrays that are added to, and that voxels have in common
        """

        def of_part(rows: slice) -> list[np.ndarray]:
            own = [np.zeros_like(total) for total in sums]
            kernel(*(column[rows] for column in columns), *tables, *own)
            return own

        for of_rows in map_in_threads(of_part, block.parts(), self.tables.n_threads):
            for total, more in zip(sums, of_rows):
                total += more

    def expected_intensity(self) -> np.ndarray:
        """Ratio of sums in each voxel, drawn towards the prior: (V,)"""
        n = len(self.survey.voxels)
        num, den = np.zeros(n), np.zeros(n)
        for block in self.blocks():
            columns = (block.index, block.ok, block.y, block.obs.exposure, block.g, block.h)
            self._in_parts(accumulate_ratio, block, columns, num, den)
        k = self.prior_strength
        return (np.maximum(num, 0.0) + k) / (den + k / self.prior)

    def merge(self) -> Merged:
        """Read everything twice: for the expected variances, then for the weighted means."""
        n = len(self.survey.voxels)
        expected = self.expected_intensity()
        num, den = np.zeros((2, n)), np.zeros((2, n))
        exposure = np.zeros(n)
        n_obs, n_stills = (np.zeros(n, dtype=np.int32) for _ in range(2))
        last = np.full(n, -1, dtype=np.int32)
        for block in self.blocks():
            obs = block.obs
            columns = (
                block.index,
                block.ok,
                self.half[obs.still],
                block.y,
                obs.exposure,
                block.g,
                block.h,
                block.floor,
            )

            self._in_parts(
                accumulate_weighted,
                block,
                columns,
                expected,
                self.error_b,
                num,
                den,
                exposure,
                n_obs,
            )
            self._in_parts(
                count_stills, block, _grouped(block.index, block.ok, obs.still), last, n_stills
            )
        total_num, total_den = num.sum(axis=0), den.sum(axis=0)
        return Merged(
            voxels=self.survey.voxels,
            intensity=_ratio(total_num, total_den),
            variance=_ratio(np.ones(n), total_den),
            expected=expected,
            n_obs=n_obs,
            n_stills=n_stills,
            exposure=exposure,
            half=_ratio(num, den),
            num=total_num,
            den=total_den,
        )

    def reject_outliers(self, cutoff: float, n_rounds: int = 5) -> Merged:
        """Flag observations further than cutoff sigma from the others of their voxel.

        One that is far off moves the mean, so that others look wrong: in each round only
        those nearly as far off as the worst of their voxel go, then all is merged again.

        Returns:
            what is merged without them
        """
        merged = self.merge()
        for _ in range(n_rounds):
            worst = np.zeros(len(self.survey.voxels))
            found = False
            for flag in (False, True):
                for block in self.blocks():
                    z = self._deviations(block, merged)
                    np.abs(z, out=z)
                    far = np.flatnonzero(z > cutoff)
                    if not flag:
                        np.maximum.at(worst, block.index[far], z[far])
                        continue
                    far = far[z[far] >= 0.7 * worst[block.index[far]]]
                    if len(far):
                        found = True
                        outliers = self.outliers(block.number, len(block.obs))
                        outliers[far] = True
                        self.rejected[block.number] = np.packbits(outliers)
                if not worst.any():
                    break
            if not found:
                break
            merged = self.merge()
        return merged

    def _deviations(self, block: Block, merged: Merged) -> np.ndarray:
        z = np.empty(len(block.obs))
        columns = (
            block.index,
            block.ok,
            block.obs.counts,
            block.obs.background,
            block.obs.exposure,
            block.g,
            block.h,
            block.floor,
            z,
        )
        self._in_parts(
            deviations_from_rest,
            block,
            columns,
            merged.expected,
            self.error_b,
            self.prior,
            merged.num,
            merged.den,
        )
        return z
