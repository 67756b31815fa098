"""Interference of pairs of atoms, and the bonded and 1-3 pairs of a molecule.

A pair of atoms at the distance r scatters, averaged over all directions,
2 f_i f_j sin(2 pi q r)/(2 pi q r) (Debye, Ann. Phys. 46 (1915) 809). For bonded atoms, and for atoms
bonded to the same atom (1-3 pairs), it lasts beyond |q| = 1/A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from cctbx.eltbx import covalent_radii

from dials_diffuse.absolute.contents.form_factors import AtomicTables, form_factor

# Lengths in Angstrom (neutron distances for hydrogen, Allen & Bruno 2010; heavy atoms Engh & Huber
# 2001, averaged over the kinds of bond that proteins have)
_HYDROGEN_LENGTH = {"C": 1.09, "N": 1.02, "O": 0.98, "S": 1.34}
_SINGLE = {"CC": 1.525, "CN": 1.465, "CO": 1.425, "CS": 1.81, "SS": 2.04}
_CONJUGATED = {"CC": 1.39, "CN": 1.335}
_MIXED = {"CC": 1.515, "CN": 1.46}
_CARBONYL = 1.24
_WATER_ANGLE = 104.5

# Angstrom (Cordero et al. 2008); other elements are taken to have no covalent bonds
COVALENT_RADII = {
    element: round(covalent_radii.table(element).radius(), 2)
    for element in "H B C N O F Si P S Cl Se Br I".split()
}


@dataclass
class PairList:
    """Numbers of pairs of atoms by the elements and the distance.

    Attributes:
        counts: (element, element, distance in Angstrom to 0.01) -> pairs per unit cell,
            elements in alphabetic order
    """

    counts: dict[tuple[str, str, float], float] = field(default_factory=dict)

    def add(self, first: str, second: str, distance: float, number: float = 1.0) -> None:
        """Count pairs."""
        key = (*sorted((first, second)), round(float(distance), 2))
        self.counts[key] = self.counts.get(key, 0.0) + number

    def scaled(self, factor: float) -> PairList:
        """The same pairs, factor times as many."""
        return PairList({key: factor * number for key, number in self.counts.items()})

    def __add__(self, other: PairList) -> PairList:
        total = PairList(dict(self.counts))
        for key, number in other.counts.items():
            total.add(*key, number)
        return total

    def __len__(self) -> int:
        return len(self.counts)

    def debye_sum(self, q: np.ndarray, tables: AtomicTables) -> np.ndarray:
        """Sum over pairs of 2 Re(f_i f_j*) sin(2 pi q r)/(2 pi q r) (Debye 1915).

        Args:
            q: |q| (N,), 1/Angstrom

        Returns:
            (N,) electrons^2
        """
        q = np.atleast_1d(np.asarray(q, dtype=float))
        factors = {
            element: form_factor(element, q, tables)
            for element in {name for key in self.counts for name in key[:2]}
        }
        by_elements: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for (first, second, distance), number in self.counts.items():
            by_elements.setdefault((first, second), []).append((distance, number))
        total = np.zeros(q.shape)
        for (first, second), items in by_elements.items():
            distance, number = np.array(items).T
            # sinc of numpy is sin(pi x)/(pi x)
            waves = np.sinc(2 * q[:, None] * distance) @ number
            total += 2 * (factors[first] * np.conj(factors[second])).real * waves
        return total


@dataclass
class Molecule:
    """Atoms and bonds, with coordinates or without.

    Attributes:
        elements: of the N heavy (or all explicit) atoms
        hydrogens: number of implicit hydrogens on each
        trigonal: True for atoms with angles near 120 degrees
        bonds: (i, j), indices of atoms
        xyz: (N, 3) in Angstrom, None for ideal geometry
        weights: occupancies (N,), None for 1
        conformers: (N,) labels of alternate conformers, "" for none; None where there are none
    """

    elements: Sequence[str]
    hydrogens: Sequence[int]
    trigonal: Sequence[bool]
    bonds: Sequence[tuple[int, int]]
    xyz: np.ndarray | None = None
    weights: np.ndarray | None = None
    conformers: Sequence[str] | None = None

    @property
    def occupancies(self) -> np.ndarray:
        """(N,)"""
        return np.ones(len(self.elements)) if self.weights is None else self.weights

    def neighbours(self) -> list[list[int]]:
        """Bonded atoms of each atom, in the order of the bonds."""
        neighbours: list[list[int]] = [[] for _ in self.elements]
        for i, j in self.bonds:
            neighbours[i].append(j)
            neighbours[j].append(i)
        return neighbours

    def bond_length(self, i: int, j: int, degree: Sequence[int]) -> float:
        """Distance of bonded atoms in Angstrom, from coordinates or an ideal one.

        Args:
            degree: (N,) number of bonds of each atom
        """
        if self.xyz is not None:
            return float(np.linalg.norm(self.xyz[i] - self.xyz[j]))
        trigonal = self.trigonal[i], self.trigonal[j]
        bare = any(
            self.elements[k] == "O" and degree[k] == 1 and not self.hydrogens[k] for k in (i, j)
        )
        return ideal_length(self.elements[i], self.elements[j], all(trigonal), any(trigonal), bare)


def ideal_length(
    first: str, second: str, both_trigonal: bool, one_trigonal: bool, bare: bool
) -> float:
    """Bond length in Angstrom of two heavy atoms without coordinates.

    Args:
        first, second: elements
        both_trigonal, one_trigonal: hybridisation of the two
        bare: the bond ends at an oxygen without hydrogen and other neighbours
    """
    name = "".join(sorted((first, second)))
    if name == "CO" and bare:
        return _CARBONYL
    if both_trigonal and name in _CONJUGATED:
        return _CONJUGATED[name]
    if one_trigonal and name in _MIXED:
        return _MIXED[name]
    if name in _SINGLE:
        return _SINGLE[name]
    return sum(COVALENT_RADII.get(e, 0.9) for e in (first, second))


def _angle(element: str, trigonal: bool, neighbours: int) -> float:
    """Angle between the bonds of an atom, degrees."""
    if element == "S":
        return 100.0
    if trigonal:
        return 120.0
    if element == "O" and neighbours == 2:
        return 109.0
    return 110.5


def third_side(first: float, second: float, angle: float) -> float:
    """Distance of the ends of two bonds that make an angle (degrees)."""
    return float(np.sqrt(first**2 + second**2 - 2 * first * second * np.cos(np.radians(angle))))


def pairs_of(molecule: Molecule) -> PairList:
    """Bonded and 1-3 pairs of a molecule, implicit hydrogens included."""
    pairs = PairList()
    elements, weights, neighbours = molecule.elements, molecule.occupancies, molecule.neighbours()
    degree = [len(bonded) for bonded in neighbours]
    lengths: list[list[float]] = [[] for _ in elements]
    for i, j in molecule.bonds:
        length = molecule.bond_length(i, j, degree)
        lengths[i].append(length)
        lengths[j].append(length)
        pairs.add(elements[i], elements[j], length, min(weights[i], weights[j]))
    for i, element in enumerate(elements):
        angle = _angle(element, molecule.trigonal[i], degree[i] + molecule.hydrogens[i])
        bonded = list(zip(neighbours[i], lengths[i]))
        for a, (j, first) in enumerate(bonded):
            for k, second in bonded[:a]:
                if molecule.xyz is not None:
                    distance = float(np.linalg.norm(molecule.xyz[j] - molecule.xyz[k]))
                else:
                    distance = third_side(first, second, angle)
                number = min(weights[i], weights[j], weights[k])
                pairs.add(elements[j], elements[k], distance, number)
        if molecule.hydrogens[i]:
            _add_hydrogen_pairs(pairs, molecule, i, angle, bonded)
    return pairs


def _add_hydrogen_pairs(
    pairs: PairList, molecule: Molecule, i: int, angle: float, bonded: list[tuple[int, float]]
) -> None:
    """Add the pairs of the implicit hydrogens on atom i, in place.

    Args:
        angle: between the bonds of atom i, degrees
        bonded: (atom, length of the bond) of the explicit neighbours
    """
    element, hydrogens, weights = molecule.elements[i], molecule.hydrogens[i], molecule.occupancies
    bond = _HYDROGEN_LENGTH.get(element, 1.0)
    pairs.add(element, "H", bond, hydrogens * weights[i])
    for j, length in bonded:
        number = hydrogens * min(weights[i], weights[j])
        pairs.add(molecule.elements[j], "H", third_side(length, bond, angle), number)
    if hydrogens > 1:
        if element == "O":
            angle = _WATER_ANGLE
        number = hydrogens * (hydrogens - 1) / 2 * weights[i]
        pairs.add("H", "H", third_side(bond, bond, angle), number)


WATER = Molecule(["O"], [2], [False], [])


def may_bond(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) bool: pairs of conformer labels (N,) that exist together: equal, or one is ""."""
    return (first == second) | (first == "") | (second == "")


def bonds_from_distances(
    elements: Sequence[str], xyz: np.ndarray, conformers: Sequence[str], slack: float = 0.4
) -> list[tuple[int, int]]:
    """Bonds of a model: pairs closer than their covalent radii + slack (Angstrom).

    Atoms of different alternate conformers (labels; "" for none) are not bonded.
    """
    if len(xyz) < 2:
        return []
    candidates = cKDTree(xyz).query_pairs(2.6, output_type="ndarray")
    radii = np.array([COVALENT_RADII.get(e, -9.0) for e in elements])
    i, j = candidates[:, 0], candidates[:, 1]
    distance = np.linalg.norm(xyz[i] - xyz[j], axis=1)
    hydrogen = np.array([e == "H" for e in elements])
    # two hydrogens never bond, and 0.4 is generous next to a hydrogen
    limit = radii[i] + radii[j] + np.where(hydrogen[i] | hydrogen[j], 0.2, slack)
    labels = np.array(conformers, dtype=object)
    keep = (
        (distance < limit)
        & (distance > 0.5)
        & may_bond(labels[i], labels[j])
        & ~(hydrogen[i] & hydrogen[j])
    )
    return [(int(a), int(b)) for a, b in candidates[keep]]


def count_atoms(molecule: Molecule) -> dict[str, float]:
    """Element -> atoms, implicit hydrogens included, weighted by occupancy."""
    atoms: dict[str, float] = {}
    for element, hydrogens, weight in zip(
        molecule.elements, molecule.hydrogens, molecule.occupancies
    ):
        atoms[element] = atoms.get(element, 0.0) + float(weight)
        if hydrogens:
            atoms["H"] = atoms.get("H", 0.0) + float(weight) * hydrogens
    return atoms


def add_atoms(*parts: Mapping[str, float]) -> dict[str, float]:
    """Sum of element counts."""
    total: dict[str, float] = {}
    for atoms in parts:
        for element, number in atoms.items():
            total[element] = total.get(element, 0.0) + number
    return total


def sum_pairs(lists: Iterable[PairList]) -> PairList:
    """All pairs of several lists."""
    total = PairList()
    for pairs in lists:
        total = total + pairs
    return total
