"""Overview of all observations before scaling: stills, radial profiles, connections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numba import njit

from dxtbx.model import ExperimentList

from dials_diffuse.io.integrated_reflections import relative_times
from dials_diffuse.model.components import N_RADIAL
from dials_diffuse.scaling.observations.connections import Connections, connect
from dials_diffuse.scaling.observations.frames import Bins
from dials_diffuse.scaling.observations.masked import ExposureByVoxel, masked_fraction
from dials_diffuse.scaling.observations.sorted_rows import RowCollector, SortedRows
from dials_diffuse.scaling.observations.source import ObservationSource

logger = logging.getLogger("dials.diffuse.scaling.overview")

# Width over which radial profiles are smoothed, 1/Angstrom
PROFILE_WIDTH = 0.025


@dataclass
class Overview:
    """Counts and sums over all observations, which need no scales.

    Attributes:
        rows: usable observations, sorted by voxel
        bins: ranges of |q| and of directions
        excluded: (S,) bool, stills that take no part
        connections: of the stills that take part
        still_obs, still_pixels: (S,) usable observations, and pixels in them
        still_variance: (S,) variance of the photons of each still
        profile_counts, profile_exposure: (S, N_RADIAL) net photons and exposure (s sr) of each still
            and radial bin
        n_rows, n_not_finite, n_bragg: numbers of rows in the tables
        masked_fraction: (V,) share of each voxel's exposure that lies under the Bragg mask
        n_panels: most panels of any detector
        n_layouts: kinds of detectors, by number and size of their panels
    """

    rows: SortedRows
    bins: Bins
    excluded: np.ndarray
    connections: Connections
    still_obs: np.ndarray
    still_pixels: np.ndarray
    still_variance: np.ndarray
    profile_counts: np.ndarray
    profile_exposure: np.ndarray
    n_rows: int
    n_not_finite: int
    n_bragg: int
    masked_fraction: np.ndarray
    n_panels: int
    n_layouts: int

    @property
    def n_stills_in(self) -> int:
        """Stills in the input"""
        return len(self.still_obs)

    @property
    def used(self) -> np.ndarray:
        """(S,) bool: stills that take part and have usable observations"""
        return ~self.excluded & (self.still_obs > 0)

    @property
    def n_usable(self) -> int:
        """Usable observations of the stills that take part"""
        return int(self.still_obs[~self.excluded].sum())

    def without(self, excluded: Iterable[int]) -> Overview:
        """The same with other stills excluded."""
        mask = np.isin(np.arange(self.n_stills_in), list(excluded))
        return replace(self, excluded=mask, connections=connect(self.rows, mask))

    def relative_times(self) -> np.ndarray:
        """(S,) exposure times over their mean, NaN for stills without usable observations"""
        return relative_times(self.profile_exposure.sum(axis=1), self.still_pixels)

    def groups(self) -> list[list[int]]:
        """Stills that common voxels connect, the largest group first.

        Stills without a voxel in common with others are in none.
        """
        labels = np.where(self.connections.shared > 0, self.connections.group, -1)
        groups = [
            np.flatnonzero(labels == label).tolist() for label in np.unique(labels) if label >= 0
        ]
        return sorted(groups, key=len, reverse=True)

    def still_scales(self, n_cycles: int = 10) -> np.ndarray:
        """Scales (S,) that make the radial profiles of the stills agree, to start the fit from."""
        counts, exposure = self.profile_counts, self.profile_exposure
        b = np.ones(len(counts))
        usable = self.used
        for _ in range(n_cycles):
            profile = self._profile(b)
            expected = exposure @ profile
            good = usable & (expected > 0)
            b[good] = counts[good].sum(axis=1) / expected[good]
            b = np.maximum(b, 1e-3)
            b /= b[usable].mean()
        return b

    def scale_errors(self, b: np.ndarray) -> np.ndarray:
        """Standard deviations (S,) of scales b (S,) of the radial profiles, by counting statistics."""
        expected = self.profile_exposure @ self._profile(b)
        return np.sqrt(self.still_variance) / np.maximum(expected, 1e-300)

    def _profile(self, b: np.ndarray) -> np.ndarray:
        """(N_RADIAL,) mean intensity of all stills, smoothed"""
        used = self.used
        counts = self.profile_counts[used].sum(axis=0)
        exposure = b[used] @ self.profile_exposure[used]
        window = np.ones(2 * round(0.5 * PROFILE_WIDTH * N_RADIAL / self.bins.q_max) + 1)
        counts, exposure = (np.convolve(v, window, "same") for v in (counts, exposure))
        with np.errstate(invalid="ignore", divide="ignore"):
            profile = counts / exposure
        bad = ~np.isfinite(profile)
        if bad.all():
            return np.zeros(N_RADIAL)
        profile[bad] = np.interp(np.flatnonzero(bad), np.flatnonzero(~bad), profile[~bad])
        return np.maximum(profile, 0.0)

    def prior(self, b: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Function |q| -> mean intensity at that |q|, photons/(s sr), for scales b (S,)."""
        profile = self._profile(b)
        positive = profile[profile > 0]
        profile = np.maximum(profile, 1e-3 * np.median(positive) if len(positive) else 1.0)
        return partial(np.interp, xp=self.bins.q_of(np.arange(N_RADIAL)), fp=profile)


class _Sums:
    """Sums over the rows of all stills, part by part."""

    def __init__(self, n_stills: int):
        self.obs, self.pixels = (np.zeros(n_stills, dtype=np.int64) for _ in range(2))
        self.counts, self.exposure = (np.zeros((n_stills, N_RADIAL)) for _ in range(2))
        self.variance = np.zeros(n_stills)
        self.total_counts = 0.0

    def add(self, rows: np.ndarray, n_pixels: np.ndarray) -> None:
        sums = self.obs, self.pixels, self.variance, self.counts, self.exposure
        self.total_counts += _add_rows(rows, n_pixels, *sums)


@njit(cache=True)
def _add_rows(rows, n_pixels, obs, pixels, variance, counts, exposure):
    """Add rows (N,) to the sums of their stills; returns their photons, background included."""
    total = 0.0
    for k in range(len(rows)):
        row = rows[k]
        i = row.still
        obs[i] += 1
        pixels[i] += n_pixels[k]
        variance[i] += max(row.net, 0.0) + row.floor
        counts[i, row.radial] += row.net
        exposure[i, row.radial] += row.exposure
        total += row.net + row.background
    return total


def read_observations(
    source: ObservationSource, readout_noise: float, keep: int, n_threads: int = 1
) -> Overview:
    """Read all observations once, and sort the usable ones by voxel.

    Args:
        readout_noise: per pixel, photons
        keep: observations that are kept in memory; more are sorted in a temporary file

    Raises:
        ValueError: input that can't be scaled as a whole: fewer than two stills, no
            usable observations, no counts at all.
    """
    n_stills = len(source.experiments)
    if n_stills < 2:
        raise ValueError(
            "There is only one still in the input: scales are relative, so that at least two are needed"
        )
    n_rows = sum(source.table(number).n_rows for number in range(len(source.pairs)))
    collector, sums = RowCollector(n_rows, keep), _Sums(n_stills)
    masked, unmasked = ExposureByVoxel(), ExposureByVoxel()
    n_bragg = n_not_finite = 0
    for number in range(len(source.pairs)):
        for part in source.parts(number, readout_noise, n_threads=n_threads):
            sums.add(part.rows, part.n_pixels)
            collector.add(part.rows, part.voxels)
            masked.add(part.masked_voxels, part.masked_exposure)
            unmasked.add(part.voxels, part.rows["exposure"])
            n_bragg += part.n_bragg
            n_not_finite += part.n_not_finite
    if not sums.obs.any():
        raise ValueError(
            "None of the observations can be used: all are Bragg, not finite, or have no exposure"
        )
    if sums.total_counts == 0:
        raise ValueError("All counts are zero: there is nothing to scale")
    if np.count_nonzero(sums.obs) < 2:
        raise ValueError("Only one still has usable observations: at least two are needed")
    rows = collector.finish()
    detectors = ExperimentList(source.experiments).detectors()
    layouts = {tuple(panel.get_image_size() for panel in detector) for detector in detectors}
    excluded = np.zeros(n_stills, dtype=bool)
    return Overview(
        rows=rows,
        bins=source.bins,
        excluded=excluded,
        connections=connect(rows, excluded),
        still_obs=sums.obs,
        still_pixels=sums.pixels,
        still_variance=sums.variance,
        profile_counts=sums.counts,
        profile_exposure=sums.exposure,
        n_rows=n_rows,
        n_not_finite=n_not_finite,
        n_bragg=n_bragg,
        masked_fraction=masked_fraction(rows.voxels, masked, unmasked),
        n_panels=max(map(len, layouts)),
        n_layouts=len(layouts),
    )
