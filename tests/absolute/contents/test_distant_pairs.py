from __future__ import annotations

import itertools

import numpy as np
import pytest
from unit_cells import tables

from cctbx import crystal
from cctbx.eltbx.xray_scattering import it1992

from dials_diffuse.absolute.contents.distant_pairs import (
    PROTEIN_DISTANCES,
    PROTEIN_NEIGHBOURS,
    distant_pairs,
    distant_pairs_of_protein,
    distant_pairs_of_water,
    taper,
)
from dials_diffuse.absolute.contents.pairs import Molecule


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
    molecule = Molecule(
        elements, [0] * 7, [False] * 7, bonds, fractional @ orthogonalization.T, weights, [""] * 7
    )
    found = distant_pairs(molecule, symmetry)
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
    assert found.debye_sum(q, tables()) == pytest.approx(total, abs=2e-3 * alone)


def test_taper():
    assert taper(np.array([1.0, 4.0, 6.0, 8.0, 9.0])) == pytest.approx([1, 1, 0.5, 0, 0])


def test_water_has_the_coordination_of_the_liquid():
    pairs = distant_pairs_of_water(1.0)
    first_shell = sum(2 * n for (_, _, r), n in pairs.counts.items() if r < 3.4)
    assert first_shell == pytest.approx(4.4, abs=0.4)


def test_neighbours_of_protein_atoms():
    pairs = distant_pairs_of_protein({"C": 30, "N": 10, "H": 50})
    # half of the neighbours of 40 heavy atoms, whatever their elements
    expected = 0.5 * 40 * (PROTEIN_NEIGHBOURS * taper(PROTEIN_DISTANCES)).sum()
    assert sum(pairs.counts.values()) == pytest.approx(expected)
    assert {name for key in pairs.counts for name in key[:2]} == {"C", "N"}
