"""Scattering of free atoms, from xraylib's tables.

Coherent: J. H. Hubbell et al., J. Phys. Chem. Ref. Data 4 (1975) 471, and
incoherent: the same; both as functions of sin(theta)/lambda = |q|/2, where q
has no factor of 2 pi. The reduction takes its form factors from cctbx, so the
two sides do not share a table.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

# Tables are cubic splines with this step, 1/Angstrom, from 0 to Q_MAX.
Q_STEP = 0.004
Q_MAX = 2.4


def parse_composition(text: str) -> dict[str, float]:
    """Elements and numbers of atoms of "C 613 N 193" (or "C613 N193").

    Raises:
        ValueError: the text cannot be read, or names no atom.
    """
    tokens = re.findall(r"([A-Z][a-z]?)\s*([0-9.]*)", text)
    rest = re.sub(r"([A-Z][a-z]?)\s*([0-9.]*)", "", text).strip(" ,;")
    if rest or not tokens:
        raise ValueError(
            f"composition {text!r} cannot be read: write elements and numbers of atoms, as 'C 613 N 193'"
        )
    atoms: dict[str, float] = {}
    for element, number in tokens:
        atoms[element] = atoms.get(element, 0.0) + (float(number) if number else 1.0)
    return atoms


@lru_cache(maxsize=None)
def _table(element: str, kind: str) -> np.ndarray:
    """f0 or S of an element at the knots of the splines."""
    import xraylib

    try:
        z = xraylib.SymbolToAtomicNumber(element)
    except ValueError as error:
        raise ValueError(f"truth.composition: {element} is no element") from error
    q = _knots()
    if kind == "coherent":
        return np.array([float(xraylib.FF_Rayl(z, x / 2)) for x in q])
    # xraylib has no entry below 0.001; the limit at 0 is 0
    return np.array([float(xraylib.SF_Compt(z, x / 2)) if x / 2 > 0.001 else 0.0 for x in q])


def _knots() -> np.ndarray:
    return np.arange(0.0, Q_MAX + Q_STEP, Q_STEP)


@lru_cache(maxsize=None)
def _sum_spline(atoms: tuple[tuple[str, float], ...], kind: str):
    from scipy.interpolate import CubicSpline

    total = np.zeros(len(_knots()))
    for element, number in atoms:
        table = _table(element, kind)
        total += number * (table**2 if kind == "coherent" else table)
    return CubicSpline(_knots(), total)


def sum_f_squared(atoms: dict[str, float], q: np.ndarray) -> np.ndarray:
    """Sum of f0^2 over atoms, electrons^2, at |q| in 1/Angstrom (any shape).

    Args:
        atoms: number of each element.
        q: below Q_MAX.
    """
    return _sum_spline(tuple(sorted(atoms.items())), "coherent")(q)


def sum_incoherent(atoms: dict[str, float], q: np.ndarray) -> np.ndarray:
    """Sum of incoherent (Compton) scattering over atoms, electrons^2, at |q| in 1/Angstrom."""
    return np.maximum(_sum_spline(tuple(sorted(atoms.items())), "incoherent")(q), 0.0)


def air_attenuation(wavelength: float) -> float:
    """Linear attenuation coefficient of dry air at 20 degrees C and 101.325 kPa, 1/mm.

    Composition by mass and density 1.20479e-3 g/cm^3 of NIST's "Air, Dry (near
    sea level)"; total mass attenuation coefficients (cm^2/g) from xraylib.
    """
    import xraylib

    energy_kev = 12.398419843320026 / wavelength
    by_mass = {"C": 0.000124, "N": 0.755268, "O": 0.231781, "Ar": 0.012827}
    total = sum(
        fraction * xraylib.CS_Total(xraylib.SymbolToAtomicNumber(element), energy_kev)
        for element, fraction in by_mass.items()
    )
    return total * 1.20479e-3 / 10.0


def silicon_attenuation(wavelength: float) -> float:
    """Linear attenuation coefficient of silicon, 1/mm, as dxtbx's formats compute it."""
    from cctbx.eltbx import attenuation_coefficient

    table = attenuation_coefficient.get_table("Si")
    return table.mu_at_angstrom(wavelength) / 10.0
