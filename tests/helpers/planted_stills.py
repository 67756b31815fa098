"""Stills made with numpy and dxtbx alone: a function of h gives the expected photons of each pixel.

They share no code with dials_diffuse, so that features of the crystal, salt and shadows can be planted
whose right masks are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dxtbx.format.FormatCBFMini import FormatCBFMini
from dxtbx.model import BeamFactory, Crystal, DetectorFactory
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory

from dials.array_family import flex


@dataclass
class PlantedStills:
    """Stills of one crystal, one panel, with photons that follow h and photons that follow the pixel.

    Attributes:
        cell, space_group: of the crystal
        level: photons a pixel, of the smooth scattering
        of_crystal: function of h (n_slow, n_fast, 3) -> brightness relative to the level, 1 = as bright
        size: n_fast, n_slow
        pixel, distance: mm; the wavelength is 1 Angstrom
        spots: height of Bragg spots relative to the level; sigma: their width, 1/Angstrom
        orientations: rotation vectors (radians) of the stills; as many stills as rows
        decorate: function of (expected photons, number of the still, generator), which changes them
        seed: of the photons
    """

    of_crystal: Callable[[np.ndarray], np.ndarray]
    orientations: np.ndarray
    cell: tuple[float, float, float] = (20.0, 24.0, 30.0)
    space_group: str = "P222"
    level: float = 1.0
    size: tuple[int, int] = (700, 700)
    pixel: float = 0.15
    distance: float = 120.0
    spots: float = 100.0
    sigma: float = 0.0015
    decorate: Callable[[np.ndarray, int, np.random.Generator], None] | None = None
    seed: int = 1
    experiments: ExperimentList = field(default_factory=ExperimentList)

    def models(self):
        """(detector, beam)"""
        centre = tuple(0.5 * n * self.pixel for n in self.size)
        detector = DetectorFactory.simple(
            "PAD", self.distance, centre, "+x", "-y", (self.pixel,) * 2, self.size, (-1, 1e6)
        )
        return detector, BeamFactory.simple(1.0)

    def crystal(self, number: int) -> Crystal:
        """The crystal of a still."""
        vector = np.asarray(self.orientations[number], dtype=float)
        crystal = Crystal(*np.diag(self.cell).tolist(), self.space_group)
        angle = float(np.linalg.norm(vector))
        if angle > 0:
            crystal.rotate_around_origin(tuple(vector / angle), angle, deg=False)
        return crystal

    def h(self, number: int) -> np.ndarray:
        """Miller indices at the centres of the pixels, (n_slow, n_fast, 3)."""
        detector, beam = self.models()
        y, x = np.mgrid[: self.size[1], : self.size[0]] + 0.5
        d = np.array(detector[0].get_d_matrix()).reshape(3, 3)
        lab = np.stack([x * self.pixel, y * self.pixel, np.ones_like(x)], axis=-1) @ d.T
        q = lab / np.linalg.norm(lab, axis=-1, keepdims=True) - np.array(beam.get_s0())
        return q @ np.linalg.inv(np.array(self.crystal(number).get_A()).reshape(3, 3)).T

    def diffuse(self, number: int) -> np.ndarray:
        """Expected photons without Bragg spots and what `decorate` adds."""
        return self.level * self.of_crystal(self.h(number))

    def expected(self, number: int) -> np.ndarray:
        """Expected photons of all pixels of a still, (n_slow, n_fast)."""
        h = self.h(number)
        away = (h - np.rint(h)) / np.array(self.cell)
        square = (away**2).sum(axis=-1) / self.sigma**2
        return self.diffuse(number) + self.level * self.spots * np.exp(-0.5 * square)

    def image(self, number: int) -> np.ndarray:
        """Photons of all pixels of a still, (n_slow, n_fast) int32."""
        rng = np.random.default_rng((self.seed, number))
        photons = self.expected(number)
        if self.decorate is not None:
            self.decorate(photons, number, rng)
        return rng.poisson(photons).astype(np.int32)

    def write(self, folder: Path) -> PlantedStills:
        """Write the images into a folder, and fill `experiments`."""
        detector, beam = self.models()
        paths = [folder / f"still_{number:04d}.cbf" for number in range(len(self.orientations))]
        for number, path in enumerate(paths):
            FormatCBFMini.as_file(
                detector, beam, None, None, flex.int(self.image(number)), str(path)
            )
            (experiment,) = ExperimentListFactory.from_filenames([str(path)])
            experiment.detector, experiment.beam = detector, beam
            experiment.goniometer = experiment.scan = None
            experiment.crystal = self.crystal(number)
            experiment.identifier = f"still-{number}"
            self.experiments.append(experiment)
        return self


def random_orientations(n: int, seed: int = 3) -> np.ndarray:
    """Rotation vectors of n random orientations, (n, 3) radians."""
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=(n, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    angle = 2 * np.arccos(np.clip(quaternion[:, 0], -1, 1))
    sine = np.linalg.norm(quaternion[:, 1:], axis=1, keepdims=True)
    return quaternion[:, 1:] / np.maximum(sine, 1e-12) * angle[:, None]


@dataclass(frozen=True)
class Satellites:
    """Peaks at a distance from every node, that of its equivalents in mmm included.

    Attributes:
        at: fractions of the cell
        height: of their middle above the level, in levels
        cell: Angstrom
        sigma: 1/Angstrom
    """

    at: tuple[float, float, float] = (0.4, 0.3, 0.2)
    height: float = 9.0
    cell: tuple[float, float, float] = (20.0, 24.0, 30.0)
    sigma: float = 0.002

    def __call__(self, h: np.ndarray) -> np.ndarray:
        axes = []
        for i in range(3):
            away = [h[..., i] - sign * self.at[i] for sign in ({1, -1} if self.at[i] else {1})]
            least = np.min([np.abs(a - np.rint(a)) for a in away], axis=0)
            axes.append((least / self.cell[i] / self.sigma) ** 2)
        return 1 + self.height * np.exp(-0.5 * sum(axes))


@dataclass(frozen=True)
class Rods:
    """Lines along c* at h = at[0] and k = at[1] from every node; attributes as of Satellites."""

    at: tuple[float, float] = (0.5, 0.0)
    height: float = 9.0
    cell: tuple[float, float, float] = (20.0, 24.0, 30.0)
    sigma: float = 0.002

    def __call__(self, h: np.ndarray) -> np.ndarray:
        away = [h[..., i] - self.at[i] for i in range(2)]
        axes = [((a - np.rint(a)) / self.cell[i] / self.sigma) ** 2 for i, a in enumerate(away)]
        return 1 + self.height * np.exp(-0.5 * sum(axes))


@dataclass(frozen=True)
class Layers:
    """Bright layers at whole indices along an axis, and dark ones between.

    Attributes:
        axis: 0, 1 or 2
        width: half of a bright layer's width, as part of the distance of layers
        ratio: bright over dark
        beats: the strength of the layers goes up and down with their number
    """

    axis: int = 2
    width: float = 0.25
    ratio: float = 8.0
    beats: bool = False

    def __call__(self, h: np.ndarray) -> np.ndarray:
        along = h[..., self.axis]
        inside = np.abs(along - np.rint(along)) < self.width
        value = np.where(inside, self.ratio, 1.0)
        return value * (1 + 0.8 * np.cos(1.3 * np.rint(along))) if self.beats else value


def salt(spots_an_image: int, height: float, seed: int = 11):
    """Spots of 3 x 3 pixels at other places on every still, for `decorate`.

    Args:
        spots_an_image: their number
        height: photons of each of their pixels
    """

    def add(photons, number, _):
        rng = np.random.default_rng((seed, number))
        y = rng.integers(2, photons.shape[0] - 2, spots_an_image)
        x = rng.integers(2, photons.shape[1] - 2, spots_an_image)
        for j in (-1, 0, 1):
            for i in (-1, 0, 1):
                photons[y + j, x + i] += height

    return add
