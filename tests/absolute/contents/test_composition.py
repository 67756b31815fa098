from __future__ import annotations

import numpy as np
import pytest
import xraylib
from unit_cells import inventory, tables

from cctbx import crystal

from dials_diffuse.absolute.contents.composition import (
    chain_molecule,
    parse_formula,
    read_sequences,
)
from dials_diffuse.absolute.contents.pairs import count_atoms
from dials_diffuse.absolute.contents.residues import AMINO_ACIDS, ONE_LETTER

THAUMATIN = (
    "ATFEIVNRCSYTVWAAASKGDAALDAGGRQLNSGESWTINVEPGTKGGKIWARTDCYFDDSGSGICKTGDCGGLLRCKRFGRPPTTLAEFSLNQYGKDY"
    "IDISNIKGFNVPMDFSPTTRGCRGVRCAADIVGQCPAKLKAPGGGCNDACTVFQTSEYCCTTGKCGPTEYSRFFKRLCPDAFSYVLDKPTTVTCPGSSN"
    "YRVTFCPTA"
)
# neutral amino acids, as any table of them has
AMINO_ACID_FORMULAS = {
    "A": "C3H7NO2",
    "R": "C6H14N4O2",
    "N": "C4H8N2O3",
    "D": "C4H7NO4",
    "C": "C3H7NO2S",
    "Q": "C5H10N2O3",
    "E": "C5H9NO4",
    "G": "C2H5NO2",
    "H": "C6H9N3O2",
    "I": "C6H13NO2",
    "L": "C6H13NO2",
    "K": "C6H14N2O2",
    "M": "C5H11NO2S",
    "F": "C9H11NO2",
    "P": "C5H9NO2",
    "S": "C3H7NO3",
    "T": "C4H9NO3",
    "W": "C11H12N2O2",
    "Y": "C9H11NO3",
    "V": "C5H11NO2",
}
CHARGE = {"R": 1, "K": 1, "D": -1, "E": -1}


def tetragonal():
    return crystal.symmetry((58.6, 58.6, 152.3, 90, 90, 90), "P41212")


@pytest.mark.parametrize("letter", sorted(ONE_LETTER))
def test_amino_acids(letter):
    ours = count_atoms(chain_molecule(letter))
    free = parse_formula(AMINO_ACID_FORMULAS[letter])
    free["H"] += CHARGE.get(letter, 0)
    assert ours == free
    name = ONE_LETTER[letter]
    # a connected graph: rings add one bond each
    rings = {"PRO": 1, "HIS": 1, "PHE": 1, "TYR": 1, "TRP": 2}.get(name, 0)
    assert len(AMINO_ACIDS[name].bonds) == len(AMINO_ACIDS[name].atoms) - 1 + rings


def test_thaumatin_from_sequence():
    cell = inventory(tetragonal(), sequence=THAUMATIN, copies=8)
    protein = cell.parts[0]
    # 22.2 kDa; with its 8 disulphides reduced
    assert protein.mass / 8 == pytest.approx(22220, rel=0.001)
    assert cell.solvent_content == pytest.approx(0.58, abs=0.01)
    assert cell.matthews == pytest.approx(2.94, abs=0.02)
    assert not cell.warnings
    # protein crystals have 0.36 to 0.40 electrons a cubic Angstrom
    assert 0.36 < cell.electrons / cell.volume < 0.40


def test_fasta(tmp_path):
    text = ">one chain\nACDEF\nGHIK*\n>two\nLMNP\n"
    assert read_sequences(text) == ["ACDEFGHIK", "LMNP"]
    assert read_sequences("; a comment\nACD 10 EF\n") == ["ACDEF"]
    path = tmp_path / "two.fasta"
    path.write_text(text)
    two, one = (
        inventory(tetragonal(), sequence=sequence, copies=1, solvent_content=0).atoms
        for sequence in (str(path), "ACDEFGHIKLMNP")
    )
    assert two["O"] == one["O"] + 1 and two["H"] == one["H"] + 2


def test_formula():
    expected = {"C": 613, "H": 959, "N": 193, "O": 185, "S": 10}
    assert parse_formula("C 613 H 959 N 193 O 185 S 10") == expected
    assert parse_formula("C613 H959, N193 O185S10") == expected
    assert parse_formula("Zn Cl 2.5") == {"Zn": 1, "Cl": 2.5}
    cell = inventory(tetragonal(), formula="C 613 H 959 N 193 O 185 S 10", copies=8)
    assert cell.electrons == 8 * (613 * 6 + 959 + 193 * 7 + 185 * 8 + 10 * 16)
    mass = sum(
        n * xraylib.AtomicWeight(xraylib.SymbolToAtomicNumber(e)) for e, n in expected.items()
    )
    assert cell.mass == pytest.approx(8 * mass, rel=1e-3)
    assert not cell.has_pairs


def test_solvent_and_ligands():
    symmetry = tetragonal()
    formula = {"formula": "C 613 H 959 N 193 O 185 S 10", "copies": 8}
    dry = inventory(symmetry, **formula)
    wet = inventory(
        symmetry, **formula, solvent_content=0.5, solvent_density=0.4, ligands="Ca 1 Cl 2"
    )
    added = wet.electrons - dry.electrons
    assert added == pytest.approx(0.5 * 0.4 * symmetry.unit_cell().volume() + 8 * (20 + 34))
    assert wet.atoms["Ca"] == 8


def test_uncertainty_of_the_solvent():
    dry, guessed, given = (
        inventory(tetragonal(), sequence=THAUMATIN, copies=8, solvent_content=content)
        for content in (0, None, 0.58)
    )
    assert dry.uncertainty(tables()) == 0
    # the solvent's share of sum f^2, which is known to 5 or 3 %
    q = np.array([0.5])
    waters = guessed.parts[1].atoms["O"]
    solvent = inventory(tetragonal(), formula=f"H {2 * waters} O {waters}", copies=1)
    share = solvent.sum_f_squared(q, tables())[0] / guessed.sum_f_squared(q, tables())[0]
    assert guessed.uncertainty(tables()) == pytest.approx(0.05 * share)
    assert given.uncertainty(tables()) == pytest.approx(0.03 * share, rel=0.01)


@pytest.mark.parametrize(
    "text, message",
    [
        ("C 10 Xx 3", "Unknown element 'Xx'"),
        ("", "no atoms"),
        ("C 0", "no atoms"),
        ("C 10 + H 3", "Can't read"),
        ("12", "Can't read"),
        ("c 10", "Can't read"),
    ],
)
def test_bad_formula(text, message):
    with pytest.raises(ValueError, match=message):
        parse_formula(text)


@pytest.mark.parametrize(
    "text, message", [(">only a title\n", "empty"), ("ACDX", "no amino acid: X")]
)
def test_bad_sequence(text, message):
    with pytest.raises(ValueError, match=message):
        read_sequences(text)


def test_warnings_of_implausible_contents():
    too_full = inventory(tetragonal(), sequence=THAUMATIN, copies=40)
    assert any("Matthews" in warning for warning in too_full.warnings)
    too_empty = inventory(tetragonal(), sequence=THAUMATIN, copies=1, solvent_content=0)
    assert any("electron density" in warning for warning in too_empty.warnings)
    both = inventory(tetragonal(), sequence=THAUMATIN, copies=8, solvent_content=0.9)
    assert any("too little room" in warning for warning in both.warnings)
