"""How often and by how many stills the voxels of the grid were seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.grid.shells import ResolutionShells
from dials_diffuse.grid.voxel_grid import VoxelGrid


@dataclass
class VoxelAccumulator:
    """Sums by voxel of the asymmetric unit, over any number of files.

    Memory is bounded by the grid. Adding files in another order, or accumulators to
    each other, gives the same to rounding.

    Attributes:
        keys: (M,) packed voxels, ascending
        n_obs: (M,) observations (not under Bragg spots)
        n_stills: (M,) stills that saw it
        photons: (M,) counts less background
        exposure: (M,) s sr
        mean, m2: (M,) mean of the observations' intensities weighted by exposure, and the weighted sum
            of squared deviations from it (West 1979, the weighted form of Welford 1962)
    """

    keys: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    n_obs: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    n_stills: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    photons: np.ndarray = field(default_factory=lambda: np.empty(0))
    exposure: np.ndarray = field(default_factory=lambda: np.empty(0))
    mean: np.ndarray = field(default_factory=lambda: np.empty(0))
    m2: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def voxel(self) -> np.ndarray:
        """(M, 3) int32"""
        return unpack_voxels(self.keys)

    @property
    def intensity(self) -> np.ndarray:
        """(M,) sum of photons over sum of exposures, photons/(s sr): unscaled"""
        return self.photons / self.exposure

    @classmethod
    def of_table(cls, table) -> VoxelAccumulator:
        """Sums over the rows of one gridded table that are not under Bragg spots. No
        still may have rows in two tables."""
        use = ~as_numpy(table["bragg"]) & (as_numpy(table["exposure"]) > 0)
        keys, inverse = np.unique(
            pack_voxels(as_numpy(table["asu_voxel"])[use]), return_inverse=True
        )
        exposure = as_numpy(table["exposure"])[use]
        photons = (as_numpy(table["counts"]) - as_numpy(table["background"]))[use]
        size = len(keys)
        weight = np.bincount(inverse, exposure, minlength=size)
        mean = np.bincount(inverse, photons, minlength=size) / weight
        m2 = np.bincount(inverse, exposure * (photons / exposure - mean[inverse]) ** 2, minlength=size)
        still = as_numpy(table["id"])[use].astype(np.int64)
        pairs = np.unique(inverse * (still.max(initial=0) + 1) + still)
        n_stills = np.bincount(pairs // (still.max(initial=0) + 1), minlength=size)
        return cls(
            keys,
            np.bincount(inverse, minlength=size),
            n_stills,
            np.bincount(inverse, photons, minlength=size),
            weight,
            mean,
            m2,
        )

    def __add__(self, other: VoxelAccumulator) -> VoxelAccumulator:
        """The sums of both, which must not share stills (Chan, Golub & LeVeque 1983)."""
        keys = np.union1d(self.keys, other.keys)
        rows = [np.searchsorted(keys, part.keys) for part in (self, other)]

        def spread(name):
            # sums of an empty table are whole numbers, whatever they are sums of
            kind = np.result_type(getattr(self, name), getattr(other, name))
            out = np.zeros((2, len(keys)), dtype=kind)
            for number, part in enumerate((self, other)):
                out[number, rows[number]] = getattr(part, name)
            return out

        weight, mean = spread("exposure"), spread("mean")
        total = weight.sum(axis=0)
        shift = mean[1] - mean[0]
        return VoxelAccumulator(
            keys,
            *(spread(name).sum(axis=0) for name in ("n_obs", "n_stills", "photons")),
            total,
            mean[0] + shift * weight[1] / total,
            spread("m2").sum(axis=0) + shift**2 * weight[0] * weight[1] / total,
        )


@dataclass(frozen=True)
class CoverageRow:
    """One shell (or all): voxels of the asymmetric unit possible and seen."""

    label: str
    possible: int
    seen: int
    n_obs: int
    mean_stills: float
    three_stills: int

    @property
    def completeness(self) -> float:
        return self.seen / self.possible if self.possible else 0.0

    @property
    def multiplicity(self) -> float:
        return self.n_obs / self.seen if self.seen else 0.0


def voxels_possible(grid: VoxelGrid, q_max: float) -> np.ndarray:
    """|q| (M,) of all voxels of the asymmetric unit within |q| <= q_max and the grid's limits"""
    from cctbx import miller

    symmetry = grid.supercell_symmetry()
    indices = miller.build_set(symmetry, anomalous_flag=not grid.friedel, d_min=1 / q_max).indices()
    voxel = as_numpy(indices)
    voxel = voxel[grid.contains(voxel)]
    return np.linalg.norm(grid.q_of_voxel(voxel), axis=1)


def coverage(sums: VoxelAccumulator, grid: VoxelGrid, n_shells: int = 10) -> list[CoverageRow]:
    """Coverage in shells of equal volume, and overall as the last row.

    Raises:
        ValueError: no voxel was seen.
    """
    voxel = sums.voxel
    q = np.linalg.norm(grid.q_of_voxel(voxel), axis=1)
    if not len(q):
        raise ValueError("No voxel was seen outside the Bragg mask")
    possible_q = voxels_possible(grid, q.max() * (1 + 1e-6))
    shells = ResolutionShells.equal_volume(0.0, q.max(), n_shells)
    index, possible = shells.index_of(q), shells.index_of(possible_q)
    rows = []
    for label, select, n_possible in [
        (label, index == i, int((possible == i).sum())) for i, label in enumerate(shells.labels())
    ] + [("overall", np.ones(len(q), dtype=bool), len(possible_q))]:
        n = int(select.sum())
        rows.append(
            CoverageRow(
                label,
                n_possible,
                n,
                int(sums.n_obs[select].sum()),
                float(sums.n_stills[select].mean()) if n else 0.0,
                int((sums.n_stills[select] >= 3).sum()),
            )
        )
    return rows
