"""The expected profile of total scattering.

The mean over a shell of everything that the crystal scatters, Bragg peaks included, is

    I(q) = sum f^2 + S_pairs(q) exp(-B q^2/2) + S_inc(q)    in electrons^2 per unit cell.

Displacement moves intensity from Bragg peaks into diffuse scattering and takes none away, so no B factor
damps sum f^2. S_pairs is Debye's sum over pairs of neighbours (Ann. Phys. 46 (1915) 809). Its B is that
of the motion of neighbours against each other: nearly 0 in a crystal, where neighbours move together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.absolute.contents.form_factors import AtomicTables
from dials_diffuse.absolute.contents.inventory import UnitCellInventory


@dataclass(frozen=True)
class Variant:
    """What may be varied in the theory.

    Attributes:
        b_relative: of pairs, Angstrom^2
        distant: shift of the distant pairs, in units of their uncertainty
    """

    b_relative: float
    distant: float = 0.0


class Theory:
    """Expected profile of a composition.

    Args:
        inventory: contents of the unit cell
        q: |q| (N,), 1/Angstrom
        tables: of atomic scattering
        pairs: include the interference of neighbours where they are known

    Attributes:
        coherent: sum f^2 (N,), electrons^2 per unit cell, as all that follow
        incoherent: (N,)
        pairs: (N,) interference of neighbours at rest
        uncertainty: (N,) of the distant pairs
        has_pairs: False where pairs is 0
    """

    def __init__(
        self, inventory: UnitCellInventory, q: np.ndarray, tables: AtomicTables, pairs: bool
    ):
        self.q = q
        self.coherent = inventory.sum_f_squared(q, tables)
        self.incoherent = inventory.incoherent(q, tables)
        self.has_pairs = pairs and inventory.has_pairs
        self.pairs = self.uncertainty = np.zeros(q.shape)
        if self.has_pairs:
            self.pairs = inventory.pair_sum(q, tables)
            self.uncertainty = inventory.distant_uncertainty(q, tables)

    def damped_pairs(self, variant: Variant) -> np.ndarray:
        """Interference of neighbours that move against each other, (N,)."""
        pairs = self.pairs + variant.distant * self.uncertainty
        return pairs * np.exp(-variant.b_relative * self.q**2 / 2)

    def total(self, variant: Variant) -> np.ndarray:
        """Total scattering, (N,)."""
        return self.coherent + self.incoherent + self.damped_pairs(variant)

    def without_pairs(self) -> np.ndarray:
        """Total scattering without interference, (N,)."""
        return self.coherent + self.incoherent


def neglected_structure(q: np.ndarray) -> np.ndarray:
    """Relative error of the theory at |q| (N,) from structure beyond the known pairs.

    It was measured on the crystal of a small protein (PDB 1STN): 5 % at 0.35/A, 1 % at 0.7/A.
    """
    return 0.01 + 0.05 * np.exp(-np.maximum(q - 0.3, 0.0) / 0.1)
