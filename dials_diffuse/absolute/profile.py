"""The radial profile of total scattering: Bragg, diffuse and incoherent together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.sweeps import is_sweep
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

    def jackknife(self, function: Callable[[np.ndarray], float]) -> float:
        """Standard error of function(total) from leaving out one group of stills after the other.

        Args:
            function: of a profile (N,)

        Returns:
            0 with fewer than three groups
        """
        g = len(self.groups)
        if g < 3:
            return 0.0
        share = self.groups.mean(axis=0)
        # the change of the unweighted mean without a group, applied to the weighted one
        values = np.array(
            [
                function(self.total + ((share * g - group) / (g - 1) - share))
                for group in self.groups
            ]
        )
        return float(np.sqrt((g - 1) / g * ((values - values.mean()) ** 2).sum()))


@dataclass(frozen=True)
class UsableProfile:
    """A profile, and the shells that may be used.

    Attributes:
        profile: of N shells
        inside: (N,) bool
    """

    profile: RadialProfile
    inside: np.ndarray

    @classmethod
    def between(
        cls, profile: RadialProfile, q_min: float | None, q_max: float | None
    ) -> UsableProfile:
        """The shells between two |q| in 1/Angstrom, None for no limit."""
        low, high = -np.inf if q_min is None else q_min, np.inf if q_max is None else q_max
        whole = cls(profile, np.ones(len(profile.q), dtype=bool))
        return cls(profile, whole.shells(low, high))

    @property
    def start(self) -> float:
        """Where the first shell begins"""
        return float(self.profile.edges[:-1][self.inside].min())

    @property
    def stop(self) -> float:
        """Where the last shell ends, 0 if there is none"""
        return float(self.profile.edges[1:][self.inside].max(initial=0.0))

    def shells(self, low: float, high: float) -> np.ndarray:
        """(N,) bool: usable shells that lie between two |q|."""
        edges = self.profile.edges
        return self.inside & (edges[:-1] >= low - 1e-9) & (edges[1:] <= high + 1e-9)


class ProfileAccumulator:
    """Collects radial profiles from scaled observations, one table at a time.

    A shell's mean is sum(counts - background - offset exposure) / sum(g exposure) over its rows,
    those under the Bragg mask included. Exposure is proportional to solid angle, so this is the mean over
    the observed part of the sphere |q| = const. The weight of a still is the number of photons that it
    would count from the same intensity.

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
        group = (self.n_stills + ids + _images_of_sweeps(stills, table, ids)) % N_GROUPS
        for part, chosen in ((0, keep), (1, keep & ~bragg)):
            cell = group[chosen] * n + shell[chosen]
            for sums, values in ((self.signal, signal), (self.weight, weight)):
                counted = np.bincount(cell, values[chosen], N_GROUPS * n)
                sums[:, part] += counted.reshape(N_GROUPS, n)
        self.noise += np.bincount(shell[keep], noise[keep], n)

    def count(self, n_stills: int) -> None:
        """Count the stills of a table after its last part, so that the ids of the next are others."""
        self.n_stills += n_stills

    def profile(self, d_min: float | None = None) -> RadialProfile:
        """The profile of the shells that have data.

        Args:
            d_min: resolution limit of the data; shells that it cuts are left out

        Raises:
            ValueError: there are none.
        """
        cut = self._shells_with_data(d_min)
        signal, weight = self.signal[:, :, cut], self.weight[:, :, cut]
        coverage = weight[:, 0].sum(axis=0)
        filled = (weight[:, 0] > 0).all(axis=1)
        total = signal[:, 0].sum(axis=0) / coverage
        with np.errstate(divide="ignore", invalid="ignore"):
            diffuse = signal[:, 1].sum(axis=0) / weight[:, 1].sum(axis=0)
        variance = self.noise[cut] / coverage**2
        groups = signal[filled, 0] / weight[filled, 0]
        g = filled.sum()
        if g > 2:
            share = weight[filled, 0] / weight[filled, 0].sum(axis=0)
            scatter = (share**2 * (groups - total) ** 2).sum(axis=0) * g / (g - 1)
            variance = np.maximum(scatter, variance)
        edges = self.edges[cut.start : cut.stop + 1]
        q = 0.5 * (edges[:-1] + edges[1:])
        return RadialProfile(q, edges, total, diffuse, variance, groups, coverage)

    def _shells_with_data(self, d_min: float | None) -> slice:
        """The longest unbroken range of shells that are well covered.

        With a small cell no voxel centre may lie in some shells at low |q|.
        """
        coverage = self.weight[:, 0].sum(axis=0)
        seen = np.flatnonzero(coverage > 0)
        if len(seen) == 0:
            raise ValueError(
                "There are no observations with a positive scale: is the scaled file empty?"
            )
        # few pixels reach the shells at the corners and at the limit of the resolution
        per_volume = coverage / np.maximum(np.diff(self.edges**3), 1e-12)
        usable = (coverage > 0) & (per_volume > 1e-3 * np.median(per_volume[seen]))
        if d_min is not None:
            usable &= self.edges[1:] <= 1 / d_min + 1e-9
        # the beam stop cuts the voxels of the first shell
        usable[: seen[0] + 1] = False
        if not usable.any():
            raise ValueError("The observations cover less than two shells of |q|")
        edges = np.flatnonzero(np.diff(np.concatenate(([0], usable.astype(int), [0]))))
        first, last = edges[::2], edges[1::2]
        longest = np.argmax(last - first)
        return slice(int(first[longest]), int(last[longest]))


def _images_of_sweeps(stills: list[Still], table, ids: np.ndarray) -> np.ndarray:
    """(N,) array index of the image of each row of a sweep, whose images are dealt to groups as stills are; else 0."""
    sweeps = np.array([is_sweep(still.experiment) for still in stills])
    if not sweeps.any():
        return np.zeros(len(ids), dtype=np.int64)
    z = as_numpy(table["xyzobs.px.value"])[:, 2]
    return np.where(sweeps[ids], np.floor(z), 0).astype(np.int64)


def usable_rows(table) -> np.ndarray:
    """(N,) bool: rows that scaling did not exclude, and that are no outliers outside Bragg peaks.

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
    subdivide = stills[0].experiment.scaling_model.configdict["grid"]["subdivide"]
    matrices = np.array([still.setting_matrix() for still in stills])
    # |q|^2 = h^T (A^T A) h
    metrics = np.einsum("nki,nkj->nij", matrices, matrices)
    h = as_numpy(table["voxel"]) / np.array(subdivide, dtype=float)
    return np.sqrt(np.einsum("ni,nij,nj->n", h, metrics[as_numpy(table["id"])], h))
