from __future__ import annotations

import pytest

from dials_diffuse.absolute.contents.residues import AMINO_ACIDS, ONE_LETTER, is_trigonal


def test_the_twenty_amino_acids():
    assert len(AMINO_ACIDS) == 20
    assert "".join(sorted(ONE_LETTER)) == "ACDEFGHIKLMNPQRSTVWY"
    assert set(ONE_LETTER.values()) == set(AMINO_ACIDS)


@pytest.mark.parametrize("name", sorted(AMINO_ACIDS))
def test_bonds_connect_all_atoms(name):
    template = AMINO_ACIDS[name]
    reached = {"CA"}
    for _ in template.atoms:
        reached |= {atom for bond in template.bonds if reached & set(bond) for atom in bond}
    assert reached == set(template.atoms)


def test_planar_atoms():
    assert is_trigonal("ALA", "C") and is_trigonal("PHE", "CZ")
    assert not is_trigonal("ALA", "CB") and not is_trigonal("LYS", "CZ")
