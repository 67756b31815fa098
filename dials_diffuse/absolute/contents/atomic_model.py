"""Atoms, bonds and hydrogens of a PDB or mmCIF file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import iotbx.pdb
from cctbx import crystal

from dials_diffuse.absolute.contents import residues
from dials_diffuse.absolute.contents.form_factors import check_element
from dials_diffuse.absolute.contents.pairs import Molecule, bonds_from_distances

WATERS = {"HOH", "WAT", "DOD", "H2O", "SOL"}


@dataclass
class AtomicModel:
    """Atoms of an asymmetric unit.

    Attributes:
        symmetry: the model's own, None where the file has none
        elements, names, residues, conformers: (N,) strings
        residue_ids: (N,) strings, unique for each residue
        xyz: (N, 3) Angstrom
        occupancies: (N,)
    """

    symmetry: crystal.symmetry | None
    elements: list[str]
    names: list[str]
    residues: list[str]
    residue_ids: list[str]
    conformers: list[str]
    xyz: np.ndarray
    occupancies: np.ndarray


def read_model(path: str | os.PathLike) -> AtomicModel:
    """Read a PDB or mmCIF file, its first model.

    Raises:
        ValueError: unreadable, empty, or an unknown element.
    """
    path = Path(path)
    try:
        source = iotbx.pdb.input(file_name=os.fspath(path))
        hierarchy = source.construct_hierarchy(sort_atoms=False)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"Can't read the model {path}: {lines[0]}") from error
    if hierarchy.models_size() == 0 or hierarchy.atoms().size() == 0:
        raise ValueError(f"The model {path} has no atoms")
    atoms = hierarchy.models()[0].atoms()
    elements = []
    for atom in atoms:
        if not atom.element.strip():
            atom.set_chemical_element_simple_if_necessary()
        try:
            elements.append(check_element(atom.element))
        except ValueError as error:
            raise ValueError(
                f"Unknown element {atom.element.strip()!r} of atom {atom.name.strip()} in {path}"
            ) from error
    symmetry = source.crystal_symmetry()
    if symmetry is not None and (
        symmetry.unit_cell() is None or symmetry.unit_cell().volume() < 10
    ):
        symmetry = None
    labels = [atom.fetch_labels() for atom in atoms]
    model = AtomicModel(
        symmetry,
        elements,
        [atom.name.strip() for atom in atoms],
        [label.resname.strip() for label in labels],
        [f"{label.chain_id}{label.resid()}" for label in labels],
        [label.altloc.strip() for label in labels],
        np.array(atoms.extract_xyz(), dtype=float),
        np.array(atoms.extract_occ(), dtype=float),
    )
    if not model.occupancies.sum() > 0:
        raise ValueError(f"All atoms of the model {path} have occupancy 0")
    return model


def model_molecules(
    model: AtomicModel, add_hydrogens: bool
) -> tuple[Molecule, dict[str, Molecule], set[str]]:
    """The molecules of a model, with bonds by distance.

    Args:
        add_hydrogens: add those that the model lacks, by residue

    Returns:
        all atoms; name -> molecule of those of "model" and "ordered waters" that have atoms; the names
        of the residues that no template describes
    """
    bonds = bonds_from_distances(model.elements, model.xyz, model.conformers)
    trigonal = [
        residues.is_trigonal(residue, name) for residue, name in zip(model.residues, model.names)
    ]
    whole = Molecule(
        model.elements,
        [0] * len(model.elements),
        trigonal,
        bonds,
        model.xyz,
        model.occupancies,
        model.conformers,
    )
    unknown: set[str] = set()
    if add_hydrogens:
        whole.hydrogens, unknown = _hydrogens_by_template(model, whole.neighbours())
    water = np.array([residue in WATERS for residue in model.residues])
    molecules = {
        name: _selected(whole, chosen)
        for name, chosen in (("model", ~water), ("ordered waters", water))
        if chosen.any()
    }
    return whole, molecules, unknown


def _selected(molecule: Molecule, chosen: np.ndarray) -> Molecule:
    """The atoms of a molecule where chosen (N,) is True, with the bonds between them."""
    index = np.cumsum(chosen) - 1
    rows = np.flatnonzero(chosen)
    return Molecule(
        [molecule.elements[i] for i in rows],
        [molecule.hydrogens[i] for i in rows],
        [molecule.trigonal[i] for i in rows],
        [(int(index[i]), int(index[j])) for i, j in molecule.bonds if chosen[i] and chosen[j]],
        molecule.xyz[rows],
        molecule.occupancies[rows],
    )


def _hydrogens_by_template(
    model: AtomicModel, neighbours: list[list[int]]
) -> tuple[list[int], set[str]]:
    """Hydrogens to add to each atom, and the names of residues that no template describes.

    Args:
        neighbours: bonded atoms of each atom
    """
    # residues that come with hydrogens keep them
    complete = {r for r, e in zip(model.residue_ids, model.elements) if e == "H"}
    added, unknown = [], set()
    for i, (element, residue) in enumerate(zip(model.elements, model.residues)):
        count = 0
        if model.residue_ids[i] not in complete:
            if residue in WATERS:
                count = 2 if element == "O" else 0
            elif residue == "MSE" or residue in residues.AMINO_ACIDS:
                count = _hydrogens_of_amino_acid(model, i, neighbours[i])
            elif element == "C":
                unknown.add(residue)
        added.append(count)
    return added, unknown


def _hydrogens_of_amino_acid(model: AtomicModel, i: int, bonded: list[int]) -> int:
    """Hydrogens on atom i: two more at the start of a chain, none on a disulphide."""
    name, residue = model.names[i], model.residues[i]
    if name == "SG" and any(model.elements[j] == "S" for j in bonded):
        return 0
    template = residues.AMINO_ACIDS["MET" if residue == "MSE" else residue]
    count = template.atoms.get("SD" if name == "SE" else name, 0)
    starts_chain = name == "N" and not any(
        model.elements[j] == "C" and model.residue_ids[j] != model.residue_ids[i] for j in bonded
    )
    return count + 2 if starts_chain else count
