"""Radial profile of a still, for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


def radial_profile(columns: dict[str, np.ndarray], a_over_n: np.ndarray) -> Profile:
    """Profile of a still from its observations, each at its voxel's centre.

    Args:
        columns: of StillObservations
        a_over_n: (3, 3) matrix from voxels to q in 1/Angstrom
    """
    h, k, l = columns["voxel"].T
    q = np.sqrt(sum((row[0] * h + row[1] * k + row[2] * l) ** 2 for row in a_over_n))
    bins = (q / PROFILE_STEP).astype(np.int64)
    n_bins = int(bins.max()) + 1
    bragg = columns["bragg"]

    def sums(name: str) -> tuple[np.ndarray, np.ndarray]:
        """Of the diffuse observations, and of all"""
        by_kind = np.bincount(bins + n_bins * bragg, columns[name], 2 * n_bins).reshape(2, n_bins)
        return by_kind[0], by_kind.sum(axis=0)

    photons, all_photons = sums("counts")
    background, all_background = sums("background")
    exposure, all_exposure = sums("exposure")
    with np.errstate(divide="ignore", invalid="ignore"):
        return Profile(
            q=(np.arange(n_bins) + 0.5) * PROFILE_STEP,
            diffuse=(photons - background) / exposure,
            total=(all_photons - all_background) / all_exposure,
            background=all_background / all_exposure,
            photons=photons,
            exposure=exposure,
            num_pixels=int(columns["num_pixels.valid"][~bragg].sum()),
        )
