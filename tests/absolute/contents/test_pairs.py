from __future__ import annotations

import itertools

import numpy as np
import pytest
from unit_cells import tables

from cctbx.eltbx.xray_scattering import it1992

from dials_diffuse.absolute.contents.pairs import (
    WATER,
    Molecule,
    PairList,
    bonds_from_distances,
    pairs_of,
    third_side,
)


def debye(elements, xyz, q):
    """All pairs of a rigid molecule."""
    f = {e: np.array([it1992(e).fetch().at_stol(x / 2) for x in q]) for e in elements}
    total = np.zeros(len(q))
    for i, j in itertools.combinations(range(len(elements)), 2):
        x = 2 * np.pi * q * np.linalg.norm(xyz[i] - xyz[j])
        total += 2 * f[elements[i]] * f[elements[j]] * np.sin(x) / x
    return total


def test_molecule_that_is_all_bonds_and_angles():
    # sulphate: every pair is bonded or 1-3, so the pair sum is all of Debye's formula
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.47 / np.sqrt(3)
    xyz = np.concatenate([np.zeros((1, 3)), corners])
    elements = ["S", "O", "O", "O", "O"]
    bonds = bonds_from_distances(elements, xyz, [""] * 5)
    assert sorted(bonds) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    pairs = pairs_of(Molecule(elements, [0] * 5, [False] * 5, bonds, xyz))
    q = np.linspace(0.02, 1.2, 50)
    expected = debye(elements, xyz, q)
    assert pairs.debye_sum(q, tables()) == pytest.approx(
        expected, abs=2e-3 * np.abs(expected).max()
    )


def test_water():
    pairs = pairs_of(WATER)
    assert sum(pairs.counts.values()) == 3
    half = np.radians(104.5 / 2)
    xyz = np.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    xyz[1:] *= 0.98
    q = np.linspace(0.02, 1.0, 30)
    assert pairs.debye_sum(q, tables()) == pytest.approx(debye(["O", "H", "H"], xyz, q), abs=0.1)


def test_counts_of_ethane_from_ideal_geometry():
    pairs = pairs_of(Molecule(["C", "C"], [3, 3], [False, False], [(0, 1)]))
    by_elements = {}
    for (a, b, _), n in pairs.counts.items():
        by_elements[a + b] = by_elements.get(a + b, 0) + n
    # C-C; 6 bonded and 6 geminal C...H; 3 H...H on each carbon
    assert by_elements == {"CC": 1, "CH": 12, "HH": 6}


def test_occupancy_and_conformers():
    xyz = np.array([[0, 0, 0], [1.5, 0, 0], [1.4, 0.6, 0]])
    bonds = bonds_from_distances(["C", "C", "C"], xyz, ["", "A", "B"])
    assert sorted(bonds) == [(0, 1), (0, 2)]
    pairs = pairs_of(Molecule(["C"] * 3, [0] * 3, [False] * 3, bonds, xyz, np.array([1, 0.6, 0.4])))
    assert pairs.counts[("C", "C", 1.5)] == pytest.approx(0.6)


def test_limit_at_zero():
    pairs = PairList()
    pairs.add("C", "O", 1.24, 5)
    assert pairs.debye_sum([0.0], tables())[0] == pytest.approx(2 * 5 * 6 * 8, rel=0.01)
    assert pairs.scaled(3).counts == {("C", "O", 1.24): 15}


def test_third_side_is_the_cosine_rule():
    assert third_side(3, 4, 90) == pytest.approx(5)
