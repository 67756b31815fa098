"""Beam models of every version of dxtbx: their probe, and what makes no sense in them."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from dxtbx.model import Beam, BeamFactory

from dials_diffuse.adapters.beams import (
    ELECTRON,
    NEUTRON,
    XRAY,
    check_beams,
    check_beams_of_file,
    check_polarization,
    polarization_normal,
    probe_of,
    set_probe,
)

KNOWS_PROBES = hasattr(Beam, "get_probe_name")


def beam(normal=(0.0, 1.0, 0.0), fraction=0.99, wavelength=0.97):
    model = BeamFactory.simple(wavelength)
    model.set_polarization_normal(normal)
    model.set_polarization_fraction(fraction)
    return model


@pytest.mark.parametrize(
    "wavelength, expected",
    # 300 and 200 kV, 120 keV X-rays, usual ones
    [(0.0197, ELECTRON), (0.0251, ELECTRON), (0.103, XRAY), (1.54, XRAY)],
)
def test_short_wavelengths_are_electrons(wavelength, expected):
    assert probe_of(beam(wavelength=wavelength)) == expected


@pytest.mark.skipif(not KNOWS_PROBES, reason="this dxtbx has no probes")
@pytest.mark.parametrize("name", [ELECTRON, NEUTRON, XRAY])
def test_probe_that_the_model_names(name):
    model = beam(wavelength=1.5)
    set_probe(model, name)
    assert probe_of(model) == name


@pytest.mark.skipif(KNOWS_PROBES, reason="this dxtbx has probes")
def test_probe_of_a_file_that_would_be_lost(tmp_path, caplog):
    path = tmp_path / "neutrons.expt"
    path.write_text(json.dumps({"beam": [{"probe": "neutron"}]}))
    with caplog.at_level(logging.WARNING):
        check_beams_of_file(path)
    assert "probe=neutron" in caplog.text


def test_polychromatic_beams_are_refused(tmp_path):
    beams = [beam().to_dict(), {"__id__": "polychromatic", "wavelength_range": (0.5, 1.5)}]
    check_beams(beams[:1], "one.expt")
    with pytest.raises(ValueError, match="two.expt has a polychromatic beam"):
        check_beams(beams, "two.expt")


@pytest.mark.parametrize("tilt", [0.0, 11.0, -60.0])
@pytest.mark.parametrize("direction", [(0, 0, 1), (0.1, -0.2, 0.9)])
def test_normal_is_projected_across_the_beam(tilt, direction):
    direction = np.array(direction) / np.linalg.norm(direction)
    across = np.cross(direction, (1.0, 0.0, 0.0))
    across /= np.linalg.norm(across)
    angle = np.radians(tilt)
    model = beam(tuple(2.5 * (np.cos(angle) * across + np.sin(angle) * direction)))
    model.set_direction(tuple(direction))
    np.testing.assert_allclose(polarization_normal(model), across, atol=1e-12)


@pytest.mark.parametrize("tilt, warned", [(0.5, False), (2.0, True), (-11.0, True)])
def test_tilts_beyond_a_degree_are_warned_of(tilt, warned, caplog):
    angle = np.radians(tilt)
    with caplog.at_level(logging.WARNING):
        check_polarization([beam((0.0, np.cos(angle), np.sin(angle))).to_dict()])
    assert (f"up to {abs(tilt):.1f} degrees" in caplog.text) == warned


@pytest.mark.parametrize(
    "normal, fraction, what",
    [
        ((0, 0, 1), 0.99, "parallel"),
        ((0, 1e-5, -1), 0.99, "parallel"),
        ((0, 0, 0), 0.99, "is 0,0,0"),
        ((0, np.nan, 0), 0.99, "nan"),
        ((0, 1, 0), -0.5, "fraction of the beam is -0.5"),
        ((0, 1, 0), 1.01, "fraction of the beam is 1.01"),
        ((0, 1, 0), np.nan, "fraction of the beam is nan"),
    ],
)
def test_polarizations_that_make_no_sense(normal, fraction, what):
    model = beam().to_dict() | {"polarization_normal": normal, "polarization_fraction": fraction}
    with pytest.raises(ValueError, match=what):
        check_polarization([model])
