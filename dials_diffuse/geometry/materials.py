"""Attenuation of X-rays in the sensor and in the gas before the detector."""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import PchipInterpolator

from cctbx import factor_ev_angstrom
from cctbx.eltbx import attenuation_coefficient

from dials_diffuse.geometry.settings import SensorSettings

# Atoms in a molecule of the gas. Dry air: mole fractions of the US Standard Atmosphere 1976 without
# carbon dioxide
_GASES = {
    "air": {"N": 2 * 0.78084, "O": 2 * 0.20948, "Ar": 0.00934},
    "helium": {"He": 1.0},
    "vacuum": {},
}
_MOLAR_MASS = {"N": 14.0067, "O": 15.9994, "Ar": 39.948, "He": 4.002602}  # g/mol
_GAS_CONSTANT = 8.314462618  # J/(mol K)


def gas_attenuation(gas: str, wavelength: float, pressure: float, temperature: float) -> float:
    """Attenuation coefficient of an ideal gas, 1/mm, from NIST's tables in cctbx.

    Args:
        gas: "air" (dry), "helium" or "vacuum"
        wavelength: Angstrom
        pressure: hPa
        temperature: K
    """
    # g of each element in a mol of gas; 1 hPa/(J/(mol K) K) = 100 mol/m^3 = 1e-7 mol/mm^3
    moles_per_mm3 = 1e-7 * pressure / (_GAS_CONSTANT * temperature)
    mu_per_mole = sum(
        n * _MOLAR_MASS[element] * mass_attenuation(element, wavelength)
        for element, n in _GASES[gas].items()
    )  # cm^2/mol
    return 100.0 * mu_per_mole * moles_per_mm3


def mass_attenuation(material: str, wavelength: float) -> float:
    """mu/rho in cm^2/g (Hubbell & Seltzer, NISTIR 5632, as tabulated in cctbx).

    Between its energies the table is interpolated by a cubic in the logarithms, from one
    absorption edge to the next: straight lines between 10 and 15 keV are 1.6 % too high for the air.

    Args:
        material: element or compound
        wavelength: Angstrom

    Raises:
        ValueError: material unknown, or the wavelength is outside the table.
    """
    try:
        table = attenuation_coefficient.get_table(material)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"There is no attenuation table of {material!r}: give sensor.material= or sensor.mu="
        ) from error
    energy = math.log(factor_ev_angstrom / wavelength * 1e-6)  # MeV
    x, y = np.log(np.array(table.energy())), np.log(np.array(table.mu_rho()))
    # The table gives two values at the energy of an edge
    edges = np.flatnonzero(np.diff(x) == 0) + 1
    for part in np.split(np.arange(len(x)), edges):
        if len(part) > 1 and x[part[0]] <= energy <= x[part[-1]]:
            return math.exp(float(PchipInterpolator(x[part], y[part])(energy)))
    raise ValueError(f"The attenuation table of {material} has no value at {wavelength:g} Angstrom")


def solid_attenuation(material: str, wavelength: float) -> float:
    """Attenuation coefficient of a sensor material, 1/mm, from NIST's tables in cctbx.

    Args:
        material: element or compound
        wavelength: Angstrom

    Raises:
        ValueError: material unknown, or the wavelength is outside the table.
    """
    mu_rho = mass_attenuation(material, wavelength)
    return 0.1 * mu_rho * float(attenuation_coefficient.get_table(material).density())


def sensor_of(
    panel, wavelength: float, settings: SensorSettings, attenuated: bool = True
) -> tuple[float, float] | None:
    """Attenuation coefficient (1/mm) and thickness (mm) of a panel's sensor.

    Each is taken from the settings, else from the panel; the coefficient last from the panel's material.

    Args:
        panel: dxtbx model
        wavelength: Angstrom
        settings: of the sensor
        attenuated: as X-rays are. If not, what the panel says of its sensor is of no use, and the coefficient is
            that of the settings or unknown

    Returns:
        (mu, thickness), None where one of them is not known

    Raises:
        ValueError: unknown material.
    """
    thickness = settings.thickness or panel.get_thickness()
    if settings.mu is not None:
        mu = settings.mu
    elif not attenuated:
        mu = 0.0
    elif settings.material is not None:
        mu = solid_attenuation(settings.material, wavelength)
    elif panel.get_mu() > 0:
        mu = panel.get_mu()
    elif panel.get_material():
        mu = solid_attenuation(panel.get_material(), wavelength)
    else:
        mu = 0.0
    if not (mu > 0 and thickness > 0):
        return None
    return float(mu), float(thickness)
