"""Pairs of atoms that are neither bonded nor bonded to the same atom: of a crystal, of proteins on
average, and of liquid water.

All pairs are tapered: they count fully to 4 A and fade out to 8 A. Structure at longer distances shows
below |q| = 0.3/A only, and so does the taper itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial import cKDTree

from cctbx import crystal

from dials_diffuse.absolute.contents.pairs import Molecule, PairList, may_bond


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=float)


# Heavy atoms of a protein: neighbours of one atom that are neither bonded nor 1-3 to it, in shells
# of 0.1 A about these distances. They were counted in the crystal of staphylococcal nuclease (PDB
# 1STN) without its waters and symmetry copies. Packing is much the same in all globular proteins.
PROTEIN_DISTANCES = np.round(np.arange(2.5, 8.05, 0.1), 1)
PROTEIN_NEIGHBOURS = _numbers(
    """
    0.004 0.035 0.121 0.491 0.258 0.345 0.341 0.337 0.451 0.466 0.541 0.680 0.680 0.964
    0.777 0.618 0.706 0.898 1.063 1.069 1.193 1.280 1.417 1.377 1.509 1.423 1.379 1.379
    1.448 1.507 1.639 1.621 1.736 1.622 1.791 1.732 1.910 1.864 1.905 1.852 1.962 1.985
    2.092 2.125 2.086 2.334 2.108 2.172 2.299 2.390 2.374 2.361 2.469 2.618 2.664 2.850
    """
)

# Liquid water at room temperature: molecules in a cubic Angstrom, and the pair distribution g(r)
# of the oxygens, read from Skinner et al., J. Chem. Phys. 138 (2013) 074506
WATER_DENSITY = 0.0334
WATER_DISTANCES = _numbers(
    """
    2.3 2.4 2.5 2.6 2.7 2.8 2.9 3.0 3.1 3.2 3.3 3.4 3.5 3.7 4.0 4.25 4.5 4.75 5.0 5.25 5.6
    6.0 6.4 6.8 7.2 7.6 8.0
    """
)
WATER_G = _numbers(
    """
    0.0 0.05 0.30 1.10 2.20 2.57 2.20 1.65 1.25 1.02 0.90 0.85 0.84 0.88 1.01 1.09 1.12 1.09
    1.02 0.94 0.89 0.93 1.01 1.05 1.03 0.99 0.98
    """
)

# Pairs count fully to the first distance and fade out to the second, Angstrom
TAPER = (4.0, 8.0)

# Distances are counted in steps of this, Angstrom
_BIN = 0.01


def taper(distance: np.ndarray) -> np.ndarray:
    """Weight of a pair at a distance in Angstrom: 1 to TAPER[0], a cosine to 0 at TAPER[1]."""
    r = np.clip(np.asarray(distance, dtype=float), *TAPER)
    return 0.5 * (1 + np.cos(np.pi * (r - TAPER[0]) / (TAPER[1] - TAPER[0])))


def distant_pairs(molecule: Molecule, symmetry: crystal.symmetry) -> PairList:
    """Pairs of a crystal that are neither bonded nor 1-3, tapered, per asymmetric unit.

    Neighbours in symmetry copies are included.

    Args:
        molecule: atoms of the asymmetric unit, with coordinates; `pairs_of` counts its bonded and 1-3
            pairs
        symmetry: unit cell and space group
    """
    names, kind = np.unique(np.array(molecule.elements), return_inverse=True)
    weights = np.asarray(molecule.occupancies, dtype=float)
    labels = np.array(molecule.conformers, dtype=object)
    to_fractional = np.array(symmetry.unit_cell().fractionalization_matrix()).reshape(3, 3)
    to_cartesian = np.array(symmetry.unit_cell().orthogonalization_matrix()).reshape(3, 3)
    fractional = molecule.xyz @ to_fractional.T
    tree = cKDTree(molecule.xyz)
    near = _near_pairs(molecule)
    n, bins = len(names), int(TAPER[1] / _BIN) + 2
    histogram = np.zeros((n, n, bins))
    for moved, inside in _symmetry_copies(fractional, symmetry):
        distances = tree.sparse_distance_matrix(
            cKDTree(moved[inside] @ to_cartesian.T), TAPER[1], output_type="coo_matrix"
        )
        i, j, r = distances.row, inside[distances.col], distances.data
        keep = r > 0.5
        if np.allclose(moved, fractional):
            keep &= ~np.isin(i.astype(np.int64) * len(labels) + j, near)
            keep &= may_bond(labels[i], labels[j])
        i, j, r = i[keep], j[keep], r[keep]
        index = (kind[i] * n + kind[j]) * bins + np.rint(r / _BIN).astype(int)
        # each pair is counted from both of its ends
        number = 0.5 * weights[i] * weights[j] * taper(r)
        histogram += np.bincount(index, number, histogram.size).reshape(histogram.shape)
    pairs = PairList()
    for a, b, k in zip(*np.nonzero(histogram)):
        pairs.add(str(names[a]), str(names[b]), _BIN * k, float(histogram[a, b, k]))
    return pairs


def _symmetry_copies(fractional: np.ndarray, symmetry: crystal.symmetry):
    """All symmetry copies near the asymmetric unit, itself included.

    Args:
        fractional: (N, 3) coordinates

    Yields:
        coordinates of a copy (N, 3), and the indices of its atoms that may be neighbours
    """
    # the reach of the taper along the cell edges
    margin = TAPER[1] * np.array(symmetry.unit_cell().reciprocal_parameters()[:3])
    low, high = fractional.min(axis=0) - margin, fractional.max(axis=0) + margin
    for operator in symmetry.space_group().all_ops():
        rotation = np.array(operator.r().as_double()).reshape(3, 3)
        copy = fractional @ rotation.T + np.array(operator.t().as_double())
        first = np.ceil(low - copy.max(axis=0)).astype(int)
        last = np.floor(high - copy.min(axis=0)).astype(int)
        for shift in np.ndindex(*(last - first + 1)):
            moved = copy + first + np.array(shift)
            inside = np.flatnonzero(((moved > low) & (moved < high)).all(axis=1))
            if len(inside):
                yield moved, inside


def _near_pairs(molecule: Molecule) -> np.ndarray:
    """i n + j of the bonded and 1-3 pairs of n atoms, in both orders."""
    n = len(molecule.elements)
    keys = set()
    for centre, bonded in enumerate(molecule.neighbours()):
        for a in bonded:
            keys |= {centre * n + a, a * n + centre}
            keys.update(a * n + b for b in bonded if a != b)
    return np.array(sorted(keys), dtype=np.int64)


def _spread_over(
    atoms: Mapping[str, float], distances: np.ndarray, per_atom: np.ndarray
) -> PairList:
    """Pairs of heavy atoms whose neighbours are independent of the element.

    Args:
        atoms: element -> number
        distances: (N,) Angstrom
        per_atom: (N,) neighbours of an atom at each distance
    """
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
    """The average tapered pairs, beyond 1-3, of a protein with these atoms (element -> number)."""
    return _spread_over(atoms, PROTEIN_DISTANCES, PROTEIN_NEIGHBOURS * taper(PROTEIN_DISTANCES))


def distant_pairs_of_water(molecules: float) -> PairList:
    """Tapered pairs of the oxygens of different molecules in liquid water."""
    r = np.arange(WATER_DISTANCES[0], TAPER[1], 0.05)
    number = 4 * np.pi * r**2 * WATER_DENSITY * np.interp(r, WATER_DISTANCES, WATER_G) * 0.05
    return _spread_over({"O": molecules}, r, number * taper(r))
