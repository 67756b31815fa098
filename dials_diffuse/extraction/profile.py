"""Radial profile of a still, for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

PROFILE_STEP = 0.005  # width of the bins in |q|, 1/Angstrom


@dataclass
class Profile:
    """Mean corrected intensity of a still against |q|.

    Attributes:
        q: (n,) centres of the bins, 1/Angstrom
        diffuse: (n,) intensity of the pixels outside the Bragg mask, photons/(s sr), NaN where none
        total: (n,) the same of all pixels, Bragg included
        background: (n,) what was subtracted from both
        photons, exposure: (n,) sums behind the diffuse profile
        num_pixels: outside the Bragg mask
    """

    q: np.ndarray
    diffuse: np.ndarray
    total: np.ndarray
    background: np.ndarray
    photons: np.ndarray
    exposure: np.ndarray
    num_pixels: int

    @property
    def unsubtracted(self) -> np.ndarray:
        """(n,) intensity of the pixels outside the Bragg mask with the background still in it"""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.photons / self.exposure


@njit(cache=True)
def _sums_of_bins(voxel, a_over_n, bragg, num_pixels, counts, background, exposure):
    """(n, 2, 3) counts, background and exposure by bin and Bragg flag, and pixels outside of Bragg."""
    bins = np.empty(bragg.size, dtype=np.int32)
    n_bins = 0
    for row in range(bragg.size):
        h, k, l = voxel[row, 0], voxel[row, 1], voxel[row, 2]
        x = a_over_n[0, 0] * h + a_over_n[0, 1] * k + a_over_n[0, 2] * l
        y = a_over_n[1, 0] * h + a_over_n[1, 1] * k + a_over_n[1, 2] * l
        z = a_over_n[2, 0] * h + a_over_n[2, 1] * k + a_over_n[2, 2] * l
        bins[row] = np.int32(np.sqrt(x * x + y * y + z * z) / PROFILE_STEP)
        n_bins = max(n_bins, bins[row] + 1)
    sums = np.zeros((n_bins, 2, 3))
    pixels = 0
    for row in range(bragg.size):
        into = sums[bins[row], 1 if bragg[row] else 0]
        into[0] += counts[row]
        into[1] += background[row]
        into[2] += exposure[row]
        if not bragg[row]:
            pixels += num_pixels[row]
    return sums, pixels


def radial_profile(columns: dict[str, np.ndarray], a_over_n: np.ndarray) -> Profile:
    """Profile of a still from its observations, each at its voxel's centre.

    Args:
        columns: of StillObservations
        a_over_n: (3, 3) matrix from voxels to q in 1/Angstrom
    """
    names = ("bragg", "num_pixels.valid", "counts", "background", "exposure")
    sums, num_pixels = _sums_of_bins(columns["voxel"], a_over_n, *(columns[name] for name in names))
    photons, background, exposure = sums[:, 0].T
    all_photons, all_background, all_exposure = sums.sum(axis=1).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return Profile(
            q=(np.arange(len(sums)) + 0.5) * PROFILE_STEP,
            diffuse=(photons - background) / exposure,
            total=(all_photons - all_background) / all_exposure,
            background=all_background / all_exposure,
            photons=photons,
            exposure=exposure,
            num_pixels=int(num_pixels),
        )
