from __future__ import annotations

import numpy as np
import pytest
import xraylib

from cctbx import crystal

from dials_diffuse.absolute.composition import (
    chain_molecule,
    inventory_from_formula,
    inventory_from_model,
    inventory_from_sequence,
    parse_formula,
    read_model,
    read_sequences,
)
from dials_diffuse.absolute.pairs import count_atoms
from dials_diffuse.absolute.residues import AMINO_ACIDS, ONE_LETTER

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


@pytest.fixture(scope="module")
def model_path(extra_data):
    path = extra_data / "models" / "1stn.pdb"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def model_symmetry(model_path):
    return read_model(model_path).symmetry


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
    inventory = inventory_from_sequence(THAUMATIN, 8, tetragonal())
    protein = inventory.parts[0]
    # 22.2 kDa; with its 8 disulphides reduced
    assert protein.mass / 8 == pytest.approx(22220, rel=0.001)
    assert inventory.solvent_content == pytest.approx(0.58, abs=0.01)
    assert inventory.matthews == pytest.approx(2.94, abs=0.02)
    assert not inventory.warnings
    # protein crystals have 0.36 to 0.40 electrons a cubic Angstrom
    assert 0.36 < inventory.electrons / inventory.volume < 0.40


def test_fasta():
    text = ">one chain\nACDEF\nGHIK*\n>two\nLMNP\n"
    assert read_sequences(text) == ["ACDEFGHIK", "LMNP"]
    two = inventory_from_sequence(text, 1, tetragonal(), solvent_content=0).atoms
    one = inventory_from_sequence("ACDEFGHIKLMNP", 1, tetragonal(), solvent_content=0).atoms
    assert two["O"] == one["O"] + 1 and two["H"] == one["H"] + 2


def test_formula():
    expected = {"C": 613, "H": 959, "N": 193, "O": 185, "S": 10}
    assert parse_formula("C 613 H 959 N 193 O 185 S 10") == expected
    assert parse_formula("C613 H959, N193 O185S10") == expected
    assert parse_formula("Zn Cl 2.5") == {"Zn": 1, "Cl": 2.5}
    inventory = inventory_from_formula("C 613 H 959 N 193 O 185 S 10", 8, tetragonal())
    assert inventory.electrons == 8 * (613 * 6 + 959 + 193 * 7 + 185 * 8 + 10 * 16)
    mass = sum(
        n * xraylib.AtomicWeight(xraylib.SymbolToAtomicNumber(e)) for e, n in expected.items()
    )
    assert inventory.mass == pytest.approx(8 * mass, rel=1e-3)
    assert not inventory.has_pairs


def test_solvent_and_ligands():
    symmetry = tetragonal()
    dry = inventory_from_formula("C 613 H 959 N 193 O 185 S 10", 8, symmetry, solvent_content=0)
    wet = inventory_from_formula(
        "C 613 H 959 N 193 O 185 S 10",
        8,
        symmetry,
        solvent_content=0.5,
        density=0.4,
        ligands="Ca 1 Cl 2",
    )
    added = wet.electrons - dry.electrons
    assert added == pytest.approx(0.5 * 0.4 * symmetry.unit_cell().volume() + 8 * (20 + 34))
    assert wet.atoms["Ca"] == 8


def test_uncertainty_of_the_solvent():
    dry = inventory_from_sequence(THAUMATIN, 8, tetragonal(), solvent_content=0)
    assert dry.uncertainty() == 0
    guessed = inventory_from_sequence(THAUMATIN, 8, tetragonal())
    given = inventory_from_sequence(THAUMATIN, 8, tetragonal(), solvent_content=0.58)
    # the solvent's share of sum f^2, which is known to 5 or 3 %
    q = np.array([0.5])
    solvent = inventory_from_formula(
        f"H {2 * guessed.parts[1].atoms['O']} O {guessed.parts[1].atoms['O']}", 1, tetragonal()
    )
    share = solvent.sum_f_squared(q)[0] / guessed.sum_f_squared(q)[0]
    assert guessed.uncertainty() == pytest.approx(0.05 * share)
    assert given.uncertainty() == pytest.approx(0.03 * share, rel=0.01)


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


def test_implausible_contents_are_told():
    too_full = inventory_from_sequence(THAUMATIN, 40, tetragonal())
    assert any("Matthews" in warning for warning in too_full.warnings)
    too_empty = inventory_from_sequence(THAUMATIN, 1, tetragonal(), solvent_content=0)
    assert any("electron density" in warning for warning in too_empty.warnings)
    both = inventory_from_sequence(THAUMATIN, 8, tetragonal(), solvent_content=0.9)
    assert any("too little room" in warning for warning in both.warnings)


def test_model_against_its_sequence(model_path, model_symmetry):
    model = inventory_from_model(model_path, model_symmetry, solvent_content=0)
    atoms = read_model(model_path)
    letters = {name: letter for letter, name in ONE_LETTER.items()}
    residues = dict(zip(atoms.residue_ids, atoms.residues))
    chain = "".join(letters[name] for name in residues.values() if name in letters)
    sequence = inventory_from_sequence(chain, 4, model_symmetry, solvent_content=0)
    protein, from_sequence = model.parts[0], sequence.parts[0]
    # the model lacks the end oxygen of residues that were not seen, nothing else
    for element in "CNOS":
        assert protein.atoms[element] == pytest.approx(from_sequence.atoms[element], abs=4)
    assert protein.atoms["H"] == pytest.approx(from_sequence.atoms["H"], abs=8)
    waters = sum(name == "HOH" for name in residues.values())
    assert model.parts[1].atoms == {"O": 4 * waters, "H": 8 * waters}
    # templates know bonds and angles well enough: to 2 % of sum f^2
    q = np.linspace(0.3, 0.9, 25)
    difference = protein.pairs.debye_sum(q) - from_sequence.pairs.debye_sum(q)
    assert np.abs(difference / sequence.sum_f_squared(q)).max() < 0.02


def test_model_takes_occupancies_and_its_own_hydrogens(model_path, model_symmetry):
    bare = inventory_from_model(model_path, model_symmetry, solvent_content=0, add_hydrogens=False)
    model = read_model(model_path)
    for element in "CNOS":
        expected = 4 * model.occupancies[np.array(model.elements) == element].sum()
        assert bare.atoms[element] == pytest.approx(expected)
    assert "H" not in bare.atoms


PDB = """\
CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1
ATOM      1  N   GLY A   1       1.000   1.000   1.000  1.00 10.00           N
ATOM      2  CA  GLY A   1       2.450   1.000   1.000  1.00 10.00           C
ATOM      3  C   GLY A   1       3.000   2.400   1.000  1.00 10.00           C
ATOM      4  O   GLY A   1       2.300   3.400   1.000  1.00 10.00           {}
END
"""


def test_bad_models(tmp_path):
    symmetry = crystal.symmetry((30, 30, 30, 90, 90, 90), "P1")
    path = tmp_path / "model.pdb"
    path.write_text(PDB.format("O"))
    good = inventory_from_model(path, symmetry, solvent_content=0)
    assert good.atoms == {"N": 1, "C": 2, "O": 1, "H": 5}
    with pytest.raises(ValueError, match="is not that of the data"):
        inventory_from_model(path, crystal.symmetry((35, 30, 30, 90, 90, 90), "P1"))
    path.write_text(PDB.format("Xx"))
    with pytest.raises(ValueError, match="Unknown element"):
        inventory_from_model(path, symmetry)
    path.write_text("REMARK nothing here\nEND\n")
    with pytest.raises(ValueError, match="no atoms|Can't read"):
        inventory_from_model(path, symmetry)
    path.write_text(PDB.format("O").replace("  1.00 10.00", "  0.00 10.00"))
    with pytest.raises(ValueError, match="occupancy 0"):
        inventory_from_model(path, symmetry)
    with pytest.raises(ValueError, match="Can't read the model"):
        inventory_from_model(tmp_path / "absent.pdb", symmetry)


def test_mmcif_gives_the_same(tmp_path, model_path, model_symmetry):
    import iotbx.cif.model
    import iotbx.pdb

    source = iotbx.pdb.input(file_name=str(model_path))
    hierarchy = source.construct_hierarchy(sort_atoms=False)
    hierarchy.atoms().set_chemical_element_simple_if_necessary()
    path = tmp_path / "model.cif"
    with open(path, "w") as handle:
        block = hierarchy.as_cif_block(crystal_symmetry=source.crystal_symmetry())
        iotbx.cif.model.cif({"model": block}).show(out=handle)
    assert inventory_from_model(path, model_symmetry).atoms == pytest.approx(
        inventory_from_model(model_path, model_symmetry).atoms
    )
