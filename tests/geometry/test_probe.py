"""What applies to X-rays only is left out for electrons and neutrons, and said."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from dxtbx.model import BeamFactory, DetectorFactory

from dials_diffuse.geometry.panel import compute_panel, warn_of_unknown_sensors
from dials_diffuse.geometry.probe import check_probes, probe_for
from dials_diffuse.geometry.settings import GeometrySettings, SensorSettings
from dials_diffuse.phil.defaults import default_settings

XRAYS, ELECTRONS = 0.97, 0.0251


def settings(probe="auto", **sensor):
    return dataclasses.replace(
        default_settings(GeometrySettings, probe=probe),
        sensor=default_settings(SensorSettings, **sensor),
    )


def timepix():
    """512 x 512 pixels of 55 micrometres with 0.3 mm of silicon"""
    detector = DetectorFactory.simple(
        "PAD", 500.0, (14.0, 14.1), "+x", "-y", (0.055, 0.055), (512, 512), (-1, 1e6)
    )
    detector[0].set_material("Si")
    detector[0].set_thickness(0.3)
    return detector


def solid_angles(panel):
    """By plain numpy"""
    fast, slow = np.meshgrid(np.arange(512) + 0.5, np.arange(512) + 0.5)
    x, y = 0.055 * fast - 14.0, 0.055 * slow - 14.1
    return 0.055**2 * 500.0 / (x**2 + y**2 + 500.0**2) ** 1.5


@pytest.mark.parametrize(
    "wavelength, probe", [(ELECTRONS, "auto"), (1.8, "neutron"), (XRAYS, "electron")]
)
def test_acceptance_is_the_solid_angle(wavelength, probe):
    detector, beam = timepix(), BeamFactory.simple(wavelength)
    panel = compute_panel(detector[0], beam, settings(probe))
    np.testing.assert_allclose(panel.acceptance, solid_angles(detector[0]), rtol=1e-5)
    assert not warn_of_unknown_sensors(detector, beam, settings(probe))


def test_efficiency_that_is_given_applies():
    detector, beam = timepix(), BeamFactory.simple(ELECTRONS)
    panel = compute_panel(detector[0], beam, settings(mu=2.0))
    omega = solid_angles(detector[0])
    cosine = (omega * 500.0**2 / 0.055**2) ** (1 / 3)
    expected = omega * (1 - np.exp(-2.0 * 0.3 / cosine))
    np.testing.assert_allclose(panel.acceptance, expected, rtol=1e-5)


def test_xrays_are_corrected_as_before():
    detector, beam = timepix(), BeamFactory.simple(XRAYS)
    ratio = compute_panel(detector[0], beam, settings()).acceptance / solid_angles(detector[0])
    # the sensor absorbs 59 %
    assert ratio.max() < 0.6
    assert probe_for(BeamFactory.simple(ELECTRONS), settings("xray")).name == "X-rays"


def test_what_is_left_out_is_said(caplog):
    with caplog.at_level(logging.INFO):
        check_probes([BeamFactory.simple(XRAYS)], settings())
        assert not caplog.text
        check_probes([BeamFactory.simple(ELECTRONS)], settings())
    assert "electrons: no polarisation factor" in caplog.text
    assert "efficiency is 1" in caplog.text


def test_an_odd_polarization_matters_to_xrays_only():
    beam = BeamFactory.simple(XRAYS)
    beam.set_polarization_normal((0, 0, 1))
    with pytest.raises(ValueError, match="parallel"):
        check_probes([beam], settings())
    check_probes([beam], settings("neutron"))
    no_correction = dataclasses.replace(settings().corrections, polarization=False)
    check_probes([beam], dataclasses.replace(settings(), corrections=no_correction))


def test_bad_input():
    electrons, xrays = BeamFactory.simple(ELECTRONS), BeamFactory.simple(XRAYS)
    with pytest.raises(ValueError, match="X-rays and electrons"):
        check_probes([xrays, electrons], settings())
    with pytest.raises(ValueError, match="sensor.material=Si"):
        check_probes([electrons], settings(material="Si"))
