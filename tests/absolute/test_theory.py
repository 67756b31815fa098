from __future__ import annotations

import numpy as np
import pytest
import unit_cells

from cctbx import crystal

from dials_diffuse.absolute.theory import Theory, Variant, neglected_structure

Q = np.linspace(0.3, 0.9, 7)


@pytest.fixture(scope="module")
def inventory():
    symmetry = crystal.symmetry((30, 30, 30, 90, 90, 90), "P1")
    return unit_cells.inventory(symmetry, sequence=10 * "GAVL", copies=1)


def test_sum_of_its_parts(inventory):
    tables = unit_cells.tables()
    theory = Theory(inventory, Q, tables, True)
    atoms = inventory.sum_f_squared(Q, tables) + inventory.incoherent(Q, tables)
    assert theory.without_pairs() == pytest.approx(atoms)
    assert theory.total(Variant(0.0)) == pytest.approx(atoms + inventory.pair_sum(Q, tables))
    shifted = theory.total(Variant(0.0, 2.0)) - theory.total(Variant(0.0))
    assert shifted == pytest.approx(2 * inventory.distant_uncertainty(Q, tables))


def test_motion_of_neighbours_damps_pairs_only(inventory):
    theory = Theory(inventory, Q, unit_cells.tables(), True)
    damped = theory.total(Variant(10.0)) - theory.without_pairs()
    assert damped == pytest.approx(theory.pairs * np.exp(-10.0 * Q**2 / 2))


def test_without_pairs(inventory):
    theory = Theory(inventory, Q, unit_cells.tables(), False)
    assert not theory.has_pairs
    assert theory.total(Variant(0.0)) == pytest.approx(theory.without_pairs())


def test_neglected_structure_fades():
    assert neglected_structure(np.array([0.1, 0.3])) == pytest.approx([0.06, 0.06])
    assert neglected_structure(np.array([2.0]))[0] == pytest.approx(0.01, abs=1e-6)
