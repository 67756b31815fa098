"""The contents of the unit cell from an atomic model, a sequence, or a formula."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from cctbx import crystal

from dials_diffuse.absolute.contents import residues
from dials_diffuse.absolute.contents.atomic_model import WATERS, model_molecules, read_model
from dials_diffuse.absolute.contents.distant_pairs import (
    distant_pairs,
    distant_pairs_of_protein,
    distant_pairs_of_water,
)
from dials_diffuse.absolute.contents.form_factors import check_element
from dials_diffuse.absolute.contents.inventory import Part, UnitCellInventory
from dials_diffuse.absolute.contents.pairs import (
    WATER,
    Molecule,
    add_atoms,
    count_atoms,
    pairs_of,
    sum_pairs,
)
from dials_diffuse.io.paths import names_a_file

DALTON_IN_GRAM = 1.66053907e-24
# Angstrom^3 per Da of protein: 0.74 cm^3/g (Matthews 1968)
PROTEIN_VOLUME = 0.74e24 * DALTON_IN_GRAM
WATER_ELECTRONS = 10
WATER_MASS = 18.015


@dataclass(frozen=True)
class CompositionSettings:
    """The scope composition of phil/absolute.py, which describes the fields."""

    scope: ClassVar[str] = "absolute.composition"
    model: str | None
    sequence: str | None
    formula: str | None
    copies: float | None
    ligands: str | None
    solvent_content: float | None
    solvent_density: float
    hydrogens: str
    cell_tolerance: float


def unit_cell_inventory(
    settings: CompositionSettings, symmetry: crystal.symmetry
) -> UnitCellInventory:
    """The contents of the unit cell that the settings describe.

    Args:
        settings: one of model, sequence and formula is given
        symmetry: cell and space group of the data

    Raises:
        ValueError: none or several of model, sequence and formula, or one that can't be used.
    """
    sources = {
        "model": inventory_from_model,
        "sequence": inventory_from_sequence,
        "formula": inventory_from_formula,
    }
    given = [name for name in sources if getattr(settings, name)]
    if len(given) != 1:
        raise ValueError(
            "The composition of the unit cell is needed: give one of composition.model, composition.sequence "
            f"and composition.formula ({', '.join(given) or 'none'} given)"
        )
    if settings.copies is not None and settings.copies <= 0:
        raise ValueError("composition.copies must be more than 0")
    return sources[given[0]](settings, symmetry)


def inventory_from_formula(
    settings: CompositionSettings, symmetry: crystal.symmetry
) -> UnitCellInventory:
    """Copies of settings.formula. No pairs are known. There is no solvent unless it is given.

    Raises:
        ValueError: unreadable formula, unknown element, no atoms.
    """
    copies = _number_of_copies(settings, symmetry)
    parts = [Part("formula", _times(copies, parse_formula(settings.formula)), None)]
    if settings.solvent_content is None:
        settings = replace(settings, solvent_content=0.0)
    return _complete(parts, settings, symmetry, copies, "formula")


def inventory_from_sequence(
    settings: CompositionSettings, symmetry: crystal.symmetry
) -> UnitCellInventory:
    """Copies of the protein chains of settings.sequence, with ideal bonds and average packing.

    Raises:
        ValueError: no such file, empty, or letters that are no amino acid.
    """
    text = settings.sequence
    if names_a_file(text):
        text = Path(text).read_text()
    elif Path(text).suffix or not text.isupper():
        # Sequences are in capitals; in small letters it is the name of a file
        raise ValueError(f"No such file: {text} (sequences themselves are in capital letters)")
    copies = _number_of_copies(settings, symmetry)
    sequences = read_sequences(text)
    chains = [chain_molecule(sequence) for sequence in sequences]
    atoms = _times(copies, add_atoms(*(count_atoms(chain) for chain in chains)))
    pairs = sum_pairs(pairs_of(chain) for chain in chains).scaled(copies)
    distant = distant_pairs_of_protein(atoms)
    parts = [Part("protein", atoms, pairs, distant=distant, distant_error=0.2)]
    source = f"sequence of {sum(map(len, sequences))} residues"
    return _complete(parts, settings, symmetry, copies, source)


def inventory_from_model(
    settings: CompositionSettings, symmetry: crystal.symmetry
) -> UnitCellInventory:
    """The atoms of settings.model and its symmetry copies.

    The symmetry is the model's own, or that of the data where the file has none.

    Raises:
        ValueError: unreadable or empty model, unknown element, or its cell is not the data's.
    """
    model = read_model(settings.model)
    own = model.symmetry or symmetry
    if not own.unit_cell().is_similar_to(
        symmetry.unit_cell(), settings.cell_tolerance, np.degrees(settings.cell_tolerance)
    ):
        raise ValueError(
            f"The cell of {settings.model}, {_cell_text(own)}, is not that of the data, {_cell_text(symmetry)}: "
            "give the model of this crystal form, or composition.formula"
        )
    own = crystal.symmetry(
        unit_cell=own.unit_cell(),
        space_group=own.space_group() or symmetry.space_group(),
        assert_is_compatible_unit_cell=False,
    )
    copies = _number_of_copies(settings, own)
    whole, molecules, unknown = model_molecules(model, settings.hydrogens == "add")
    parts = [
        Part(name, _times(copies, count_atoms(molecule)), pairs_of(molecule).scaled(copies))
        for name, molecule in molecules.items()
    ]
    parts[0].distant = distant_pairs(whole, own).scaled(copies)
    parts[0].distant_error = 0.1
    is_water = [
        residue in WATERS and element == "O"
        for residue, element in zip(model.residues, model.elements)
    ]
    waters = float(model.occupancies[np.array(is_water)].sum()) * copies
    source = f"model {Path(settings.model).name}"
    inventory = _complete(parts, settings, symmetry, copies, source, waters)
    if unknown:
        inventory.warnings.append(
            f"No hydrogens were added to {', '.join(sorted(unknown))}: no template"
        )
    return inventory


def _number_of_copies(settings: CompositionSettings, symmetry: crystal.symmetry) -> float:
    return symmetry.space_group().order_z() if settings.copies is None else settings.copies


def _times(copies: float, atoms: Mapping[str, float]) -> dict[str, float]:
    return {element: number * copies for element, number in atoms.items()}


def _cell_text(symmetry: crystal.symmetry) -> str:
    return "(" + ", ".join(f"{p:.1f}" for p in symmetry.unit_cell().parameters()) + ")"


def _complete(
    parts: list[Part],
    settings: CompositionSettings,
    symmetry: crystal.symmetry,
    copies: float,
    source: str,
    ordered_waters: float = 0.0,
) -> UnitCellInventory:
    """Add ligands and bulk solvent, and check that the contents are plausible."""
    if settings.ligands:
        parts = [*parts, Part("ligands", _times(copies, parse_formula(settings.ligands)), None)]
    volume = symmetry.unit_cell().volume()
    macromolecule = sum(part.mass for part in parts) - ordered_waters * WATER_MASS
    guess = 1 - macromolecule * PROTEIN_VOLUME / volume
    # of the density of the mother liquor, and of the volume where it was guessed from the mass
    solvent_content, error = settings.solvent_content, 0.03
    if solvent_content is None:
        solvent_content, error = min(max(guess, 0.0), 1.0), 0.05
    waters = volume * solvent_content * settings.solvent_density / WATER_ELECTRONS - ordered_waters
    if waters > 0:
        parts = [*parts, _bulk_solvent(waters, error)]
    matthews = volume / max(macromolecule, 1e-9)
    source = f"{source}, {copies:g} copies"
    inventory = UnitCellInventory(parts, volume, source, solvent_content, matthews)
    if inventory.electrons <= 0:
        raise ValueError("The composition holds no electrons")
    if not 1.5 < matthews < 6.0:
        inventory.warnings.append(
            f"Matthews coefficient {matthews:.2f} A^3/Da (proteins: 1.6 to 5): check composition.copies"
        )
    mean = inventory.electrons / volume
    if not 0.30 < mean < 0.60:
        inventory.warnings.append(
            f"Mean electron density {mean:.3f} e/A^3 (protein crystals: 0.36 to 0.44): check the "
            "composition and solvent_content"
        )
    if solvent_content + (1 - guess) > 1.15:
        inventory.warnings.append(
            f"Solvent content {solvent_content:.2f} leaves too little room for {macromolecule / 1000:.1f} kDa "
            f"(about {max(guess, 0):.2f} by volume)"
        )
    return inventory


def _bulk_solvent(waters: float, number_error: float) -> Part:
    return Part(
        "bulk solvent",
        {"H": 2 * waters, "O": waters},
        pairs_of(WATER).scaled(waters),
        ordered=False,
        distant=distant_pairs_of_water(waters),
        distant_error=0.3,
        number_error=number_error,
    )


def parse_formula(text: str) -> dict[str, float]:
    """Element -> atoms of a formula such as "C 613 H 959 N 193" or "C613 H959 N193".

    Raises:
        ValueError: can't be read, an unknown element, or no atom at all.
    """
    tokens = re.findall(r"([A-Z][a-z]*)\s*([0-9]*\.?[0-9]+)?|(\S)", text)
    atoms: dict[str, float] = {}
    for symbol, number, rest in tokens:
        if rest and rest not in ",;":
            raise ValueError(
                f"Can't read {rest!r} in the formula {text!r}: write elements and numbers, as in 'C 613 H 959 N 193'"
            )
        if symbol:
            element = check_element(symbol)
            atoms[element] = atoms.get(element, 0.0) + (float(number) if number else 1.0)
    if sum(atoms.values()) <= 0:
        raise ValueError(f"The formula {text!r} holds no atoms")
    return atoms


def read_sequences(text: str) -> list[str]:
    """One-letter sequences from FASTA text, or from letters alone.

    iotbx.bioinformatics is not used: its parsers know neither comments that begin with ";" nor
    sequences with numbers between the letters.

    Raises:
        ValueError: empty, or letters that are no amino acid.
    """
    blocks = re.split(r"^[>;].*$", text, flags=re.MULTILINE)
    chains = [re.sub(r"[\s*\-0-9]", "", block).upper() for block in blocks]
    chains = [letters for letters in chains if letters]
    if not chains:
        raise ValueError("The sequence is empty")
    unknown = sorted(set("".join(chains)) - set(residues.ONE_LETTER))
    if unknown:
        raise ValueError(
            f"The sequence has letters that are no amino acid: {' '.join(unknown)} "
            "(for nucleic acids and modified residues give composition.formula)"
        )
    return chains


def chain_molecule(sequence: str) -> Molecule:
    """Atoms and bonds of a polypeptide with charged ends, without coordinates.

    Args:
        sequence: one-letter code
    """
    elements, hydrogens, trigonal, bonds = [], [], [], []
    previous = None
    for letter in sequence:
        name = residues.ONE_LETTER[letter]
        template = residues.AMINO_ACIDS[name]
        index = {atom: len(elements) + k for k, atom in enumerate(template.atoms)}
        elements += [template.element(atom) for atom in template.atoms]
        hydrogens += template.atoms.values()
        trigonal += [residues.is_trigonal(name, atom) for atom in template.atoms]
        bonds += [(index[a], index[b]) for a, b in template.bonds]
        if previous is None:
            # -NH3+ (-NH2+- of proline)
            hydrogens[index["N"]] += 2
            trigonal[index["N"]] = False
        else:
            bonds.append((previous, index["N"]))
        previous = index["C"]
    # the second oxygen of the carboxylate
    bonds.append((previous, len(elements)))
    return Molecule([*elements, "O"], [*hydrogens, 0], [*trigonal, False], bonds)
