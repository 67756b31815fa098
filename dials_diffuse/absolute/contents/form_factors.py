"""Scattering of single atoms, in electrons (coherent) and electrons^2 (incoherent).

|q| = 1/d = 2 sin(theta)/lambda in 1/Angstrom throughout; published tables run over
sin(theta)/lambda = |q|/2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xraylib
from scipy.interpolate import PchipInterpolator

from cctbx.eltbx import henke, sasaki, tiny_pse, xray_scattering

from dials.array_family import flex

# hc in keV Angstrom and the electron's rest energy in keV (CODATA 2018)
HC = 12.398419843320026
ELECTRON_REST_ENERGY = 510.99895

# xraylib's table of incoherent factors begins here, in sin(theta)/lambda; towards 0 the
# factor vanishes with the square, so steps are finer below _SF_CURVED
_SF_START, _SF_FINE, _SF_CURVED, _SF_STEP = 0.001, 0.001, 0.05, 0.005


@dataclass(frozen=True)
class TableSettings:
    """Which tables of atomic scattering are used; see phil/absolute.py.

    Attributes:
        form_factor: "it1992" (International Tables C, 6.1.1.4; to |q| = 4/A) or "wk1995"
            (Waasmaier & Kirfel 1995; to 12/A)
        anomalous: "none", "sasaki" or "henke": source of f' and f''
        recoil: exponent n of the Breit-Dirac factor (E'/E)^n of incoherent scattering
            (International Tables C, 7.4.3)
        threshold: energy in keV below which the detector does not count a photon
    """

    scope: ClassVar[str] = "absolute.tables"
    form_factor: str
    anomalous: str
    recoil: int
    threshold: float


@dataclass(frozen=True)
class AtomicTables:
    """Tables of atomic scattering at one wavelength.

    Attributes:
        settings: which tables
        wavelength: Angstrom; the anomalous terms and the recoil depend on it
    """

    settings: TableSettings
    wavelength: float


def check_element(symbol: str) -> str:
    """The element's symbol in its usual spelling.

    Raises:
        ValueError: no such element.
    """
    name = symbol.strip().capitalize()
    if name == "D":
        return "H"
    try:
        return tiny_pse.table(name, True).symbol()
    except (RuntimeError, ValueError):
        raise ValueError(f"Unknown element {symbol!r} in the composition") from None


def atomic_number(element: str) -> int:
    """Number of electrons of the neutral atom."""
    return tiny_pse.table(element, True).atomic_number()


def atomic_weight(element: str) -> float:
    """Atomic weight in Da."""
    return tiny_pse.table(element, True).weight()


def form_factor(element: str, q: np.ndarray, tables: AtomicTables) -> np.ndarray:
    """f0 + f' + i f'' of a free neutral atom, complex (N,), electrons.

    Args:
        element: symbol
        q: |q| (N,), 1/Angstrom

    Raises:
        ValueError: the tables lack the element.
    """
    q = np.atleast_1d(np.asarray(q, dtype=float))
    lookup = {"it1992": xray_scattering.it1992, "wk1995": xray_scattering.wk1995}
    try:
        gaussians = lookup[tables.settings.form_factor](element, True).fetch()
    except ValueError as error:
        raise ValueError(f"No form factor of {element} in {tables.settings.form_factor}") from error
    f0 = np.array(gaussians.at_d_star_sq(flex.double(q**2)))
    return f0 + anomalous_terms(element, tables)


def anomalous_terms(element: str, tables: AtomicTables) -> complex:
    """f' + i f'' at the wavelength, 0 for elements and energies outside the table."""
    if tables.settings.anomalous == "none" or atomic_number(element) < 3:
        return 0j
    table = {"sasaki": sasaki, "henke": henke}[tables.settings.anomalous].table(element)
    terms = table.at_angstrom(tables.wavelength)
    if not (terms.is_valid_fp() and terms.is_valid_fdp()):
        return 0j
    return complex(terms.fp(), terms.fdp())


@functools.lru_cache(maxsize=None)
def _incoherent_table(element: str, stop: float) -> tuple[np.ndarray, np.ndarray]:
    z = atomic_number(element)
    fine = np.arange(_SF_START, _SF_CURVED, _SF_FINE)
    s = np.concatenate([fine, np.arange(_SF_CURVED, stop + _SF_STEP, _SF_STEP)])
    values = [xraylib.SF_Compt(z, float(x)) for x in s]
    return np.concatenate([[0.0], s]), np.concatenate([[0.0], values])


def incoherent_factor(element: str, q: np.ndarray, tables: AtomicTables) -> np.ndarray:
    """Incoherent (Compton) scattering S of an atom (N,), electrons^2: 0 at q = 0, Z at infinity.

    The table is that of Hubbell et al. (1975) as xraylib.SF_Compt gives it.
    """
    q = np.atleast_1d(np.asarray(q, dtype=float))
    stop = float(np.ceil(max(q.max(initial=0.0) / 2, 1.0)))
    s, values = _incoherent_table(element, stop)
    return PchipInterpolator(s, values)(q / 2) * recoil_factor(q, tables)


def recoil_factor(q: np.ndarray, tables: AtomicTables) -> np.ndarray:
    """The fraction of incoherent scattering that is counted with recoil and threshold, (N,)."""
    q = np.asarray(q, dtype=float)
    if not tables.settings.recoil and tables.settings.threshold <= 0:
        return np.ones(q.shape)
    energy = HC / tables.wavelength
    # 1 - cos(2 theta) = 2 sin^2(theta) = (lambda q)^2 / 2
    ratio = 1.0 / (1.0 + energy / ELECTRON_REST_ENERGY * (tables.wavelength * q) ** 2 / 2)
    return ratio**tables.settings.recoil * (ratio * energy >= tables.settings.threshold)
