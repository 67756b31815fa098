"""How well the stills agree: by resolution shell, still, panel and direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.grid.possible import voxels_possible
from dials_diffuse.grid.shells import ResolutionShells, isotropic_part
from dials_diffuse.scaling.merging.merge import Merged, Merger
from dials_diffuse.scaling.merging.merge_kernels import accumulate_statistics

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
        by_size: sums for the error model
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
    by_size: np.ndarray
    isotropic: np.ndarray

    def misoriented(self) -> np.ndarray:
        """(M,) stills that clearly do not follow the map of all others: a slope of less than half
        the median, with three standard deviations to spare. However weak a still is, its slope
        is that of the others if it is oriented as it says.
        """
        with np.errstate(invalid="ignore"):
            usual = np.nanmedian(np.append(self.still_slope[self.still_n > 0], np.nan))
            return np.flatnonzero(self.still_slope + 3 * self.still_slope_sigma < 0.5 * usual)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's, NaN for fewer than 3 finite pairs or no variation"""
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
    """Read everything once more and compare it with what was merged.

    Fills merged.variance_scatter.

    Args:
        merger: with the scales and outliers that merged was made with
        merged: result of the merger
        n_shells: resolution shells of equal volume
        variance_factor: a^2 of the error model
    """
    survey = merger.survey
    grid = merger.source.grid
    voxel = unpack_voxels(survey.voxels)
    q = np.linalg.norm(grid.q_of_voxel(voxel), axis=1)
    measured = merged.n_obs > 0
    q_max = q[measured].max()
    if grid.d_min is not None:
        q_max = min(q_max, 1 / grid.d_min)
    shells = ResolutionShells.equal_volume(
        0.999 * q[measured].min() if q[measured].min() < q_max else 0.0, q_max, n_shells
    )
    shell = shells.index_of(q)
    multiplicity = grid.multiplicity(voxel)
    isotropic = isotropic_part(voxel, merged.intensity, grid, multiplicity=multiplicity)
    by_shell = np.zeros((n_shells, 6))
    by_still = np.zeros((survey.n_stills_in, 10))
    by_panel = np.zeros((survey.n_panels, 5))
    by_direction = np.zeros((N_DIRECTIONS**2, 2))
    by_voxel = np.zeros(len(voxel))
    by_size = np.zeros((80, 3))
    histogram = np.zeros(200, dtype=np.int64)
    extent = survey.extent
    for block in merger.blocks():
        obs = block.obs
        column = _bins(obs.x, extent[0], extent[1])
        row = _bins(obs.y, extent[2], extent[3])
        columns = (
            block.index,
            block.ok,
            obs.still,
            obs.panel,
            row * N_DIRECTIONS + column,
            block.y,
            obs.exposure,
            block.g,
            block.h,
            block.floor,
        )
        merger.add_in_parts(
            accumulate_statistics,
            block,
            columns,
            (
                merged.expected,
                merger.error_b,
                merged.intensity,
                merged.num,
                merged.den,
                merged.n_obs,
                isotropic,
                shell,
                by_voxel,
            ),
            (by_shell, by_still, by_panel, by_direction, by_size, histogram),
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        merged.variance_scatter = by_voxel / (merged.n_obs - 1) / merged.den
        merged.variance_scatter[merged.n_obs < 2] = np.nan
        s = by_still.T
        mean_own, mean_rest = s[4] / s[3], s[5] / s[3]
        covariance = s[8] / s[3] - mean_own * mean_rest
        variance_own = s[6] / s[3] - mean_own**2
        variance_rest = s[7] / s[3] - mean_rest**2
        still_cc = covariance / np.sqrt(variance_own * variance_rest)
        # s[3] is the sum of 1/variance of the still's intensities
        still_slope = covariance / variance_rest
        still_slope_sigma = 1.0 / np.sqrt(s[3] * variance_rest)
        by_shell[:, 1] /= variance_factor
        sigma = np.sqrt(merged.variance * variance_factor)
        halves = merged.half
        anisotropic = np.array(
            [half - isotropic_part(voxel, half, grid, multiplicity=multiplicity) for half in halves]
        )
        possible = voxels_possible(grid, shells)
        rows = []
        for number, label in enumerate([*shells.labels(), "overall"]):
            overall = number == n_shells
            inside = measured & (shell >= 0 if overall else shell == number)
            sums = by_shell.sum(axis=0) if overall else by_shell[number]
            ratio = merged.intensity[inside] / sigma[inside]
            rows.append(
                ShellStatistics(
                    label=f"{1 / shells.edges[0]:.2f} - {1 / shells.edges[-1]:.2f}"
                    if overall
                    else label,
                    n_obs=int(merged.n_obs[inside].sum()),
                    n_voxels=int(np.count_nonzero(inside)),
                    n_possible=int(possible.sum() if overall else possible[number]),
                    mean_intensity=_mean(merged.intensity[inside]),
                    mean_i_over_sigma=_mean(ratio),
                    r_meas=float(sums[3] / sums[4]),
                    cc_half=correlation(*halves[:, inside]),
                    cc_half_anisotropic=correlation(*anisotropic[:, inside]),
                    chi2=float(sums[1] / sums[2]),
                )
            )
        return Statistics(
            shells=rows[:-1],
            overall=rows[-1],
            still_n=s[0].astype(int),
            still_chi2=s[1] / s[2] / variance_factor,
            still_cc=still_cc,
            still_slope=still_slope,
            still_slope_sigma=still_slope_sigma,
            panel_n=by_panel[:, 0].astype(int),
            panel_chi2=by_panel[:, 1] / by_panel[:, 2] / variance_factor,
            panel_residual=by_panel[:, 3] / by_panel[:, 4],
            direction_residual=(by_direction[:, 0] / by_direction[:, 1]).reshape(
                N_DIRECTIONS, N_DIRECTIONS
            ),
            extent=extent,
            histogram=histogram,
            by_size=by_size,
            isotropic=isotropic,
        )


def _bins(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (values - low) / max(high - low, 1e-12) * N_DIRECTIONS
    return np.clip(scaled, 0, N_DIRECTIONS - 1).astype(np.int64)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
