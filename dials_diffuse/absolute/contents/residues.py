"""Templates of the amino acids: hydrogens of each heavy atom, and bonds.

cctbx finds these in the monomer library of CCP4 or Phenix, which Debian's packages do not have, so
the templates stand here. They serve to count hydrogens, and to find bonded and 1-3 distances without
coordinates. Hydrogens are those at neutral pH. Names of atoms are those of the PDB.
"""

from __future__ import annotations

from dataclasses import dataclass

from iotbx.pdb import amino_acid_codes


@dataclass(frozen=True)
class Residue:
    """Heavy atoms (name -> hydrogens on it) and bonds between them."""

    atoms: dict[str, int]
    bonds: tuple[tuple[str, str], ...]

    @staticmethod
    def element(name: str) -> str:
        """Element of an atom name of these templates"""
        return name[0]


_BACKBONE = {"N": 1, "CA": 1, "C": 0, "O": 0}
_BACKBONE_BONDS = "N-CA CA-C C-O"

# side chain: "name:hydrogens ..." and its bonds
_SIDE_CHAINS = {
    "ALA": ("CB:3", "CA-CB"),
    "ARG": ("CB:2 CG:2 CD:2 NE:1 CZ:0 NH1:2 NH2:2", "CA-CB CB-CG CG-CD CD-NE NE-CZ CZ-NH1 CZ-NH2"),
    "ASN": ("CB:2 CG:0 OD1:0 ND2:2", "CA-CB CB-CG CG-OD1 CG-ND2"),
    "ASP": ("CB:2 CG:0 OD1:0 OD2:0", "CA-CB CB-CG CG-OD1 CG-OD2"),
    "CYS": ("CB:2 SG:1", "CA-CB CB-SG"),
    "GLN": ("CB:2 CG:2 CD:0 OE1:0 NE2:2", "CA-CB CB-CG CG-CD CD-OE1 CD-NE2"),
    "GLU": ("CB:2 CG:2 CD:0 OE1:0 OE2:0", "CA-CB CB-CG CG-CD CD-OE1 CD-OE2"),
    "GLY": ("", ""),
    "HIS": (
        "CB:2 CG:0 ND1:1 CD2:1 CE1:1 NE2:0",
        "CA-CB CB-CG CG-ND1 CG-CD2 ND1-CE1 CD2-NE2 CE1-NE2",
    ),
    "ILE": ("CB:1 CG1:2 CG2:3 CD1:3", "CA-CB CB-CG1 CB-CG2 CG1-CD1"),
    "LEU": ("CB:2 CG:1 CD1:3 CD2:3", "CA-CB CB-CG CG-CD1 CG-CD2"),
    "LYS": ("CB:2 CG:2 CD:2 CE:2 NZ:3", "CA-CB CB-CG CG-CD CD-CE CE-NZ"),
    "MET": ("CB:2 CG:2 SD:0 CE:3", "CA-CB CB-CG CG-SD SD-CE"),
    "PHE": (
        "CB:2 CG:0 CD1:1 CD2:1 CE1:1 CE2:1 CZ:1",
        "CA-CB CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ",
    ),
    "PRO": ("CB:2 CG:2 CD:2", "CA-CB CB-CG CG-CD CD-N"),
    "SER": ("CB:2 OG:1", "CA-CB CB-OG"),
    "THR": ("CB:1 OG1:1 CG2:3", "CA-CB CB-OG1 CB-CG2"),
    "TRP": (
        "CB:2 CG:0 CD1:1 CD2:0 NE1:1 CE2:0 CE3:1 CZ2:1 CZ3:1 CH2:1",
        "CA-CB CB-CG CG-CD1 CG-CD2 CD1-NE1 NE1-CE2 CD2-CE2 CD2-CE3 CE2-CZ2 CE3-CZ3 CZ2-CH2 CZ3-CH2",
    ),
    "TYR": (
        "CB:2 CG:0 CD1:1 CD2:1 CE1:1 CE2:1 CZ:0 OH:1",
        "CA-CB CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ CZ-OH",
    ),
    "VAL": ("CB:1 CG1:3 CG2:3", "CA-CB CB-CG1 CB-CG2"),
}

ONE_LETTER = {
    letter: name
    for letter, name in amino_acid_codes.three_letter_given_one_letter.items()
    if name in _SIDE_CHAINS
}


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(tuple(bond.split("-")) for bond in text.split())


def _residue(name: str) -> Residue:
    side, bonds = _SIDE_CHAINS[name]
    atoms = dict(_BACKBONE)
    if name == "GLY":
        atoms["CA"] = 2
    if name == "PRO":
        atoms["N"] = 0
    for item in side.split():
        atom, hydrogens = item.split(":")
        atoms[atom] = int(hydrogens)
    return Residue(atoms, _pairs(f"{_BACKBONE_BONDS} {bonds}"))


AMINO_ACIDS = {name: _residue(name) for name in _SIDE_CHAINS}

# Carbonyl, carboxylate and guanidinium carbons and the atoms of aromatic rings: angles near 120 degrees.
TRIGONAL = {
    "*": {"C", "N"},
    "ARG": {"NE", "CZ", "NH1", "NH2"},
    "ASN": {"CG", "ND2"},
    "ASP": {"CG"},
    "GLN": {"CD", "NE2"},
    "GLU": {"CD"},
    "HIS": {"CG", "ND1", "CD2", "CE1", "NE2"},
    "PHE": {"CG", "CD1", "CD2", "CE1", "CE2", "CZ"},
    "TRP": {"CG", "CD1", "CD2", "NE1", "CE2", "CE3", "CZ2", "CZ3", "CH2"},
    "TYR": {"CG", "CD1", "CD2", "CE1", "CE2", "CZ"},
}


def is_trigonal(residue: str, atom: str) -> bool:
    """True for atoms with three neighbours in a plane (sp2)"""
    return atom in TRIGONAL["*"] or atom in TRIGONAL.get(residue, ())
