"""Bonded and 1-3 pairs of atoms: the part of interference that does not die out below 1/A."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dials_diffuse.absolute.form_factors import AtomicTables, form_factor

# Lengths in Angstrom (neutron distances for hydrogen, Allen & Bruno 2010; heavy atoms Engh & Huber
# 2001, averaged over the kinds of bond that proteins have)
_HYDROGEN_LENGTH = {"C": 1.09, "N": 1.02, "O": 0.98, "S": 1.34}
_SINGLE = {"CC": 1.525, "CN": 1.465, "CO": 1.425, "CS": 1.81, "SS": 2.04}
_CONJUGATED = {"CC": 1.39, "CN": 1.335}
_MIXED = {"CC": 1.515, "CN": 1.46}
_CARBONYL = 1.24
_WATER_ANGLE = 104.5

# Cordero et al. 2008; elements outside are taken to have no covalent bonds
COVALENT_RADII = {
    "H": 0.31,
    "B": 0.84,
    "C": 0.76,
    "N": 0.71,
    "O": 0.66,
    "F": 0.57,
    "SI": 1.11,
    "P": 1.07,
    "S": 1.05,
    "CL": 1.02,
    "SE": 1.20,
    "BR": 1.20,
    "I": 1.39,
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

    def debye_sum(
        self, q: np.ndarray, tables: AtomicTables = AtomicTables(), b_relative: float = 0.0
    ) -> np.ndarray:
        """Sum over pairs of 2 Re(f_i f_j*) sin(2 pi q r)/(2 pi q r), (N,), electrons^2.

        Args:
            q: |q| (N,), 1/Angstrom
            b_relative: damps the pair by exp(-B q^2/2) for the motion of its atoms against each other;
                nearly 0 in a crystal, where neighbours move together

        Debye, Ann. Phys. 46 (1915) 809.
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
        return total * np.exp(-b_relative * q**2 / 2)


@dataclass
class Molecule:
    """Atoms and bonds, with coordinates or without.

    Attributes:
        elements: of the heavy (or all explicit) atoms
        hydrogens: implicit hydrogens on each
        trigonal: atoms with angles near 120 degrees
        bonds: (i, j)
        xyz: (N, 3) in Angstrom, None for ideal geometry
        weights: occupancies (N,), None for 1
    """

    elements: Sequence[str]
    hydrogens: Sequence[int]
    trigonal: Sequence[bool]
    bonds: Sequence[tuple[int, int]]
    xyz: np.ndarray | None = None
    weights: np.ndarray | None = None


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
    return sum(COVALENT_RADII.get(e.upper(), 0.9) for e in (first, second))


def _angle(element: str, trigonal: bool, neighbours: int) -> float:
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
    n = len(molecule.elements)
    weights = np.ones(n) if molecule.weights is None else molecule.weights
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(n)]
    degree = np.zeros(n, dtype=int)
    for i, j in molecule.bonds:
        degree[i] += 1
        degree[j] += 1
    for i, j in molecule.bonds:
        if molecule.xyz is not None:
            length = float(np.linalg.norm(molecule.xyz[i] - molecule.xyz[j]))
        else:
            trigonal = (molecule.trigonal[i], molecule.trigonal[j])
            bare = any(
                molecule.elements[k] == "O" and degree[k] == 1 and not molecule.hydrogens[k]
                for k in (i, j)
            )
            length = ideal_length(
                molecule.elements[i], molecule.elements[j], all(trigonal), any(trigonal), bare
            )
        neighbours[i].append((j, length))
        neighbours[j].append((i, length))
        pairs.add(molecule.elements[i], molecule.elements[j], length, min(weights[i], weights[j]))
    for i, element in enumerate(molecule.elements):
        hydrogens = molecule.hydrogens[i]
        angle = _angle(element, molecule.trigonal[i], degree[i] + hydrogens)
        for a in range(degree[i]):
            j, first = neighbours[i][a]
            for b in range(a):
                k, second = neighbours[i][b]
                if molecule.xyz is not None:
                    distance = float(np.linalg.norm(molecule.xyz[j] - molecule.xyz[k]))
                else:
                    distance = third_side(first, second, angle)
                number = min(weights[i], weights[j], weights[k])
                pairs.add(molecule.elements[j], molecule.elements[k], distance, number)
        if hydrogens:
            bond = _HYDROGEN_LENGTH.get(element, 1.0)
            pairs.add(element, "H", bond, hydrogens * weights[i])
            for j, length in neighbours[i]:
                number = hydrogens * min(weights[i], weights[j])
                pairs.add(molecule.elements[j], "H", third_side(length, bond, angle), number)
            if hydrogens > 1:
                if element == "O":
                    angle = _WATER_ANGLE
                number = hydrogens * (hydrogens - 1) / 2 * weights[i]
                pairs.add("H", "H", third_side(bond, bond, angle), number)
    return pairs


WATER = Molecule(["O"], [2], [False], [])


def water_pairs() -> PairList:
    """Pairs within one water molecule."""
    return pairs_of(WATER)


def bonds_from_distances(
    elements: Sequence[str], xyz: np.ndarray, conformers: Sequence[str], slack: float = 0.4
) -> list[tuple[int, int]]:
    """Bonds of a model: pairs closer than their covalent radii + slack (Angstrom).

    Atoms of different alternate conformers (labels; "" for none) are not bonded.
    """
    from scipy.spatial import cKDTree

    if len(xyz) < 2:
        return []
    candidates = cKDTree(xyz).query_pairs(2.6, output_type="ndarray")
    radii = np.array([COVALENT_RADII.get(e.upper(), -9.0) for e in elements])
    i, j = candidates[:, 0], candidates[:, 1]
    distance = np.linalg.norm(xyz[i] - xyz[j], axis=1)
    hydrogen = np.array([e == "H" for e in elements])
    # two hydrogens never bond, and 0.4 is generous next to a hydrogen
    limit = radii[i] + radii[j] + np.where(hydrogen[i] | hydrogen[j], 0.2, slack)
    labels = np.array(conformers, dtype=object)
    same = (labels[i] == labels[j]) | (labels[i] == "") | (labels[j] == "")
    keep = (distance < limit) & (distance > 0.5) & same & ~(hydrogen[i] & hydrogen[j])
    return [(int(a), int(b)) for a, b in candidates[keep]]


def count_atoms(molecule: Molecule) -> dict[str, float]:
    """Element -> atoms, implicit hydrogens included, weighted by occupancy."""
    atoms: dict[str, float] = {}
    weights = np.ones(len(molecule.elements)) if molecule.weights is None else molecule.weights
    for element, hydrogens, weight in zip(molecule.elements, molecule.hydrogens, weights):
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


# Pairs further apart count fully up to the first distance and fade out to the second: the structure of a molecule
# beyond shows below |q| = 0.3/A only, and so does the window itself
TAPER = (4.0, 8.0)

# Distances are counted in steps of this, Angstrom
_BIN = 0.01


def taper(distance: np.ndarray) -> np.ndarray:
    """Weight of a pair at a distance in Angstrom: 1 to TAPER[0], a cosine to 0 at TAPER[1]."""
    r = np.clip(np.asarray(distance, dtype=float), *TAPER)
    return 0.5 * (1 + np.cos(np.pi * (r - TAPER[0]) / (TAPER[1] - TAPER[0])))


def distant_pairs(
    elements: Sequence[str],
    xyz: np.ndarray,
    weights: np.ndarray,
    conformers: Sequence[str],
    bonds: Sequence[tuple[int, int]],
    symmetry,
) -> PairList:
    """Pairs of a crystal that are neither bonded nor 1-3, tapered, per asymmetric unit.

    Neighbours in symmetry copies are included.

    Args:
        elements, conformers: (N,) of the asymmetric unit
        xyz: (N, 3) Angstrom
        weights: (N,) occupancies
        bonds: those whose pairs, and whose 1-3 pairs, are counted elsewhere
        symmetry: cctbx crystal symmetry
    """
    from scipy.spatial import cKDTree

    cell = symmetry.unit_cell()
    to_fractional = np.array(cell.fractionalization_matrix()).reshape(3, 3)
    to_cartesian = np.array(cell.orthogonalization_matrix()).reshape(3, 3)
    names, kind = np.unique(np.array(elements), return_inverse=True)
    weights = np.asarray(weights, dtype=float)
    labels = np.array(conformers, dtype=object)
    fractional = xyz @ to_fractional.T
    # cell edges in units of the cutoff, along the reciprocal axes
    margin = TAPER[1] * np.array(cell.reciprocal_parameters()[:3])
    low, high = fractional.min(axis=0) - margin, fractional.max(axis=0) + margin
    tree = cKDTree(xyz)
    near = _near_pairs(len(xyz), bonds)
    n = len(names)
    bins = int(TAPER[1] / _BIN) + 2
    histogram = np.zeros((n, n, bins))
    for operator in symmetry.space_group().all_ops():
        rotation = np.array(operator.r().as_double()).reshape(3, 3)
        copy = fractional @ rotation.T + np.array(operator.t().as_double())
        first = np.ceil(low - copy.max(axis=0)).astype(int)
        last = np.floor(high - copy.min(axis=0)).astype(int)
        for shift in np.ndindex(*(last - first + 1)):
            moved = copy + first + np.array(shift)
            inside = np.flatnonzero(((moved > low) & (moved < high)).all(axis=1))
            if len(inside) == 0:
                continue
            found = tree.sparse_distance_matrix(
                cKDTree(moved[inside] @ to_cartesian.T), TAPER[1], output_type="coo_matrix"
            )
            i, j, r = found.row, inside[found.col], found.data
            keep = r > 0.5
            if np.allclose(moved, fractional):
                keep &= ~np.isin(i.astype(np.int64) * len(xyz) + j, near)
                keep &= (labels[i] == labels[j]) | (labels[i] == "") | (labels[j] == "")
            i, j, r = i[keep], j[keep], r[keep]
            index = (kind[i] * n + kind[j]) * bins + np.rint(r / _BIN).astype(int)
            # each pair is met from both of its ends
            number = 0.5 * weights[i] * weights[j] * taper(r)
            histogram += np.bincount(index, number, histogram.size).reshape(histogram.shape)
    pairs = PairList()
    for a, b, k in zip(*np.nonzero(histogram)):
        pairs.add(str(names[a]), str(names[b]), _BIN * k, float(histogram[a, b, k]))
    return pairs


def _near_pairs(n: int, bonds: Sequence[tuple[int, int]]) -> np.ndarray:
    """i n + j of the bonded and 1-3 pairs, both ways."""
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for i, j in bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    keys = set()
    for centre, around in enumerate(neighbours):
        for a in around:
            keys.add(centre * n + a)
            keys.add(a * n + centre)
            keys.update(a * n + b for b in around if a != b)
    return np.array(sorted(keys), dtype=np.int64)


def _spread_over(
    atoms: Mapping[str, float], distances: np.ndarray, per_atom: np.ndarray
) -> PairList:
    """Pairs between all heavy atoms alike, given each one's number of neighbours at each distance."""
    heavy = {e: n for e, n in atoms.items() if e != "H"}
    total = sum(heavy.values())
    pairs = PairList()
    for first, n_first in heavy.items():
        for second, n_second in heavy.items():
            for r, number in zip(distances, per_atom):
                if number > 0:
                    pairs.add(first, second, r, 0.5 * n_first * n_second / total * float(number))
    return pairs


def distant_pairs_of_protein(atoms: Mapping[str, float]) -> PairList:
    """Pairs beyond 1-3 that a protein of this composition has on average, tapered."""
    from dials_diffuse.absolute.reference_structure import PROTEIN_DISTANCES, PROTEIN_NEIGHBOURS

    return _spread_over(atoms, PROTEIN_DISTANCES, PROTEIN_NEIGHBOURS * taper(PROTEIN_DISTANCES))


def distant_pairs_of_water(molecules: float) -> PairList:
    """Pairs of different molecules of liquid water, tapered; of their oxygens only."""
    from dials_diffuse.absolute.reference_structure import WATER_DENSITY, WATER_DISTANCES, WATER_G

    r = np.arange(WATER_DISTANCES[0], TAPER[1], 0.05)
    number = 4 * np.pi * r**2 * WATER_DENSITY * np.interp(r, WATER_DISTANCES, WATER_G) * 0.05
    return _spread_over({"O": molecules}, r, number * taper(r))
