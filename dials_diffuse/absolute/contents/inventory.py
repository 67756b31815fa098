"""The atoms of one unit cell, their neighbours, and what they scatter."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dials_diffuse.absolute.contents.form_factors import (
    AtomicTables,
    atomic_number,
    atomic_weight,
    form_factor,
    incoherent_factor,
)
from dials_diffuse.absolute.contents.pairs import PairList, add_atoms, sum_pairs


@dataclass
class Part:
    """A part of the contents of the unit cell.

    Attributes:
        name: for the table
        atoms: element -> atoms per unit cell
        pairs: bonded and 1-3 pairs per unit cell, None where not known
        ordered: contributes to Bragg intensities at high resolution
        distant: further pairs, tapered, None where not known
        distant_error: relative uncertainty of the scattering of the distant pairs
        number_error: relative uncertainty of the number of atoms
    """

    name: str
    atoms: dict[str, float]
    pairs: PairList | None
    ordered: bool = True
    distant: PairList | None = None
    distant_error: float = 0.0
    number_error: float = 0.0

    @property
    def electrons(self) -> float:
        """Per unit cell"""
        return sum(n * atomic_number(e) for e, n in self.atoms.items())

    @property
    def mass(self) -> float:
        """Da per unit cell"""
        return sum(n * atomic_weight(e) for e, n in self.atoms.items())


@dataclass
class UnitCellInventory:
    """All atoms of one unit cell.

    Attributes:
        parts: macromolecule, ligands, solvent
        volume: of the unit cell, Angstrom^3
        source: where the composition comes from, for the log
        solvent_content: fraction of the volume outside the macromolecule
        matthews: volume per mass without solvent, Angstrom^3/Da
        warnings: what is implausible about it
    """

    parts: list[Part]
    volume: float
    source: str
    solvent_content: float
    matthews: float
    warnings: list[str] = field(default_factory=list)

    @property
    def atoms(self) -> dict[str, float]:
        """Element -> atoms per unit cell"""
        return add_atoms(*(part.atoms for part in self.parts))

    @property
    def electrons(self) -> float:
        """Z of the unit cell"""
        return sum(part.electrons for part in self.parts)

    @property
    def mass(self) -> float:
        """Da"""
        return sum(part.mass for part in self.parts)

    @property
    def has_pairs(self) -> bool:
        """True if neighbours are known for the ordered part"""
        return any(part.ordered and part.pairs is not None for part in self.parts)

    def _parts(self, ordered: bool) -> list[Part]:
        return [part for part in self.parts if part.ordered or not ordered]

    def sum_f_squared(
        self, q: np.ndarray, tables: AtomicTables, ordered: bool = False
    ) -> np.ndarray:
        """Sum over the atoms of |f|^2, (N,), electrons^2 per unit cell.

        Args:
            q: |q| (N,), 1/Angstrom
            ordered: only the atoms that are ordered
        """
        atoms = add_atoms(*(part.atoms for part in self._parts(ordered)))
        return sum(n * np.abs(form_factor(e, q, tables)) ** 2 for e, n in atoms.items())

    def incoherent(self, q: np.ndarray, tables: AtomicTables) -> np.ndarray:
        """Sum over the atoms of the incoherent scattering, (N,), electrons^2 per unit cell."""
        return sum(n * incoherent_factor(e, q, tables) for e, n in self.atoms.items())

    def pair_sum(self, q: np.ndarray, tables: AtomicTables, ordered: bool = False) -> np.ndarray:
        """Interference of neighbours at rest, (N,), electrons^2 per unit cell.

        Bonded, 1-3 and distant pairs are counted. The distant ones are tapered, so that the sum is
        valid beyond |q| = 0.3/A.
        """
        lists = [
            pairs
            for part in self._parts(ordered)
            for pairs in (part.pairs, part.distant)
            if pairs is not None
        ]
        return sum_pairs(lists).debye_sum(q, tables)

    def distant_uncertainty(self, q: np.ndarray, tables: AtomicTables) -> np.ndarray:
        """Uncertainty of the interference of distant pairs (N,), electrons^2 per unit cell."""
        lists = [
            part.distant.scaled(part.distant_error)
            for part in self.parts
            if part.distant is not None
        ]
        return sum_pairs(lists).debye_sum(q, tables)

    def uncertainty(self, tables: AtomicTables, q: float = 0.5) -> float:
        """Relative uncertainty of sum f^2 at |q| from the uncertain numbers of atoms."""
        total = self.sum_f_squared(np.array([q]), tables)[0]
        square = 0.0
        for part in self.parts:
            own = sum(n * abs(form_factor(e, [q], tables)[0]) ** 2 for e, n in part.atoms.items())
            square += (part.number_error * own / total) ** 2
        return float(np.sqrt(square))
