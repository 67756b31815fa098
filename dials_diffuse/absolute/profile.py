"""The radial profile of all that stills scatter: Bragg, diffuse and incoherent together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.tables import as_numpy

# Stills are dealt out to this many groups, whose scatter is the error of a profile:
# memory doesn't grow with the number of stills
N_GROUPS = 20


@dataclass(frozen=True)
class RadialProfile:
    """Intensity against |q|, in the unit of the scaled data (photons/s/sr on the scale of the merged map).

    Attributes:
        q: middles of the shells (N,), 1/Angstrom
        edges: (N + 1,)
        total: (N,) mean over a shell of all pixels, Bragg peaks included
        diffuse: (N,) of the pixels outside the Bragg mask
        variance: (N,) of total, from the scatter between groups of stills (counting statistics
            where there is one group only)
        groups: (G, N) total of each group of stills
        coverage: (N,) sum of scaled exposure
    """

    q: np.ndarray
    edges: np.ndarray
    total: np.ndarray
    diffuse: np.ndarray
    variance: np.ndarray
    groups: np.ndarray
    coverage: np.ndarray


class ProfileAccumulator:
    """Collects radial profiles from scaled observations, one table at a time.

    A shell's mean is sum(counts - background - offset exposure) / sum(g exposure) over its rows,
    those under the Bragg mask included. The pixels of a still lie evenly on the spheres |q| = const. that the
    Ewald sphere cuts, and exposure is proportional to solid angle, so this is the mean over the observed part of the
    sphere; stills weigh by the photons that they would count from the same intensity.

    Args:
        width: of the shells, 1/Angstrom
        q_max: end of the last shell
    """

    def __init__(self, width: float, q_max: float):
        self.width = width
        n = max(int(np.ceil(q_max / width)), 1)
        self.edges = np.arange(n + 1) * width
        # groups, (total, diffuse), shells
        self.signal = np.zeros((N_GROUPS, 2, n))
        self.weight = np.zeros((N_GROUPS, 2, n))
        self.noise = np.zeros(n)
        self.n_stills = 0

    def add(self, stills: list[Still], table) -> None:
        """Add observations of some stills.

        A table may come in parts; `count` its stills when all of it was given.

        Args:
            stills: of the table's experiments, in their order
            table: rows of diffuse_scaled.refl

        Raises:
            ValueError: a column is missing.
        """
        if table.size() == 0:
            return
        ids = as_numpy(table["id"])
        keep = usable_rows(table)
        bragg = as_numpy(table["bragg"]).astype(bool)
        exposure = as_numpy(table["exposure"])
        signal = as_numpy(table["counts"]) - as_numpy(table["background"])
        signal = signal - as_numpy(table["offset"]) * exposure
        noise = as_numpy(table["counts"]) + as_numpy(table["background.variance"])
        weight = as_numpy(table["inverse_scale_factor"]) * exposure
        shell = (q_of_rows(stills, table) / self.width).astype(np.int64)
        n = len(self.edges) - 1
        keep &= (shell >= 0) & (shell < n) & (weight > 0)
        group = (self.n_stills + ids) % N_GROUPS
        for part, chosen in ((0, keep), (1, keep & ~bragg)):
            cell = group[chosen] * n + shell[chosen]
            self.signal[:, part] += np.bincount(cell, signal[chosen], N_GROUPS * n).reshape(
                N_GROUPS, n
            )
            self.weight[:, part] += np.bincount(cell, weight[chosen], N_GROUPS * n).reshape(
                N_GROUPS, n
            )
        self.noise += np.bincount(shell[keep], noise[keep], n)

    def count(self, n_stills: int) -> None:
        """Those stills are done; the ids of the next table mean others."""
        self.n_stills += n_stills

    def profile(self, d_min: float | None = None) -> RadialProfile:
        """The profile of the shells that have data.

        Args:
            d_min: resolution limit of the data; shells that it cuts are left out

        Raises:
            ValueError: there are none.
        """
        total_weight = self.weight[:, 0].sum(axis=0)
        # a shell that few pixels reach (corners, edge of the resolution) says nothing
        per_volume = total_weight / np.maximum(self.edges[1:] ** 3 - self.edges[:-1] ** 3, 1e-12)
        seen = np.flatnonzero(total_weight > 0)
        if len(seen) == 0:
            raise ValueError(
                "There are no observations with a positive scale: is the scaled file empty?"
            )
        usable = total_weight > 0
        usable &= per_volume > 1e-3 * np.median(per_volume[seen])
        if d_min is not None:
            usable &= self.edges[1:] <= 1 / d_min + 1e-9
        # voxels of the first shells are cut by the beam stop: an incomplete shell is left out
        usable[: seen[0] + 1] = False
        if not usable.any():
            raise ValueError("The observations cover less than two shells of |q|")
        stop = np.flatnonzero(~usable[np.flatnonzero(usable)[0] :])
        first = np.flatnonzero(usable)[0]
        last = first + (stop[0] if len(stop) else len(usable) - first)
        cut = slice(first, last)
        signal, weight = self.signal[:, :, cut], self.weight[:, :, cut]
        filled = (weight[:, 0] > 0).all(axis=1)
        total = signal[:, 0].sum(axis=0) / weight[:, 0].sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            diffuse = signal[:, 1].sum(axis=0) / weight[:, 1].sum(axis=0)
        counting = self.noise[cut] / weight[:, 0].sum(axis=0) ** 2
        groups = signal[filled, 0] / weight[filled, 0]
        variance = counting
        if filled.sum() > 2:
            share = weight[filled, 0] / weight[filled, 0].sum(axis=0)
            g = filled.sum()
            scatter = (share**2 * (groups - total) ** 2).sum(axis=0) * g / (g - 1)
            variance = np.maximum(scatter, counting)
        return RadialProfile(
            0.5 * (self.edges[cut] + self.edges[first + 1 : last + 1]),
            self.edges[first : last + 1],
            total,
            diffuse,
            variance,
            groups,
            weight[:, 0].sum(axis=0),
        )


def usable_rows(table) -> np.ndarray:
    """(N,) bool: rows that scaling neither excluded nor, outside Bragg peaks, took for outliers.

    Raises:
        ValueError: the table is not one of scaled observations.
    """
    needed = (
        "id voxel bragg counts background background.variance exposure inverse_scale_factor offset"
    ).split()
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(
            f"The observations lack the columns {', '.join(missing)}: give what dials.diffuse_scale wrote "
            "(diffuse_scaled.refl)"
        )
    keep = np.ones(table.size(), dtype=bool)
    if "excluded" in table:
        keep &= ~as_numpy(table["excluded"]).astype(bool)
    if "outlier" in table:
        outlier = as_numpy(table["outlier"]).astype(bool)
        keep &= ~outlier | as_numpy(table["bragg"]).astype(bool)
    return keep


def q_of_rows(stills: list[Still], table) -> np.ndarray:
    """|q| (N,) in 1/Angstrom of the rows' voxel centres, in each still's own cell."""
    n = grid_subdivide(stills)
    matrices = np.array([still.setting_matrix() for still in stills])
    ids = as_numpy(table["id"])
    hkl = as_numpy(table["voxel"]) / n
    return np.sqrt(np.einsum("ni,nij,nj->n", hkl, _metrics(matrices)[ids], hkl))


def grid_subdivide(stills: list[Still]) -> np.ndarray:
    """Voxels a reciprocal cell edge, (3,)"""
    grid = stills[0].experiment.scaling_model.configdict["grid"]
    return np.array(grid["subdivide"], dtype=float)


def _metrics(matrices: np.ndarray) -> np.ndarray:
    """A^T A of setting matrices (N, 3, 3): |q|^2 = h^T (A^T A) h"""
    return np.einsum("nki,nkj->nij", matrices, matrices)
