from __future__ import annotations

import itertools

import numpy as np
import pytest

from cctbx import crystal
from cctbx.eltbx.xray_scattering import it1992

from dials_diffuse.absolute.pairs import (
    Molecule,
    PairList,
    bonds_from_distances,
    distant_pairs,
    distant_pairs_of_water,
    pairs_of,
    taper,
    third_side,
    water_pairs,
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
    assert pairs.debye_sum(q) == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())


def test_water():
    pairs = water_pairs()
    assert sum(pairs.counts.values()) == 3
    half = np.radians(104.5 / 2)
    xyz = np.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    xyz[1:] *= 0.98
    q = np.linspace(0.02, 1.0, 30)
    assert pairs.debye_sum(q) == pytest.approx(debye(["O", "H", "H"], xyz, q), abs=0.1)


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


def test_limit_at_zero_and_damping():
    pairs = PairList()
    pairs.add("C", "O", 1.24, 5)
    assert pairs.debye_sum([0.0])[0] == pytest.approx(2 * 5 * 6 * 8, rel=0.01)
    ratio = pairs.debye_sum([0.5], b_relative=10.0) / pairs.debye_sum([0.5])
    assert ratio[0] == pytest.approx(np.exp(-10 * 0.25 / 2))
    assert pairs.scaled(3).counts == {("C", "O", 1.24): 15}


def test_third_side_is_the_cosine_rule():
    assert third_side(3, 4, 90) == pytest.approx(5)


@pytest.mark.parametrize("space_group", ["P1", "P21", "P41212"])
def test_distant_pairs_against_a_plain_loop(space_group):
    rng = np.random.default_rng(4)
    symmetry = crystal.symmetry((14, 14, 17, 90, 90, 90), space_group)
    cell = symmetry.unit_cell()
    orthogonalization = np.array(cell.orthogonalization_matrix()).reshape(3, 3)
    fractional = rng.uniform(-0.3, 1.2, (7, 3))
    elements = ["C", "N", "C", "O", "C", "S", "N"]
    weights = np.array([1, 1, 0.5, 1, 1, 0.25, 1])
    bonds = [(0, 1), (1, 2), (4, 5)]
    near = {(0, 1), (1, 2), (0, 2), (4, 5)}
    found = distant_pairs(
        elements, fractional @ orthogonalization.T, weights, [""] * 7, bonds, symmetry
    )
    expected = {}
    for operator in symmetry.space_group().all_ops():
        rotation = np.array(operator.r().as_double()).reshape(3, 3)
        for shift in itertools.product(range(-4, 5), repeat=3):
            moved = fractional @ rotation.T + np.array(operator.t().as_double()) + np.array(shift)
            identity = operator.is_unit_mx() and shift == (0, 0, 0)
            for i, j in itertools.product(range(7), repeat=2):
                if identity and (i == j or (min(i, j), max(i, j)) in near):
                    continue
                r = np.linalg.norm((fractional[i] - moved[j]) @ orthogonalization.T)
                if 0.5 < r < 8:
                    key = tuple(sorted((elements[i], elements[j])))
                    number = 0.5 * weights[i] * weights[j] * taper(r)
                    expected.setdefault(key, []).append((r, number))
    q = np.array([0.3, 0.5, 0.7])
    total = np.array(
        [
            sum(
                2
                * n
                * it1992(a).fetch().at_stol(x / 2)
                * it1992(b).fetch().at_stol(x / 2)
                * np.sinc(2 * x * r)
                for (a, b), items in expected.items()
                for r, n in items
            )
            for x in q
        ]
    )
    count = sum(n for items in expected.values() for _, n in items)
    assert sum(found.counts.values()) == pytest.approx(count, rel=1e-3)
    # distances are kept to 0.01 A; what that leaves, against the scattering of the atoms alone
    alone = sum(it1992(e).fetch().at_stol(0.15) ** 2 for e in elements)
    assert found.debye_sum(q) == pytest.approx(total, abs=2e-3 * alone)


def test_taper():
    assert taper(np.array([1.0, 4.0, 6.0, 8.0, 9.0])) == pytest.approx([1, 1, 0.5, 0, 0])


def test_water_has_the_coordination_of_the_liquid():
    pairs = distant_pairs_of_water(1.0)
    first_shell = sum(2 * n for (_, _, r), n in pairs.counts.items() if r < 3.4)
    assert first_shell == pytest.approx(4.4, abs=0.4)
