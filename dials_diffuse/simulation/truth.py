"""The true scattering of the simulated crystal, by definition.

Intensities are in electrons^2 per unit cell. Everything can be evaluated at any
reciprocal-space point, and again from the file, which holds parameters and seed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numba
import numpy as np

from cctbx import sgtbx, uctbx

from dials_diffuse.simulation import atoms
from dials_diffuse.simulation.settings import TruthSettings

# The anisotropic factor is kept above this, so that no intensity is negative.
LOWEST_FACTOR = 0.05


# sin(pi x) = x sum_k SINE[k] x^(2k), its Taylor series: for |x| <= 1/2 the first term
# left out is below 1e-14
SINE = np.array([(-1.0) ** k * np.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(10)])


@numba.njit(cache=True, fastmath={"reassoc", "contract"})
def _waves(hkl, displacements, weights, lengths, q, out):
    """out[n] = sum_k w_k ( mean_R cos(2 pi h.R r_k) - sinc(2 q |r_k|) ).

    The sinc is the mean of the cosine over a spherical shell, so that the sum has
    no shell mean. The cosine is 1 - 2 sin^2 of half the angle, the sine a
    series in the fraction of a turn: the loop over operators becomes vector
    instructions, six times faster than calls of cos.

    Args:
        hkl: (N, 3).
        displacements: (terms, 3, operators), fractional.
        weights: (terms,).
        lengths: (terms,) |r_k|, Angstrom.
        q: (N,) 1/Angstrom.
        out: (N,), written.
    """
    n_terms, n_ops = displacements.shape[0], displacements.shape[2]
    for n in range(hkl.shape[0]):
        h, k, l = hkl[n, 0], hkl[n, 1], hkl[n, 2]
        total = 0.0
        for t in range(n_terms):
            squares = 0.0
            for o in range(n_ops):
                turns = (
                    h * displacements[t, 0, o]
                    + k * displacements[t, 1, o]
                    + l * displacements[t, 2, o]
                )
                x = turns - np.floor(turns + 0.5)
                y = x * x
                sine = SINE[9]
                sine = sine * y + SINE[8]
                sine = sine * y + SINE[7]
                sine = sine * y + SINE[6]
                sine = sine * y + SINE[5]
                sine = sine * y + SINE[4]
                sine = sine * y + SINE[3]
                sine = sine * y + SINE[2]
                sine = sine * y + SINE[1]
                sine = sine * y + SINE[0]
                squares += sine * sine * y
            angle = 2.0 * np.pi * q[n] * lengths[t]
            shell_mean = np.sin(angle) / angle if angle > 1e-6 else 1.0
            total += weights[t] * (1.0 - 2.0 * squares / n_ops - shell_mean)
        out[n] = total


def space_group_of(symbol: str) -> sgtbx.space_group:
    """cctbx space group of a symbol.

    Raises:
        ValueError: there is no such space group.
    """
    try:
        return sgtbx.space_group_info(str(symbol)).group()
    except RuntimeError as error:
        raise ValueError(f"unknown space group {symbol!r}") from error


class DiffuseTruth:
    """Diffuse, solvent and Compton scattering of one unit cell.

    The anisotropic part is a sum of random waves cos(2 pi h.r), r short
    against the cell so that the intensity varies on the scale of several
    voxels, averaged over the rotations of the Laue group (cosines are even:
    Friedel's law holds by itself), less its mean over a shell:

        I(h) = envelope(|q|) * max(1 + anisotropy * waves(h), 0.05) + halo(h)

    Args:
        unit_cell: six parameters of the reference cell, Angstrom and degrees.
            A still with a cell of its own has this scattering at the same
            fractional indices.
        space_group: symbol; only its Laue group and centring matter here.
        settings: what to include.
        seed: of the random waves.
    """

    def __init__(self, unit_cell, space_group: str, settings: TruthSettings, seed: int):
        self.unit_cell = tuple(float(x) for x in unit_cell)
        self.space_group = str(space_group)
        self.settings = settings
        self.seed = int(seed)
        try:
            cell = uctbx.unit_cell(self.unit_cell)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"crystal.unit_cell {self.unit_cell} is none: {error}") from error
        group = space_group_of(self.space_group)
        if not group.is_compatible_unit_cell(cell):
            raise ValueError(
                f"crystal.unit_cell {self.unit_cell} does not fit space group {self.space_group}"
            )
        self.atoms = {
            element: number * settings.copies
            for element, number in atoms.parse_composition(settings.composition).items()
        }
        # q = F^T h with F the fractionalization matrix: rows of F are a*, b*, c*
        self._reciprocal = np.array(cell.fractionalization_matrix()).reshape(3, 3)
        laue = group.build_derived_laue_group()
        rotations = [np.array(op.r().as_double()).reshape(3, 3) for op in laue.smx()]
        rotations = np.array([r if np.linalg.det(r) > 0 else -r for r in rotations])
        self._rotations = np.unique(np.rint(rotations).astype(int), axis=0)
        self._centring = np.array(
            [op.t().as_double() for op in group.all_ops() if op.r().is_unit_mx()]
        )
        self._draw_waves(cell)

    def _draw_waves(self, cell) -> None:
        settings = self.settings
        generator = np.random.default_rng(np.random.SeedSequence(self.seed))
        direction = generator.normal(size=(settings.terms, 3))
        direction /= np.linalg.norm(direction, axis=1)[:, None]
        # not shorter than 0.4 of the longest: shorter waves hardly vary at all
        self._lengths = settings.correlation_length * generator.uniform(0.4, 1.0, settings.terms)
        cartesian = direction * self._lengths[:, None]
        fractional = cartesian @ self._reciprocal.T
        # h -> h R for indices is r -> R r for the displacement
        self._displacements = np.ascontiguousarray(
            np.einsum("oij,tj->tio", self._rotations, fractional)
        )
        weights = generator.uniform(0.5, 1.0, settings.terms) * generator.choice(
            (-1.0, 1.0), settings.terms
        )
        self._weights = weights
        if settings.terms:
            # normalise to unit variance over directions, at random points beyond 1/8 A^-1
            points = generator.normal(size=(4000, 3))
            points /= np.linalg.norm(points, axis=1)[:, None]
            points *= generator.uniform(0.125, 0.6, 4000)[:, None]
            hkl = points @ np.linalg.inv(self._reciprocal)
            self._weights = weights / np.std(self._waves_at(hkl))

    def q(self, hkl: np.ndarray) -> np.ndarray:
        """|q|, 1/Angstrom, (N,), of fractional indices (N, 3) in the reference cell."""
        return np.linalg.norm(np.asarray(hkl, dtype=float) @ self._reciprocal, axis=1)

    def _waves_at(self, hkl: np.ndarray) -> np.ndarray:
        hkl = np.ascontiguousarray(hkl, dtype=float)
        out = np.empty(len(hkl))
        _waves(hkl, self._displacements, self._weights, self._lengths, self.q(hkl), out)
        return out

    def envelope(self, q: np.ndarray) -> np.ndarray:
        """Shell mean of the diffuse intensity without halo, electrons^2 per unit cell."""
        settings = self.settings
        q = np.asarray(q, dtype=float)
        if settings.envelope == "debye_waller":
            return self.sum_f_squared(q) * -np.expm1(-settings.b_factor * q**2 / 2)
        f0 = float(self.sum_f_squared(np.zeros(1))[0])
        if settings.envelope == "gaussian":
            return f0 * np.exp(-(q**2) / (2 * settings.width**2))
        return np.full(q.shape, f0)

    def sum_f_squared(self, q: np.ndarray) -> np.ndarray:
        """Sum of f0^2 over the atoms of the unit cell, electrons^2."""
        return atoms.sum_f_squared(self.atoms, np.asarray(q, dtype=float))

    def halo(self, hkl: np.ndarray) -> np.ndarray:
        """Periodic halo around the nodes that the centring allows, (N,), 0 to 1.

        A product of von Mises functions exp((cos 2 pi h - 1) / (2 pi s)^2),
        whose width s is halo_width in units of the axis, made symmetric.
        """
        hkl = np.asarray(hkl, dtype=float)
        total = np.zeros(len(hkl))
        axis_lengths = np.linalg.norm(self._reciprocal, axis=1)
        kappa = (axis_lengths / (2 * np.pi * self.settings.halo_width)) ** 2
        for rotation in self._rotations:
            turned = hkl @ rotation
            peak = np.exp(((np.cos(2 * np.pi * turned) - 1) * kappa).sum(axis=1))
            # 1 on nodes that the centring allows, 0 on the others
            phases = 2j * np.pi * (turned @ self._centring.T)
            total += peak * np.abs(np.exp(phases).mean(axis=1)) ** 2
        return total / len(self._rotations)

    def intensity(self, hkl: np.ndarray) -> np.ndarray:
        """Anisotropic diffuse intensity, electrons^2 per unit cell.

        Args:
            hkl: fractional Miller indices, (N, 3).

        Returns:
            (N,) array.
        """
        hkl = np.ascontiguousarray(hkl, dtype=float)
        settings = self.settings
        envelope = self.envelope(self.q(hkl))
        factor = np.ones(len(hkl))
        if settings.anisotropy > 0 and settings.terms:
            factor = np.maximum(1.0 + settings.anisotropy * self._waves_at(hkl), LOWEST_FACTOR)
        if settings.halo > 0:
            factor = factor + settings.halo * self.halo(hkl)
        return envelope * factor

    def isotropic(self, q: np.ndarray) -> np.ndarray:
        """Ring of the solvent, electrons^2 per unit cell, at |q| (N,) in 1/Angstrom."""
        settings = self.settings
        q = np.asarray(q, dtype=float)
        if settings.solvent <= 0:
            return np.zeros(q.shape)
        height = settings.solvent * float(
            self.sum_f_squared(np.array([settings.solvent_position]))[0]
        )
        x = (q - settings.solvent_position) / settings.solvent_width
        return height * np.exp(-(x**2) / 2)

    def compton(self, q: np.ndarray) -> np.ndarray:
        """Incoherent scattering, electrons^2 per unit cell, at |q| (N,) in 1/Angstrom."""
        q = np.asarray(q, dtype=float)
        if not self.settings.compton:
            return np.zeros(q.shape)
        return atoms.sum_incoherent(self.atoms, q)

    def total(self, hkl: np.ndarray) -> np.ndarray:
        """All but Bragg peaks: what a merged diffuse map should hold, (N,)."""
        q = self.q(hkl)
        return self.intensity(hkl) + self.isotropic(q) + self.compton(q)

    def bragg_envelope(self, q: np.ndarray) -> np.ndarray:
        """Wilson mean of |F|^2: sum f^2 exp(-B q^2 / 2), electrons^2 per unit cell."""
        q = np.asarray(q, dtype=float)
        return self.sum_f_squared(q) * np.exp(-self.settings.b_factor * q**2 / 2)

    def to_dict(self) -> dict:
        """Plain JSON from which `from_dict` makes the same truth."""
        return {
            "unit_cell": list(self.unit_cell),
            "space_group": self.space_group,
            "seed": self.seed,
            "settings": dataclasses.asdict(self.settings),
        }

    @classmethod
    def from_dict(cls, values: dict) -> DiffuseTruth:
        return cls(
            values["unit_cell"],
            values["space_group"],
            TruthSettings(**values["settings"]),
            values["seed"],
        )

    @classmethod
    def from_file(cls, path: str | Path) -> DiffuseTruth:
        """The truth of a simulation, from its truth.json.

        Raises:
            ValueError: the file is not one of a simulation.
        """
        values = json.loads(Path(path).read_text())
        if "truth" not in values:
            raise ValueError(f"{path} holds no simulated truth")
        return cls.from_dict(values["truth"])
