"""Statistics of the agreement of stills by resolution shell, still, panel and direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.grid.possible import voxels_possible
from dials_diffuse.grid.shells import isotropic_part
from dials_diffuse.scaling.merging.merge import N_DIRECTIONS, N_SHELLS, Merged, Merger
from dials_diffuse.scaling.merging.merge_kernels import (
    EXPECTED,
    FREEDOM,
    INFORMATION,
    OWN,
    OWN_OWN,
    OWN_REST,
    RESIDUAL,
    REST,
    REST_REST,
    SQUARE,
    WEIGHTED_ABS,
    N,
)


@dataclass
class ShellStatistics:
    """Statistics of one shell, or of all.

    Attributes:
        label: resolution range in Angstrom
        n_obs, n_voxels: merged; n_possible: voxels that exist
        mean_intensity, mean_i_over_sigma: of the merged voxels
        r_meas: sum of sqrt(n/(n-1)) |y - expected| over sum of expected, in photons
        cc_half: correlation of the half sets; cc_half_anisotropic: less the isotropic parts
        chi2: mean square of residuals over expected sigma, leverage allowed for
        jackknife: error of the voxels from leaving out groups of stills, over the propagated one
    """

    label: str
    n_obs: int
    n_voxels: int
    n_possible: int
    mean_intensity: float
    mean_i_over_sigma: float
    r_meas: float
    cc_half: float
    cc_half_anisotropic: float
    chi2: float
    jackknife: float

    @property
    def multiplicity(self) -> float:
        return self.n_obs / self.n_voxels if self.n_voxels else float("nan")

    @property
    def completeness(self) -> float:
        return self.n_voxels / self.n_possible if self.n_possible else float("nan")


@dataclass
class Statistics:
    """All statistics of a merged map.

    Attributes:
        shells, overall
        still_n, still_chi2, still_cc: (S,) merged observations of each still, their chi^2 and
            correlation (anisotropic part) with the map of all others
        still_slope, still_slope_sigma: (S,) slope of each still's intensities over the others' (anisotropic
            part, after scaling): 1 for one that follows the map, 0 for one of another orientation
        panel_n, panel_chi2, panel_residual: (P,), residual = sum of residuals over sum
            of expected
        direction_residual: (N_DIRECTIONS, N_DIRECTIONS) the same over the direction of s1, y by x
        extent: of its axes
        histogram: of normalised residuals, in steps of 0.1 from -10
        sizes: sums for the error model
        isotropic: (V,) mean of the map at each voxel's |q|
    """

    shells: list[ShellStatistics]
    overall: ShellStatistics
    still_n: np.ndarray
    still_chi2: np.ndarray
    still_cc: np.ndarray
    still_slope: np.ndarray
    still_slope_sigma: np.ndarray
    panel_n: np.ndarray
    panel_chi2: np.ndarray
    panel_residual: np.ndarray
    direction_residual: np.ndarray
    extent: tuple[float, float, float, float]
    histogram: np.ndarray
    sizes: np.ndarray
    isotropic: np.ndarray

    def misoriented(self) -> np.ndarray:
        """(M,) stills that do not follow the map of all others.

        Their slope is less than half the median, with three standard deviations to spare. A weak
        still has the slope of the others as long as its orientation is right.
        """
        with np.errstate(invalid="ignore"):
            usual = np.nanmedian(np.append(self.still_slope[self.still_n > 0], np.nan))
            return np.flatnonzero(self.still_slope + 3 * self.still_slope_sigma < 0.5 * usual)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; NaN for fewer than 3 finite pairs or no variation."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def statistics(merger: Merger, merged: Merged, variance_factor: float = 1.0) -> Statistics:
    """Statistics of merged voxels, from the sums that were made on merging.

    Args:
        merger, merged: the voxels and how they were merged
        variance_factor: a^2 of the error model
    """
    sums, isotropic, overview = merged.sums, merged.isotropic, merger.overview
    shells, panels, directions = sums.shells.copy(), sums.panels.T, sums.directions
    shells[:, SQUARE] /= variance_factor
    known, halves = merger.voxels, merged.half
    voxel, multiplicity = known.voxel, known.multiplicity
    anisotropic = np.array(
        [
            half - isotropic_part(voxel, half, known.grid, multiplicity=multiplicity)
            for half in halves
        ]
    )
    possible = voxels_possible(known.grid, merged.shells)
    measured, shell = merged.n_obs > 0, merged.shell
    edges = merged.shells.edges
    everything = f"{merged.shells.labels()[0].split(' - ')[0]} - {1 / edges[-1]:.2f}"
    rows = []
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = merged.variance * variance_factor
        i_over_sigma = merged.intensity / np.sqrt(variance)
        for number, label in enumerate([*merged.shells.labels(), everything]):
            chosen = slice(None) if number == N_SHELLS else slice(number, number + 1)
            total = shells[chosen].sum(axis=0)
            inside = measured & (shell >= 0 if number == N_SHELLS else shell == number)
            several = inside & np.isfinite(merged.variance_jackknife)
            jackknife = _mean(merged.variance_jackknife[several]) / _mean(variance[several])
            rows.append(
                ShellStatistics(
                    label=label,
                    n_obs=int(merged.n_obs[inside].sum()),
                    n_voxels=int(np.count_nonzero(inside)),
                    n_possible=int(possible[chosen].sum()),
                    mean_intensity=_mean(merged.intensity[inside]),
                    mean_i_over_sigma=_mean(i_over_sigma[inside]),
                    r_meas=float(total[WEIGHTED_ABS] / total[EXPECTED]),
                    cc_half=correlation(*halves[:, inside]),
                    cc_half_anisotropic=correlation(*anisotropic[:, inside]),
                    chi2=float(total[SQUARE] / total[FREEDOM]),
                    jackknife=float(np.sqrt(jackknife)),
                )
            )
        residuals = directions[:, 0] / directions[:, 1]
        return Statistics(
            shells=rows[:-1],
            overall=rows[-1],
            **_still_statistics(sums.stills, variance_factor),
            panel_n=panels[N].astype(int),
            panel_chi2=panels[SQUARE] / panels[FREEDOM] / variance_factor,
            panel_residual=panels[RESIDUAL] / panels[EXPECTED],
            direction_residual=residuals.reshape(N_DIRECTIONS, N_DIRECTIONS),
            extent=overview.bins.extent,
            histogram=sums.histogram[0],
            sizes=sums.sizes,
            isotropic=isotropic,
        )


def _still_statistics(sums: np.ndarray, variance_factor: float) -> dict[str, np.ndarray]:
    """Fields of Statistics by still, from StatisticSums.stills."""
    s = sums.T
    information = s[INFORMATION]
    mean_own, mean_rest = s[OWN] / information, s[REST] / information
    covariance = s[OWN_REST] / information - mean_own * mean_rest
    variance_own = s[OWN_OWN] / information - mean_own**2
    variance_rest = s[REST_REST] / information - mean_rest**2
    return {
        "still_n": s[N].astype(int),
        "still_chi2": s[SQUARE] / s[FREEDOM] / variance_factor,
        "still_cc": covariance / np.sqrt(variance_own * variance_rest),
        "still_slope": covariance / variance_rest,
        # information is the sum of 1/variance of the still's intensities
        "still_slope_sigma": 1.0 / np.sqrt(information * variance_rest),
    }


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
