"""Statistics of the agreement of stills by resolution shell, still, panel and direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.grid.possible import voxels_possible
from dials_diffuse.grid.shells import ResolutionShells, isotropic_part
from dials_diffuse.scaling.merging.merge import Merged, Merger
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
    MergedTables,
    N,
    StatisticSums,
    accumulate_statistics,
)

# Side of the image of residuals over the direction of s1
N_DIRECTIONS = 48


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


def statistics(
    merger: Merger, merged: Merged, n_shells: int = 10, variance_factor: float = 1.0
) -> Statistics:
    """Read all observations once more and compare them with the merged voxels.

    Args:
        merger: with the scales and outliers of the merged voxels
        merged: result of the merger; variance_scatter is set in place
        n_shells: resolution shells of equal volume
        variance_factor: a^2 of the error model
    """
    grid, overview = merger.source.grid, merger.overview
    voxel = unpack_voxels(overview.voxels)
    shells, shell = _shells(np.linalg.norm(grid.q_of_voxel(voxel), axis=1), merged, grid, n_shells)
    multiplicity = grid.multiplicity(voxel)
    isotropic = isotropic_part(voxel, merged.intensity, grid, multiplicity=multiplicity)
    tables = MergedTables(
        merged.expected, merged.intensity, merged.num, merged.den, merged.n_obs, isotropic, shell
    )
    scatter = np.zeros(len(voxel))
    sums = StatisticSums(
        shells=np.zeros((n_shells, 6)),
        panels=np.zeros((overview.n_panels, 5)),
        stills=np.zeros((overview.n_stills_in, 9)),
        directions=np.zeros((N_DIRECTIONS**2, 2)),
        sizes=np.zeros((80, 3)),
        histogram=np.zeros(200, dtype=np.int64),
    )
    x0, x1, y0, y1 = overview.extent
    for block in merger.blocks():
        direction = _bins(block.obs.y, y0, y1) * N_DIRECTIONS + _bins(block.obs.x, x0, x1)
        columns = (block.rows, direction)
        merger.add_in_chunks(
            accumulate_statistics, block, columns, tables, merger.error_b, scatter, sums=sums
        )
    sums.shells[:, SQUARE] /= variance_factor
    halves = merged.half
    anisotropic = np.array(
        [half - isotropic_part(voxel, half, grid, multiplicity=multiplicity) for half in halves]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        merged.variance_scatter = scatter / (merged.n_obs - 1) / merged.den
        merged.variance_scatter[merged.n_obs < 2] = np.nan
        i_over_sigma = merged.intensity / np.sqrt(merged.variance * variance_factor)
        rows = []
        possible = voxels_possible(grid, shells)
        measured = merged.n_obs > 0
        everything = f"{1 / shells.edges[0]:.2f} - {1 / shells.edges[-1]:.2f}"
        for number, label in enumerate([*shells.labels(), everything]):
            chosen = slice(None) if number == n_shells else slice(number, number + 1)
            total = sums.shells[chosen].sum(axis=0)
            inside = measured & (shell >= 0 if number == n_shells else shell == number)
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
                )
            )
        panels, directions = sums.panels.T, sums.directions
        residuals = directions[:, 0] / directions[:, 1]
        return Statistics(
            shells=rows[:-1],
            overall=rows[-1],
            **_still_statistics(sums.stills, variance_factor),
            panel_n=panels[N].astype(int),
            panel_chi2=panels[SQUARE] / panels[FREEDOM] / variance_factor,
            panel_residual=panels[RESIDUAL] / panels[EXPECTED],
            direction_residual=residuals.reshape(N_DIRECTIONS, N_DIRECTIONS),
            extent=overview.extent,
            histogram=sums.histogram,
            sizes=sums.sizes,
            isotropic=isotropic,
        )


def _shells(q: np.ndarray, merged: Merged, grid, n_shells: int):
    """(ResolutionShells of the measured voxels, shell (V,) of each voxel at |q| (V,))."""
    measured = q[merged.n_obs > 0]
    q_min, q_max = measured.min(), measured.max()
    if grid.d_min is not None:
        q_max = min(q_max, 1 / grid.d_min)
    low = 0.999 * q_min if q_min < q_max else 0.0
    shells = ResolutionShells.equal_volume(low, q_max, n_shells)
    return shells, shells.index_of(q)


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


def _bins(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (values - low) / max(high - low, 1e-12) * N_DIRECTIONS
    return np.clip(scaled, 0, N_DIRECTIONS - 1).astype(np.int64)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
