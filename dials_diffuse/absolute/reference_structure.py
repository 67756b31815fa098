"""How atoms lie about each other where no model tells."""

from __future__ import annotations

import numpy as np

# Heavy atoms of a protein: neighbours of one atom that are neither bonded nor 1-3 to it, in
# shells of 0.1 A about these distances. Counted in the crystal of staphylococcal nuclease (PDB 1STN; its waters left
# out, its symmetry copies not): packing is much the same in all globular proteins.
PROTEIN_DISTANCES = np.round(np.arange(2.5, 8.05, 0.1), 1)
PROTEIN_NEIGHBOURS = np.array(
    [
        0.004, 0.035, 0.121, 0.491, 0.258, 0.345, 0.341, 0.337, 0.451, 0.466,
        0.541, 0.680, 0.680, 0.964, 0.777, 0.618, 0.706, 0.898, 1.063, 1.069,
        1.193, 1.280, 1.417, 1.377, 1.509, 1.423, 1.379, 1.379, 1.448, 1.507,
        1.639, 1.621, 1.736, 1.622, 1.791, 1.732, 1.910, 1.864, 1.905, 1.852,
        1.962, 1.985, 2.092, 2.125, 2.086, 2.334, 2.108, 2.172, 2.299, 2.390,
        2.374, 2.361, 2.469, 2.618, 2.664, 2.850,
    ]
)  # fmt: skip

# Liquid water at room temperature: molecules in a cubic Angstrom, and the oxygens' pair distribution g(r), read from
# Skinner et al., J. Chem. Phys. 138 (2013) 074506 (first peak 2.57 at 2.80 A, second 1.12 at 4.5 A)
WATER_DENSITY = 0.0334
WATER_DISTANCES = np.array(
    [2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.7, 4.0, 4.25, 4.5,
     4.75, 5.0, 5.25, 5.6, 6.0, 6.4, 6.8, 7.2, 7.6, 8.0]
)  # fmt: skip
WATER_G = np.array(
    [0.0, 0.05, 0.30, 1.10, 2.20, 2.57, 2.20, 1.65, 1.25, 1.02, 0.90, 0.85, 0.84, 0.88, 1.01, 1.09, 1.12,
     1.09, 1.02, 0.94, 0.89, 0.93, 1.01, 1.05, 1.03, 0.99, 0.98]
)  # fmt: skip
