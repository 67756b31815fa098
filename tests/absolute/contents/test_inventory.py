from __future__ import annotations

import numpy as np
import pytest
import unit_cells

from dials_diffuse.absolute.contents.form_factors import form_factor, incoherent_factor
from dials_diffuse.absolute.contents.inventory import Part, UnitCellInventory
from dials_diffuse.absolute.contents.pairs import PairList

Q = np.array([0.0, 0.4, 0.8])


@pytest.fixture
def inventory():
    pairs = PairList({("C", "O", 1.24): 2.0})
    distant = PairList({("C", "O", 5.0): 3.0})
    ordered = Part("molecule", {"C": 4.0, "O": 2.0}, pairs, distant=distant, distant_error=0.2)
    solvent = Part("solvent", {"O": 10.0, "H": 20.0}, None, ordered=False, number_error=0.1)
    return UnitCellInventory([ordered, solvent], 1000.0, "test", 0.5, 2.0)


def test_sums_over_parts(inventory):
    tables = unit_cells.tables()
    assert inventory.atoms == {"C": 4, "O": 12, "H": 20}
    assert inventory.electrons == 4 * 6 + 12 * 8 + 20
    assert inventory.mass == pytest.approx(4 * 12.011 + 12 * 15.999 + 20 * 1.008, rel=1e-3)
    f2 = {e: abs(form_factor(e, Q, tables)) ** 2 for e in "CHO"}
    total = 4 * f2["C"] + 12 * f2["O"] + 20 * f2["H"]
    assert inventory.sum_f_squared(Q, tables) == pytest.approx(total)
    ordered = inventory.sum_f_squared(Q, tables, ordered=True)
    assert ordered == pytest.approx(4 * f2["C"] + 2 * f2["O"])
    incoherent = sum(n * incoherent_factor(e, Q, tables) for e, n in inventory.atoms.items())
    assert inventory.incoherent(Q, tables) == pytest.approx(incoherent)


def test_pairs_and_uncertainties(inventory):
    tables = unit_cells.tables()
    f = (form_factor("C", Q, tables) * form_factor("O", Q, tables)).real
    near, far = (2 * n * f * np.sinc(2 * Q * r) for n, r in ((2, 1.24), (3, 5.0)))
    assert inventory.has_pairs
    assert inventory.pair_sum(Q, tables) == pytest.approx(near + far)
    assert inventory.distant_uncertainty(Q, tables) == pytest.approx(0.2 * far)
    whole, ordered = (inventory.sum_f_squared(np.array([0.5]), tables, o)[0] for o in (False, True))
    assert inventory.uncertainty(tables) == pytest.approx(0.1 * (whole - ordered) / whole)
