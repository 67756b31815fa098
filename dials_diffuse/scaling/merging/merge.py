"""Merging: one intensity a voxel of the asymmetric unit from all stills, in one pass with the statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.grid.shells import ResolutionShells, isotropic_part
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.model.components import N_AZIMUTHAL
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.expectation.variance import expected_intensities, neighbours
from dials_diffuse.scaling.merging.halves import Halves
from dials_diffuse.scaling.merging.merge_kernels import (
    StatisticSums,
    Still,
    VoxelSums,
    VoxelTables,
    add_ratios,
    merge_voxels,
)
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.observations.sorted_rows import SortedRows

# Side of the image of residuals over the direction of s1
N_DIRECTIONS = 48
N_SHELLS = 10


@dataclass
class Merged:
    """Merged voxels.

    Attributes:
        voxels: (V,) packed
        intensity: photons/(s sr) on the scale of b = 1, NaN where nothing is left
        variance: by propagation of the expected variances
        n_obs, n_stills, exposure: (V,), exposure = sum of exposure times g
        masked_fraction: (V,) share of each voxel's exposure that lies under the Bragg mask
        half: (2, V) intensities of the two halves of the stills, NaN where a half is absent
        variance_scatter: (V,) variance from the scatter of the observations, NaN for one alone
        variance_jackknife: (V,) variance from leaving out groups of stills, NaN for one group
        isotropic: (V,) mean of the map at each voxel's |q|
        shell: (V,) int64 resolution shell, -1 for none
        shells: resolution shells
        sums: for the statistics
    """

    voxels: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    n_obs: np.ndarray
    n_stills: np.ndarray
    exposure: np.ndarray
    masked_fraction: np.ndarray
    half: np.ndarray
    variance_scatter: np.ndarray
    variance_jackknife: np.ndarray
    isotropic: np.ndarray
    shell: np.ndarray
    shells: ResolutionShells
    sums: StatisticSums


def _ratio(num: np.ndarray, den: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(den > 0, num / den, np.nan)


class Voxels:
    """What merging knows of the voxels, whatever the scales are.

    Args:
        rows: observations; grid: of the voxels

    Attributes:
        voxel: (V, 3); q: (V,) |q| in 1/Angstrom; multiplicity: (V,) symmetry-equivalent voxels
        nearest: (6, V) places of the nearest voxels
    """

    def __init__(self, rows: SortedRows, grid: VoxelGrid):
        self.grid = grid
        self.voxel = unpack_voxels(rows.voxels)
        self.q = np.linalg.norm(grid.q_of_voxel(self.voxel), axis=1)
        self.multiplicity = grid.multiplicity(self.voxel)
        self.nearest = neighbours(rows)


class Merger:
    """Merges observations with given scales.

    Args:
        overview: observations
        voxels: of the observations
        tables: scales
        excluded: (S,) bool: stills that take no part
        bad_patches: (S, patches) bool, whose observations are outliers
        halves: half sets and groups of the stills
        prior_strength: photons by which expected intensities are drawn towards those around them
        n_threads: that share the work

    Attributes:
        rejected: outliers of each range of voxels, as packed bits; empty before the first pass
        n_found: outliers that the last pass found, without patches
    """

    def __init__(
        self,
        overview: Overview,
        voxels: Voxels,
        tables: ScaleTables,
        excluded: np.ndarray,
        bad_patches: np.ndarray,
        halves: Halves,
        prior_strength: float,
        n_threads: int = 1,
    ):
        self.overview, self.voxels, self.tables = overview, voxels, tables
        self.excluded, self.prior_strength, self.n_threads = excluded, prior_strength, n_threads
        self._still = Still(excluded, bad_patches, halves.half, halves.group)
        self.prior_of_q = overview.prior(tables.b)
        self._prior = self.prior_of_q(voxels.q)
        self._chunks = overview.rows.chunks()
        self.rejected: list[np.ndarray] = []
        self.n_found = 0

    def _rejected(self, number: int, n: int) -> np.ndarray:
        """(n,) bool: outliers of a range of voxels; empty before the first pass"""
        if not self.rejected:
            return np.zeros(0, dtype=bool)
        return np.unpackbits(self.rejected[number], count=n).astype(bool)

    def n_outliers(self) -> int:
        """Number of outliers, patches that were left out included."""
        return sum(int(np.unpackbits(bits).sum()) for bits in self.rejected)

    def outliers(self, still_range: tuple[int, int], n_rows: int) -> np.ndarray:
        """(n_rows,) bool: outliers in the table of a pair of files.

        Args:
            still_range: first still of the pair, and of the next one
            n_rows: of the table
        """
        out = np.zeros(n_rows, dtype=bool)
        for number, voxels in enumerate(self._chunks if self.rejected else []):
            if self.rejected[number].any():
                rows = self.overview.rows.rows(voxels)
                rows = rows[self._rejected(number, len(rows))]
                mine = (rows["still"] >= still_range[0]) & (rows["still"] < still_range[1])
                out[rows["row"][mine]] = True
        return out

    def _expected(self) -> tuple[np.ndarray, np.ndarray]:
        """(V,) intensities for the weights, and plain ratios of sums."""
        sums = np.zeros((3, len(self._prior)))
        rows, starts = self.overview.rows, self.overview.rows.start

        def add(item: tuple[int, slice]) -> None:
            number, voxels = item
            own = rows.rows(voxels)
            start = starts[voxels.start : voxels.stop + 1] - starts[voxels.start]
            rejected = self._rejected(number, len(own))
            add_ratios(start, own, self.tables, self._still, rejected, sums[:, voxels])

        list(map_in_threads(add, enumerate(self._chunks), self.n_threads))
        expected = expected_intensities(self.voxels.nearest, sums, self._prior, self.prior_strength)
        return expected, _ratio(*sums[:2])

    def _empty_sums(self) -> StatisticSums:
        overview = self.overview
        shapes = (
            (N_SHELLS, 6),
            (overview.n_panels, 5),
            (overview.n_stills_in, 9),
            (N_DIRECTIONS**2, 2),
            (80, 3),
            (1, 200),
        )
        return StatisticSums(*(np.zeros(shape) for shape in shapes))

    def merge(self, cutoff: float = 0.0, error_b: float = 0.0) -> Merged:
        """Merge all observations.

        Args:
            cutoff: reject outliers anew that deviate by more sigma than this; 0: keep those known
            error_b: fraction of the intensity that adds to sigma (error model)
        """
        expected, ratio = self._expected()
        known = self.voxels
        isotropic = isotropic_part(known.voxel, ratio, known.grid, multiplicity=known.multiplicity)
        shells, shell = _shells(known.q, np.isfinite(ratio), known.grid)
        tables = VoxelTables(expected, self._prior, isotropic, shell.astype(float))
        n = len(self._prior)
        out = VoxelSums(np.zeros((n, 2)), np.zeros((n, 2)), *(np.zeros(n) for _ in range(5)))
        total = self._empty_sums()
        rows, starts = self.overview.rows, self.overview.rows.start
        direction = _coarse_directions()

        def run(item: tuple[int, slice]):
            number, voxels = item
            own = rows.rows(voxels)
            start = starts[voxels.start : voxels.stop + 1] - starts[voxels.start]
            rejected = np.zeros(len(own), dtype=bool)
            if not cutoff and self.rejected:
                rejected = self._rejected(number, len(own))
            sums = self._empty_sums()
            n_found = merge_voxels(
                start,
                own,
                self.tables,
                self._still,
                VoxelTables(*(table[voxels] for table in tables)),
                (float(cutoff), float(error_b)),
                direction,
                VoxelSums(*(array[voxels] for array in out)),
                sums,
                rejected,
            )
            return np.packbits(rejected), sums, n_found

        all_rejected, self.n_found = [], 0
        for bits, sums, n_found in map_in_threads(run, enumerate(self._chunks), self.n_threads):
            all_rejected.append(bits)
            self.n_found += n_found
            for array, values in zip(total, sums):
                array += values
        self.rejected = all_rejected
        num, den = out.num.sum(axis=1), out.den.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            scatter = np.where(out.n_obs > 1, out.scatter / (out.n_obs - 1) / den, np.nan)
        return Merged(
            voxels=rows.voxels,
            intensity=_ratio(num, den),
            variance=_ratio(np.ones(n), den),
            n_obs=out.n_obs.astype(np.int32),
            n_stills=out.n_stills.astype(np.int32),
            exposure=out.exposure,
            masked_fraction=self.overview.masked_fraction,
            half=_ratio(out.num.T, out.den.T),
            variance_scatter=scatter,
            variance_jackknife=out.jackknife,
            isotropic=isotropic,
            shell=shell,
            shells=shells,
            sums=total,
        )


def _coarse_directions() -> np.ndarray:
    """(N_AZIMUTHAL^2,) bin of the image of residuals for each bin of the table a"""
    j, i = np.divmod(np.arange(N_AZIMUTHAL**2), N_AZIMUTHAL)
    step = N_AZIMUTHAL // N_DIRECTIONS
    return (j // step) * N_DIRECTIONS + i // step


def _shells(q: np.ndarray, measured: np.ndarray, grid):
    """(ResolutionShells of the measured voxels (V,) bool, shell (V,) of each voxel at |q| (V,))."""
    q_min, q_max = q[measured].min(), q[measured].max()
    if grid.d_min is not None:
        q_max = min(q_max, 1 / grid.d_min)
    low = 0.999 * q_min if q_min < q_max else 0.0
    shells = ResolutionShells.equal_volume(low, q_max, N_SHELLS)
    return shells, shells.index_of(q)
