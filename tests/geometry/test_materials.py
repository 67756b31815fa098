"""Attenuation of sensors and gases against xraylib."""

from __future__ import annotations

import pytest

from dxtbx.model import Panel

from dials_diffuse.geometry.materials import (
    gas_attenuation,
    mass_attenuation,
    sensor_of,
    solid_attenuation,
)
from dials_diffuse.geometry.settings import SensorSettings
from dials_diffuse.phil.defaults import default_settings


@pytest.mark.parametrize("wavelength", [0.7, 0.97, 1.5])
def test_attenuation_agrees_with_xraylib(wavelength):
    xraylib = pytest.importorskip("xraylib")
    energy = 12.398419843 / wavelength
    for material, density in (("Si", 2.33), ("Ge", 5.323)):
        theirs = 0.1 * density * xraylib.CS_Total(xraylib.SymbolToAtomicNumber(material), energy)
        assert solid_attenuation(material, wavelength) == pytest.approx(theirs, rel=0.01)
    # at 15 degrees C and 1 atmosphere dry air has 1.225e-3 g/cm^3
    theirs = 0.1 * 1.225e-3 * xraylib.CS_Total_CP("Air, Dry (near sea level)", energy)
    assert gas_attenuation("air", wavelength, 1013.25, 288.15) == pytest.approx(theirs, rel=0.01)
    # helium at 0 degrees C: 0.1786 g/l
    theirs = 0.1 * 1.786e-4 * xraylib.CS_Total(2, energy)
    assert gas_attenuation("helium", wavelength, 1013.25, 273.15) == pytest.approx(theirs, rel=0.01)
    assert gas_attenuation("vacuum", wavelength, 1013.25, 273.15) == 0


@pytest.mark.parametrize("wavelength", [0.4629, 0.4648, 0.9, 1.2])
def test_attenuation_on_both_sides_of_an_edge(wavelength):
    # the K edge of cadmium is at 26.71 keV, 0.4642 Angstrom
    xraylib = pytest.importorskip("xraylib")
    theirs = xraylib.CS_Total(48, 12.398419843 / wavelength)
    assert mass_attenuation("Cd", wavelength) == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("gas", ["air", "helium"])
def test_attenuation_grows_with_the_density_of_the_gas(gas):
    mu = gas_attenuation(gas, 1.0, 1000.0, 300.0)
    assert gas_attenuation(gas, 1.0, 2000.0, 300.0) == pytest.approx(2 * mu)
    assert gas_attenuation(gas, 1.0, 1000.0, 600.0) == pytest.approx(mu / 2)


def test_wavelengths_outside_of_the_table_are_refused():
    with pytest.raises(ValueError, match="no value at 1e\\+06 Angstrom"):
        mass_attenuation("Si", 1e6)


def test_sensor_is_taken_from_parameters_panel_or_material():
    panel = Panel()
    nothing = default_settings(SensorSettings)
    assert sensor_of(panel, 0.97, nothing) is None
    panel.set_thickness(0.45)
    assert sensor_of(panel, 0.97, nothing) is None
    panel.set_material("Si")
    mu, thickness = sensor_of(panel, 0.97, nothing)
    assert (mu, thickness) == (pytest.approx(solid_attenuation("Si", 0.97)), 0.45)
    panel.set_mu(3.0)
    assert sensor_of(panel, 0.97, nothing) == (3.0, 0.45)
    other = default_settings(SensorSettings, material="CdTe", thickness=0.75)
    mu, thickness = sensor_of(panel, 0.97, other)
    assert (mu, thickness) == (pytest.approx(solid_attenuation("CdTe", 0.97)), 0.75)
    assert sensor_of(panel, 0.97, default_settings(SensorSettings, mu=5.0)) == (5.0, 0.45)
    with pytest.raises(ValueError, match="Unobtainium.*sensor.mu"):
        sensor_of(panel, 0.97, default_settings(SensorSettings, material="Unobtainium"))
