"""What one unit cell holds: from a model, a sequence or a formula."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cctbx import crystal

from dials_diffuse.absolute import residues
from dials_diffuse.absolute.form_factors import (
    AtomicTables,
    atomic_number,
    atomic_weight,
    check_element,
    form_factor,
    incoherent_factor,
)
from dials_diffuse.absolute.pairs import (
    Molecule,
    PairList,
    add_atoms,
    bonds_from_distances,
    count_atoms,
    distant_pairs,
    distant_pairs_of_protein,
    distant_pairs_of_water,
    pairs_of,
    sum_pairs,
    water_pairs,
)

logger = logging.getLogger("dials.diffuse.absolute.composition")

DALTON_IN_GRAM = 1.66053907e-24
# Angstrom^3 per Da of protein: 0.74 cm^3/g (Matthews 1968)
PROTEIN_VOLUME = 0.74e24 * DALTON_IN_GRAM
WATER_ELECTRONS = 10


@dataclass
class Part:
    """A part of the contents of the unit cell.

    Attributes:
        name: for the table
        atoms: element -> atoms per unit cell
        pairs: bonded and 1-3 pairs per unit cell, None where not known
        ordered: contributes to Bragg intensities at high resolution
        distant: further pairs, tapered, None where not known
        distant_error: relative uncertainty of what the distant pairs contribute
        number_error: relative uncertainty of how much there is of this part
    """

    name: str
    atoms: dict[str, float]
    pairs: PairList | None
    ordered: bool = True
    distant: PairList | None = None
    distant_error: float = 0.0
    number_error: float = 0.0

    @property
    def electrons(self) -> float:
        return sum(n * atomic_number(e) for e, n in self.atoms.items())

    @property
    def mass(self) -> float:
        """Da"""
        return sum(n * atomic_weight(e) for e, n in self.atoms.items())


@dataclass
class UnitCellInventory:
    """All atoms of one unit cell.

    Attributes:
        parts: macromolecule, ligands, solvent
        volume: of the unit cell, Angstrom^3
        source: where the composition comes from, for the log
        solvent_content: fraction of the volume outside the macromolecule
        matthews: volume per mass without solvent, Angstrom^3/Da
        warnings: what is implausible about it
    """

    parts: list[Part]
    volume: float
    source: str
    solvent_content: float
    matthews: float
    warnings: list[str] = field(default_factory=list)

    @property
    def atoms(self) -> dict[str, float]:
        """Element -> atoms per unit cell"""
        return add_atoms(*(part.atoms for part in self.parts))

    @property
    def electrons(self) -> float:
        """Z of the unit cell"""
        return sum(part.electrons for part in self.parts)

    @property
    def mass(self) -> float:
        """Da"""
        return sum(part.mass for part in self.parts)

    @property
    def has_pairs(self) -> bool:
        """True if neighbours are known for the ordered part"""
        return any(part.ordered and part.pairs is not None for part in self.parts)

    def sum_f_squared(
        self, q: np.ndarray, tables: AtomicTables = AtomicTables(), ordered: bool = False
    ) -> np.ndarray:
        """Sum over the atoms of |f|^2, (N,), electrons^2 per unit cell.

        Args:
            q: |q| (N,), 1/Angstrom
            ordered: only the atoms that are ordered
        """
        atoms = self.atoms
        if ordered:
            atoms = add_atoms(*(part.atoms for part in self.parts if part.ordered))
        return sum(n * np.abs(form_factor(e, q, tables)) ** 2 for e, n in atoms.items())

    def incoherent(self, q: np.ndarray, tables: AtomicTables = AtomicTables()) -> np.ndarray:
        """Sum over the atoms of the incoherent scattering, (N,), electrons^2 per unit cell."""
        return sum(n * incoherent_factor(e, q, tables) for e, n in self.atoms.items())

    def pair_sum(
        self,
        q: np.ndarray,
        tables: AtomicTables = AtomicTables(),
        b_relative: float = 0.0,
        ordered: bool = False,
    ) -> np.ndarray:
        """Interference of neighbours, (N,), electrons^2 per unit cell: bonded, 1-3 and further
        ones (tapered: right beyond |q| = 0.3/A)."""
        parts = [part for part in self.parts if part.ordered or not ordered]
        known = [
            pairs for part in parts for pairs in (part.pairs, part.distant) if pairs is not None
        ]
        return sum_pairs(known).debye_sum(q, tables, b_relative)

    def distant_uncertainty(
        self, q: np.ndarray, tables: AtomicTables = AtomicTables()
    ) -> np.ndarray:
        """By how much the contribution of distant pairs may be wrong (N,), electrons^2 per unit
        cell, all shells together."""
        known = [
            part.distant.scaled(part.distant_error)
            for part in self.parts
            if part.distant is not None
        ]
        return sum_pairs(known).debye_sum(q, tables)

    def uncertainty(self, tables: AtomicTables = AtomicTables(), q: float = 0.5) -> float:
        """Relative uncertainty of sum f^2 at |q| from how much there is of each part."""
        total = self.sum_f_squared(np.array([q]), tables)[0]
        square = 0.0
        for part in self.parts:
            own = sum(n * abs(form_factor(e, [q], tables)[0]) ** 2 for e, n in part.atoms.items())
            square += (part.number_error * own / total) ** 2
        return float(np.sqrt(square))

    def as_rows(self) -> list[list]:
        """The inventory as a table, the column names first."""
        elements = sorted(self.atoms, key=atomic_number)
        rows = [["", "atoms", "electrons", "mass (kDa)", *elements]]
        for part in self.parts:
            rows.append(
                [
                    part.name,
                    f"{sum(part.atoms.values()):.0f}",
                    f"{part.electrons:.0f}",
                    f"{part.mass / 1000:.2f}",
                ]
                + [f"{part.atoms.get(e, 0):.0f}" for e in elements]
            )
        total = self.atoms
        rows.append(
            [
                "unit cell",
                f"{sum(total.values()):.0f}",
                f"{self.electrons:.0f}",
                f"{self.mass / 1000:.2f}",
            ]
            + [f"{total[e]:.0f}" for e in elements]
        )
        return rows

    def to_dict(self) -> dict:
        """Plain JSON"""
        return {
            "source": self.source,
            "atoms": self.atoms,
            "electrons": self.electrons,
            "mass": self.mass,
            "volume": self.volume,
            "matthews": self.matthews,
            "solvent_content": self.solvent_content,
            "warnings": self.warnings,
        }


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

    Raises:
        ValueError: empty, or letters that are no amino acid.
    """
    chains: list[str] = []
    for block in re.split(r"^>.*$|^;.*$", text, flags=re.MULTILINE):
        letters = re.sub(r"[\s*\-0-9]", "", block).upper()
        if letters:
            chains.append(letters)
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
    """Atoms and bonds of a polypeptide (one-letter), charged ends, without coordinates."""
    elements, hydrogens, trigonal, bonds = [], [], [], []
    previous = None
    for letter in sequence:
        name = residues.ONE_LETTER[letter]
        template = residues.AMINO_ACIDS[name]
        index = {atom: len(elements) + k for k, atom in enumerate(template.atoms)}
        for atom, count in template.atoms.items():
            elements.append(template.element(atom))
            hydrogens.append(count)
            trigonal.append(residues.is_trigonal(name, atom))
        bonds += [(index[a], index[b]) for a, b in template.bonds]
        if previous is None:
            # -NH3+ (-NH2+- of proline)
            hydrogens[index["N"]] += 2
            trigonal[index["N"]] = False
        else:
            bonds.append((previous, index["N"]))
        previous = index["C"]
    elements.append("O")
    hydrogens.append(0)
    trigonal.append(False)
    bonds.append((previous, len(elements) - 1))
    return Molecule(elements, hydrogens, trigonal, bonds)


def _solvent(
    volume: float, fraction: float, density: float, ordered_waters: float, error: float
) -> Part | None:
    waters = volume * fraction * density / WATER_ELECTRONS - ordered_waters
    if waters <= 0:
        return None
    return Part(
        "bulk solvent",
        {"H": 2 * waters, "O": waters},
        water_pairs().scaled(waters),
        ordered=False,
        distant=distant_pairs_of_water(waters),
        distant_error=0.3,
        number_error=error,
    )


def _finish(
    parts: list[Part],
    volume: float,
    source: str,
    solvent_content: float | None,
    density: float,
    ordered_waters: float = 0.0,
) -> UnitCellInventory:
    """Add bulk solvent, and say what looks wrong."""
    macromolecule = sum(part.mass for part in parts) - ordered_waters * 18.015
    guess = 1 - macromolecule * PROTEIN_VOLUME / volume
    warnings = []
    # density of the mother liquor, and the volume of the molecule where that was guessed from its mass
    error = 0.03
    if solvent_content is None:
        solvent_content, error = min(max(guess, 0.0), 1.0), 0.05
    solvent = _solvent(volume, solvent_content, density, ordered_waters, error)
    matthews = volume / max(macromolecule, 1e-9)
    inventory = UnitCellInventory(
        parts + ([solvent] if solvent else []), volume, source, solvent_content, matthews, warnings
    )
    if inventory.electrons <= 0:
        raise ValueError("The composition holds no electrons")
    if not 1.5 < matthews < 6.0:
        warnings.append(
            f"Matthews coefficient {matthews:.2f} A^3/Da (proteins: 1.6 to 5): check composition.copies"
        )
    mean = inventory.electrons / volume
    if not 0.30 < mean < 0.60:
        warnings.append(
            f"Mean electron density {mean:.3f} e/A^3 (protein crystals: 0.36 to 0.44): check the "
            "composition and solvent_content"
        )
    if solvent_content + (1 - guess) > 1.15:
        warnings.append(
            f"Solvent content {solvent_content:.2f} leaves too little room for {macromolecule / 1000:.1f} kDa "
            f"(about {max(guess, 0):.2f} by volume)"
        )
    return inventory


def inventory_from_formula(
    text: str,
    copies: float,
    symmetry: crystal.symmetry,
    solvent_content: float | None = 0.0,
    density: float = 0.334,
    ligands: str | None = None,
) -> UnitCellInventory:
    """The inventory of copies times a formula.

    Args:
        text: formula of one copy
        copies: per unit cell
        symmetry: cell of the data
        solvent_content: volume fraction of bulk water to add, None to guess it from the mass
        density: of bulk solvent, electrons/Angstrom^3
        ligands: formula of what comes with each copy

    Raises:
        ValueError: unreadable formula, unknown element, no atoms.
    """
    atoms = {e: n * copies for e, n in parse_formula(text).items()}
    parts = [Part("formula", atoms, None)]
    return _finish(
        parts + _ligands(ligands, copies),
        symmetry.unit_cell().volume(),
        f"formula, {copies:g} copies",
        solvent_content,
        density,
    )


def _ligands(text: str | None, copies: float) -> list[Part]:
    if not text:
        return []
    return [Part("ligands", {e: n * copies for e, n in parse_formula(text).items()}, None)]


def inventory_from_sequence(
    text: str,
    copies: float,
    symmetry: crystal.symmetry,
    solvent_content: float | None = None,
    density: float = 0.334,
    ligands: str | None = None,
) -> UnitCellInventory:
    """The inventory of copies times the protein chains of a FASTA text; arguments as for
    `inventory_from_formula`.

    Raises:
        ValueError: empty, or letters that are no amino acid.
    """
    chains = [chain_molecule(sequence) for sequence in read_sequences(text)]
    atoms = add_atoms(*(count_atoms(chain) for chain in chains))
    pairs = sum_pairs(pairs_of(chain) for chain in chains).scaled(copies)
    atoms = {e: n * copies for e, n in atoms.items()}
    distant = distant_pairs_of_protein(atoms)
    parts = [Part("protein", atoms, pairs, distant=distant, distant_error=0.2)]
    n_residues = sum(map(len, read_sequences(text)))
    return _finish(
        parts + _ligands(ligands, copies),
        symmetry.unit_cell().volume(),
        f"sequence of {n_residues} residues, {copies:g} copies",
        solvent_content,
        density,
    )


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
    import iotbx.pdb

    path = Path(path)
    try:
        source = iotbx.pdb.input(file_name=os.fspath(path))
        hierarchy = source.construct_hierarchy(sort_atoms=False)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"Can't read the model {path}: {lines[0]}") from error
    if hierarchy.models_size() == 0 or hierarchy.atoms().size() == 0:
        raise ValueError(f"The model {path} has no atoms")
    columns: list[tuple] = []
    for chain in hierarchy.models()[0].chains():
        for group in chain.residue_groups():
            for conformer in group.atom_groups():
                for atom in conformer.atoms():
                    symbol = atom.element.strip()
                    if not symbol:
                        atom.set_chemical_element_simple_if_necessary()
                        symbol = atom.element.strip()
                    columns.append(
                        (
                            symbol,
                            atom.name.strip(),
                            conformer.resname.strip(),
                            f"{chain.id}{group.resid()}",
                            conformer.altloc.strip(),
                            atom.xyz,
                            atom.occ,
                        )
                    )
    symbols, names, resnames, ids, altlocs, xyz, occupancies = zip(*columns)
    known: dict[str, str] = {}
    for symbol, name in zip(symbols, names):
        if symbol not in known:
            try:
                known[symbol] = check_element(symbol)
            except ValueError as error:
                raise ValueError(f"Unknown element {symbol!r} of atom {name} in {path}") from error
    symmetry = source.crystal_symmetry()
    if symmetry is not None and (
        symmetry.unit_cell() is None or symmetry.unit_cell().volume() < 10
    ):
        symmetry = None
    model = AtomicModel(
        symmetry,
        [known[symbol] for symbol in symbols],
        list(names),
        list(resnames),
        list(ids),
        list(altlocs),
        np.array(xyz, dtype=float),
        np.array(occupancies, dtype=float),
    )
    if not model.occupancies.sum() > 0:
        raise ValueError(f"All atoms of the model {path} have occupancy 0")
    return model


_WATERS = {"HOH", "WAT", "DOD", "H2O", "SOL"}


def _hydrogens_by_template(
    model: AtomicModel, bonds: list[tuple[int, int]]
) -> tuple[list[int], set[str]]:
    """Hydrogens to add to each atom, and the names of residues that no template knows."""
    neighbours: list[list[int]] = [[] for _ in model.elements]
    for i, j in bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    # residues that bring their hydrogens along keep them
    complete = {r for r, e in zip(model.residue_ids, model.elements) if e == "H"}
    added, unknown = [], set()
    for i, (name, residue) in enumerate(zip(model.names, model.residues)):
        count = 0
        if model.residue_ids[i] in complete:
            pass
        elif residue in _WATERS:
            count = 2 if model.elements[i] == "O" else 0
        elif residue == "MSE" or residue in residues.AMINO_ACIDS:
            lookup = "SD" if name == "SE" else name
            template = residues.AMINO_ACIDS["MET" if residue == "MSE" else residue]
            count = template.atoms.get(lookup, 0)
            if name == "N" and not any(
                model.elements[j] == "C" and model.residue_ids[j] != model.residue_ids[i]
                for j in neighbours[i]
            ):
                count += 2
            if name == "SG" and any(model.elements[j] == "S" for j in neighbours[i]):
                count = 0
        elif model.elements[i] == "C":
            unknown.add(residue)
        added.append(count)
    return added, unknown


def inventory_from_model(
    path: str | os.PathLike,
    symmetry: crystal.symmetry,
    copies: float | None = None,
    solvent_content: float | None = None,
    density: float = 0.334,
    ligands: str | None = None,
    add_hydrogens: bool = True,
    cell_tolerance: float = 0.03,
) -> UnitCellInventory:
    """The inventory of an atomic model and its symmetry copies.

    Args:
        path: PDB or mmCIF file
        symmetry: cell and space group of the data
        copies: of the file's atoms in the unit cell; None: the operations of the model's space
            group (of the data's where the file names none)
        solvent_content, density, ligands: as for `inventory_from_formula`; None guesses
        add_hydrogens: add those that the model lacks, by residue
        cell_tolerance: relative for lengths, radians for angles

    Raises:
        ValueError: unreadable or empty model, unknown element, or its cell is not the data's.
    """
    model = read_model(path)
    cell = symmetry.unit_cell()
    space_group = symmetry.space_group()
    if model.symmetry is not None:
        own = model.symmetry.unit_cell()
        if not own.is_similar_to(cell, cell_tolerance, np.degrees(cell_tolerance)):
            raise ValueError(
                f"The cell of {path}, {_cell_text(own)}, is not that of the data, {_cell_text(cell)}: "
                "give the model of this crystal form, or composition.formula"
            )
        if model.symmetry.space_group() is not None:
            space_group = model.symmetry.space_group()
    if copies is None:
        copies = space_group.order_z()
    bonds = bonds_from_distances(model.elements, model.xyz, model.conformers)
    hydrogens, unknown = [0] * len(model.elements), set()
    if add_hydrogens:
        hydrogens, unknown = _hydrogens_by_template(model, bonds)
    trigonal = [
        residues.is_trigonal(residue, name) for residue, name in zip(model.residues, model.names)
    ]
    water = np.array([residue in _WATERS for residue in model.residues])
    parts = []
    for name, chosen in (("model", ~water), ("ordered waters", water)):
        if chosen.any():
            molecule = _selection(model, bonds, hydrogens, trigonal, chosen)
            atoms = {e: n * copies for e, n in count_atoms(molecule).items()}
            parts.append(Part(name, atoms, pairs_of(molecule).scaled(copies)))
    own = crystal.symmetry(
        unit_cell=cell if model.symmetry is None else model.symmetry.unit_cell(),
        space_group=space_group,
        assert_is_compatible_unit_cell=False,
    )
    distant = distant_pairs(
        model.elements, model.xyz, model.occupancies, model.conformers, bonds, own
    )
    parts[0].distant, parts[0].distant_error = distant.scaled(copies), 0.1
    waters = (
        float(model.occupancies[water & np.array([e == "O" for e in model.elements])].sum())
        * copies
    )
    inventory = _finish(
        parts + _ligands(ligands, copies),
        cell.volume(),
        f"model {Path(path).name}, {copies:g} copies",
        solvent_content,
        density,
        waters,
    )
    if unknown:
        inventory.warnings.append(
            "No hydrogens were added to " + ", ".join(sorted(unknown)) + ": no template"
        )
    return inventory


def _cell_text(cell) -> str:
    return "(" + ", ".join(f"{p:.1f}" for p in cell.parameters()) + ")"


def _selection(model, bonds, hydrogens, trigonal, chosen) -> Molecule:
    index = np.cumsum(chosen) - 1
    rows = np.flatnonzero(chosen)
    return Molecule(
        [model.elements[i] for i in rows],
        [hydrogens[i] for i in rows],
        [trigonal[i] for i in rows],
        [(int(index[i]), int(index[j])) for i, j in bonds if chosen[i] and chosen[j]],
        model.xyz[rows],
        model.occupancies[rows],
    )
