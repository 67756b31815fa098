from __future__ import annotations

import numpy as np
import pytest
from unit_cells import inventory, tables

import iotbx.cif.model
import iotbx.pdb
from cctbx import crystal

from dials_diffuse.absolute.contents.atomic_model import read_model
from dials_diffuse.absolute.contents.residues import ONE_LETTER


@pytest.fixture(scope="module")
def model_path(extra_data):
    path = extra_data / "models" / "1stn.pdb"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def model_symmetry(model_path):
    return read_model(model_path).symmetry


def test_model_against_its_sequence(model_path, model_symmetry):
    model = inventory(model_symmetry, model=str(model_path), solvent_content=0)
    atoms = read_model(model_path)
    letters = {name: letter for letter, name in ONE_LETTER.items()}
    residues = dict(zip(atoms.residue_ids, atoms.residues))
    chain = "".join(letters[name] for name in residues.values() if name in letters)
    sequence = inventory(model_symmetry, sequence=chain, copies=4, solvent_content=0)
    protein, from_sequence = model.parts[0], sequence.parts[0]
    # the model lacks the end oxygen of residues that were not seen, nothing else
    for element in "CNOS":
        assert protein.atoms[element] == pytest.approx(from_sequence.atoms[element], abs=4)
    assert protein.atoms["H"] == pytest.approx(from_sequence.atoms["H"], abs=8)
    waters = sum(name == "HOH" for name in residues.values())
    assert model.parts[1].atoms == {"O": 4 * waters, "H": 8 * waters}
    # templates know bonds and angles well enough: to 2 % of sum f^2
    q = np.linspace(0.3, 0.9, 25)
    difference = protein.pairs.debye_sum(q, tables()) - from_sequence.pairs.debye_sum(q, tables())
    assert np.abs(difference / sequence.sum_f_squared(q, tables())).max() < 0.02


def test_model_takes_occupancies_and_its_own_hydrogens(model_path, model_symmetry):
    bare = inventory(model_symmetry, model=str(model_path), solvent_content=0, hydrogens="as_is")
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
    good = inventory(symmetry, model=str(path), solvent_content=0)
    assert good.atoms == {"N": 1, "C": 2, "O": 1, "H": 5}
    with pytest.raises(ValueError, match="is not that of the data"):
        inventory(crystal.symmetry((35, 30, 30, 90, 90, 90), "P1"), model=str(path))
    path.write_text(PDB.format("Xx"))
    with pytest.raises(ValueError, match="Unknown element"):
        inventory(symmetry, model=str(path))
    path.write_text("REMARK nothing here\nEND\n")
    with pytest.raises(ValueError, match="no atoms|Can't read"):
        inventory(symmetry, model=str(path))
    path.write_text(PDB.format("O").replace("  1.00 10.00", "  0.00 10.00"))
    with pytest.raises(ValueError, match="occupancy 0"):
        inventory(symmetry, model=str(path))
    with pytest.raises(ValueError, match="Can't read the model"):
        inventory(symmetry, model=str(tmp_path / "absent.pdb"))


def test_mmcif_gives_the_same(tmp_path, model_path, model_symmetry):
    source = iotbx.pdb.input(file_name=str(model_path))
    hierarchy = source.construct_hierarchy(sort_atoms=False)
    hierarchy.atoms().set_chemical_element_simple_if_necessary()
    path = tmp_path / "model.cif"
    with open(path, "w") as handle:
        block = hierarchy.as_cif_block(crystal_symmetry=source.crystal_symmetry())
        iotbx.cif.model.cif({"model": block}).show(out=handle)
    assert inventory(model_symmetry, model=str(path)).atoms == pytest.approx(
        inventory(model_symmetry, model=str(model_path)).atoms
    )
