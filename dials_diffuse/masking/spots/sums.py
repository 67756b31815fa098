"""Sums over images around the nodes of crystals, from which the size of Bragg spots is measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dials_diffuse.masking.spots.shape import SpotShape

Q_BINS = 8
EXCITATION_BINS = 40
PLANE_BINS = 41
# Sums are over nodes as far from the sphere as any usable crystal reaches
WIDEST = SpotShape.isotropic(1e-3, 8e-3)
WIDEST_SIGMA = 3.0


@dataclass
class SpotSums:
    """Scattering above the ring mean around nodes, by |q| and displacement.

    Attributes:
        q_max: |q| of the last of Q_BINS equal bins, 1/Angstrom
        window: half width of the plane histogram, 1/Angstrom
        excess, pixels, level: scattering above the ring means, number of pixels and sum
            of the ring means (Q_BINS, EXCITATION_BINS) by |excitation| / (its largest for that |q|)
        plane_excess, plane_pixels: (Q_BINS, PLANE_BINS, PLANE_BINS) by radial and
            tangential displacement from the predicted position
        pixel_variance: (Q_BINS, 2) sum over nodes of a pixel's own variance, radial and
            tangential, 1/Angstrom^2; nodes: (Q_BINS,) their number
        strength: (Q_BINS, 2) sums of the nodes' excesses and of their squares
        orientations: crystals of different orientation; stills: crystals
    """

    q_max: float
    window: float
    excess: np.ndarray = field(default_factory=lambda: np.zeros((Q_BINS, EXCITATION_BINS)))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((Q_BINS, EXCITATION_BINS)))
    level: np.ndarray = field(default_factory=lambda: np.zeros((Q_BINS, EXCITATION_BINS)))
    plane_excess: np.ndarray = field(
        default_factory=lambda: np.zeros((Q_BINS, PLANE_BINS, PLANE_BINS))
    )
    plane_pixels: np.ndarray = field(
        default_factory=lambda: np.zeros((Q_BINS, PLANE_BINS, PLANE_BINS))
    )
    pixel_variance: np.ndarray = field(default_factory=lambda: np.zeros((Q_BINS, 2)))
    nodes: np.ndarray = field(default_factory=lambda: np.zeros(Q_BINS))
    strength: np.ndarray = field(default_factory=lambda: np.zeros((Q_BINS, 2)))
    orientations: int = 1
    stills: int = 0

    def add(self, other: SpotSums) -> None:
        """Add the sums of other images (of the same q_max and window), in place."""
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                array += getattr(other, name)
        self.stills += other.stills

    def independent_spots(self) -> np.ndarray:
        """(Q_BINS,) how many equally strong spots would average as well as these: the square
        of their sum over the sum of squares; the same crystal seen again counts once."""
        total, square = self.strength.T
        number = np.where(square > 0, total**2 / np.maximum(square, 1e-30), 0.0)
        return number * self.orientations / max(self.stills, 1)

    def q_of_bins(self) -> np.ndarray:
        """|q| in the middle of the bins, 1/Angstrom."""
        return (np.arange(Q_BINS) + 0.5) * self.q_max / Q_BINS

    def excitation_of_bins(self) -> np.ndarray:
        """(Q_BINS, EXCITATION_BINS) |excitation| in the middle of the bins, 1/Angstrom."""
        largest = WIDEST_SIGMA * np.hypot(WIDEST.size, WIDEST.angle * self.q_of_bins())
        return largest[:, None] * (np.arange(EXCITATION_BINS) + 0.5) / EXCITATION_BINS
