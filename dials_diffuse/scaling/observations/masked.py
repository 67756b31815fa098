"""How much of each voxel lies under the Bragg mask."""

from __future__ import annotations

import numpy as np
from numba import njit

from dials_diffuse.scaling.observations.voxel_index import VoxelIndex


@njit(cache=True)
def _add(number, exposure, total):
    for k in range(len(number)):
        total[number[k]] += exposure[k]


class ExposureByVoxel:
    """Sums of exposures by voxel, of any rows. Memory grows with the voxels."""

    def __init__(self):
        self._index = VoxelIndex()
        self._total = np.zeros(1 << 12)

    def add(self, voxels: np.ndarray, exposure: np.ndarray) -> None:
        """Add the exposures (N,) of packed voxels (N,), s sr."""
        number = self._index.add(voxels)
        if len(self._index) > len(self._total):
            size = max(len(self._index), 2 * len(self._total))
            self._total = np.concatenate((self._total, np.zeros(size - len(self._total))))
        _add(number, exposure, self._total)

    def of(self, voxels: np.ndarray) -> np.ndarray:
        """Sums (N,) of packed voxels (N,), 0 where nothing was added."""
        number = self._index.find(voxels)
        return np.where(number >= 0, self._total[number], 0.0)


def masked_fraction(
    voxels: np.ndarray, masked: ExposureByVoxel, unmasked: ExposureByVoxel
) -> np.ndarray:
    """(V,): share of each voxel's exposure that lies under the Bragg mask, over all stills.

    Diffuse scattering rises towards the node. Where this share is large, the merged intensity is that of the voxel's
    far part.

    Args:
        voxels: (V,) packed
        masked, unmasked: exposures under the Bragg mask, and of all other usable rows
    """
    under, rest = masked.of(voxels), unmasked.of(voxels)
    with np.errstate(invalid="ignore"):
        return np.where(under + rest > 0, under / (under + rest), 0.0)
