"""Departures of observations from their still's radial mean, which tell the setting of a still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.indexing import Setting

_N_RADIAL = 30
# Observations of a still that are compared; more cost time and change nothing
_OBSERVATIONS_A_STILL = 20_000


@dataclass
class Departures:
    """Departures of the observations of some stills from their radial means.

    Attributes:
        still: (N,) their numbers
        keys: (K, N) packed voxel of the asymmetric unit in each of the K settings
        z: (N,) departure from the still's radial mean, in standard deviations
        strength: (N,) the radial mean, in standard deviations
        check: (N,) bool: voxels that take no part in the choice of settings, and check it
        orbit: (N,) key of the orbit of voxels that the settings map onto each other
    """

    still: np.ndarray
    keys: np.ndarray
    z: np.ndarray
    strength: np.ndarray
    check: np.ndarray
    orbit: np.ndarray

    def select(self, rows: np.ndarray) -> Departures:
        """Some of the observations: rows is a mask or indices (N,)."""
        return Departures(
            self.still[rows],
            self.keys[:, rows],
            self.z[rows],
            self.strength[rows],
            self.check[rows],
            self.orbit[rows],
        )


@dataclass
class CommonPart:
    """The part of the intensities that is the same in all settings, which must not decide between them.

    z is the departure of an observation from its still's radial mean, and strength this mean, both in
    standard deviations (see Departures). The settings map voxels onto each other: such a set is an
    orbit. The mean of z/strength over an orbit is the same in all settings. It is subtracted
    (`remove_from`) before settings are compared: otherwise the products of departures of two stills are
    positive in all settings, and the setting in which they share most voxels would seem the best.

    Attributes:
        orbits: (M,) int64 keys, ascending, see Departures.orbit
        mean: (M,) z/strength of each orbit, by least squares over all observations
    """

    orbits: np.ndarray
    mean: np.ndarray

    @classmethod
    def from_parts(cls, parts: Sequence[Departures]) -> CommonPart:
        """The common part of the reference stills."""
        orbits, inverse = np.unique(np.concatenate([p.orbit for p in parts]), return_inverse=True)
        strength = np.concatenate([p.strength for p in parts])
        z = np.concatenate([p.z for p in parts])
        squares = np.maximum(np.bincount(inverse, strength**2), 1e-300)
        return cls(orbits, np.bincount(inverse, z * strength) / squares)

    def remove_from(self, part: Departures) -> None:
        """Subtract the common part from the departures, in place."""
        row = np.minimum(np.searchsorted(self.orbits, part.orbit), len(self.orbits) - 1)
        part.z -= part.strength * np.where(self.orbits[row] == part.orbit, self.mean[row], 0.0)


def departures(table, grid: VoxelGrid, settings: Sequence[Setting]) -> Departures:
    """Departures of all stills of an extracted table from their radial means.

    Args:
        table: extracted observations
        grid: their grid
        settings: the possible ones
    """
    use = ~as_numpy(table["bragg"]) & (as_numpy(table["exposure"]) > 0)
    still = as_numpy(table["id"])[use].astype(np.int64)
    voxel = as_numpy(table["voxel"])[use].astype(np.int64)
    exposure = as_numpy(table["exposure"])[use]
    background = as_numpy(table["background"])[use]
    signal = as_numpy(table["counts"])[use] - background
    if not len(still):
        keys = np.zeros((len(settings), 0), dtype=np.int64)
        return Departures(still, keys, signal, signal, still > 0, still)
    unique, inverse = np.unique(pack_voxels(voxel), return_inverse=True)
    first = np.zeros(len(unique), dtype=np.int64)
    first[inverse] = np.arange(len(inverse))
    distinct = voxel[first]
    q = np.linalg.norm(grid.q_of_voxel(distinct), axis=1)[inverse]
    radial = np.minimum((q / q.max() * _N_RADIAL).astype(np.int64), _N_RADIAL - 1)
    ring = still * _N_RADIAL + radial
    with np.errstate(invalid="ignore"):
        mean = np.bincount(ring, signal) / np.bincount(ring, exposure)
    expected = mean[ring] * exposure
    variance = np.maximum(expected, 0) + background + as_numpy(table["background.variance"])[use]
    keys = np.stack([pack_voxels(grid.to_asu(distinct @ s.matrix.T)) for s in settings])
    # One pseudo-random number an orbit chooses the observations and the voxels that check
    orbit = keys.min(axis=0)
    draw = orbit.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    per_still = len(still) / len(np.unique(still))
    chosen = (draw >> np.uint64(40)) < np.uint64(
        min(1.0, _OBSERVATIONS_A_STILL / per_still) * 2**24
    )
    check = ((draw >> np.uint64(39)) & np.uint64(1)).astype(bool)
    keep = chosen[inverse] & (variance > 0)
    sigma = np.sqrt(variance[keep])
    row = inverse[keep]
    return Departures(
        still[keep],
        keys[:, row],
        (signal - expected)[keep] / sigma,
        expected[keep] / sigma,
        check[row],
        orbit[row],
    )
