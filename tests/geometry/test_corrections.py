"""Factors of the acceptance against exact formulas, DIALS's C++ and pyFAI."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dxtbx.model import BeamFactory, DetectorFactory

from dials.algorithms.integration import Corrections

from dials_diffuse.geometry.corrections import (
    LORENTZ_INVERSE_Q,
    LORENTZ_NONE,
    LORENTZ_SIN_TWO_THETA,
    air_transmission,
    lorentz_factor,
    polarization,
    quantum_efficiency,
    solid_angle,
)
from dials_diffuse.geometry.materials import gas_attenuation
from dials_diffuse.geometry.panel import compute_panel
from dials_diffuse.geometry.settings import CorrectionSettings, FlightPathSettings, GeometrySettings
from dials_diffuse.phil.defaults import default_settings

ONLY = {"solid_angle": False, "polarization": False, "efficiency": False, "air": False}


def settings(medium="air", length=None, **on):
    return default_settings(
        GeometrySettings,
        corrections=default_settings(CorrectionSettings, **{**ONLY, **on}),
        flight_path=default_settings(FlightPathSettings, medium=medium, length=length),
    )


def acceptance(detector, source, **on):
    return compute_panel(detector[0], source, settings(**on)).acceptance


def flat_detector(distance=150.0, centre=(60.0, 52.0), size=(700, 600), pixel=0.172, **more):
    return DetectorFactory.simple(
        "PAD", distance, centre, "+x", "-y", (pixel, pixel), size, (-1, 1e6), **more
    )


def tilted(detector):
    panel = detector[0]
    turn = np.radians(25)
    fast = np.array([math.cos(turn), 0.1, math.sin(turn)])
    fast /= np.linalg.norm(fast)
    slow = np.cross([0.3, 0.2, -1.0], fast)
    slow /= np.linalg.norm(slow)
    panel.set_frame(tuple(fast), tuple(slow), (-50.0, 70.0, -120.0))
    return detector


def beam(wavelength=0.97, fraction=0.99, normal=(0.0, 1.0, 0.0)):
    model = BeamFactory.simple(wavelength)
    model.set_polarization_fraction(fraction)
    model.set_polarization_normal(normal)
    return model


def rectangle_solid_angle(panel):
    """Of the whole panel, exactly: two triangles of van Oosterom & Strackee (1983)."""
    fast, slow = panel.get_image_size_mm()
    a, b, c, d = (
        np.array(panel.get_lab_coord(xy)) for xy in ((0, 0), (fast, 0), (fast, slow), (0, slow))
    )

    def triangle(*corners):
        u, v, w = (x / np.linalg.norm(x) for x in corners)
        return 2 * math.atan2(abs(u @ np.cross(v, w)), 1 + u @ v + v @ w + w @ u)

    return triangle(a, b, c) + triangle(a, c, d)


@pytest.mark.parametrize("tilt", [False, True])
def test_solid_angles_add_up_to_that_of_the_panel(tilt):
    detector = flat_detector()
    if tilt:
        detector = tilted(detector)
    total = acceptance(detector, beam(), solid_angle=True).sum(dtype=np.float64)
    assert total == pytest.approx(rectangle_solid_angle(detector[0]), rel=1e-6)


def test_solid_angle_of_a_pixel_in_the_middle():
    assert solid_angle(0.172**2, 1.0, 200.0) == pytest.approx(0.172**2 / 200.0**2, rel=1e-14)


def pixel_s1(detector, wavelength, rows, columns):
    panel = detector[0]
    s1 = []
    for i, j in zip(rows, columns):
        lab = np.array(panel.get_lab_coord(panel.pixel_to_millimeter((j + 0.5, i + 0.5))))
        s1.append(lab / np.linalg.norm(lab) / wavelength)
    return s1


@pytest.fixture
def pixels():
    generator = np.random.default_rng(7)
    return generator.integers(0, 600, 200), generator.integers(0, 700, 200)


@pytest.mark.parametrize(
    "fraction, normal", [(0.99, (0, 1, 0)), (0.5, (0, 1, 0)), (0.8, (0.6, 0.8, 0))]
)
def test_polarization_agrees_with_dials(pixels, fraction, normal):
    detector, source = tilted(flat_detector()), beam(0.9, fraction, normal)
    ours = acceptance(detector, source, polarization=True)
    corrections = Corrections(source, detector)
    for i, j, s1 in zip(*pixels, pixel_s1(detector, 0.9, *pixels)):
        assert ours[i, j] == pytest.approx(1 / corrections.lp(tuple(s1)), rel=1e-6)


def test_polarization_of_numbers_and_arrays_alike(pixels):
    source = beam(0.9, 0.93)
    detector = flat_detector()
    s1 = np.array(pixel_s1(detector, 0.9, *pixels)) * 0.9
    cosines = s1 @ np.array(source.get_unit_s0())
    values = polarization(cosines, s1[:, 1], 0.93)
    corrections = Corrections(source, detector)
    assert values == pytest.approx([1 / corrections.lp(tuple(v / 0.9)) for v in s1], rel=1e-9)


def test_efficiency_agrees_with_dials(pixels):
    # with parallax: the ray of a pixel enters the sensor beside the pixel's centre
    detector = tilted(flat_detector())
    panel = detector[0]
    panel.set_mu(3.8)
    panel.set_thickness(0.45)
    source = beam()
    ours = acceptance(detector, source, efficiency=True)
    corrections = Corrections(source, detector)
    for i, j, s1 in zip(*pixels, pixel_s1(detector, 0.97, *pixels)):
        assert ours[i, j] == pytest.approx(corrections.qe(tuple(s1), 0), rel=1e-6)
    assert quantum_efficiency(3.8, 0.45, 1.0) == pytest.approx(1 - math.exp(-3.8 * 0.45))


def test_solid_angle_and_polarization_agree_with_pyfai(monkeypatch):
    # Its look for OpenCL devices aborts Python where there is no /sys
    monkeypatch.setenv("PYFAI_OPENCL", "0")
    monkeypatch.setenv("SILX_OPENCL", "0")
    integrator_module = pytest.importorskip("pyFAI.azimuthalIntegrator")
    # A PILATUS 6M at 351 mm, every eighth pixel wide, which has no part in the comparison
    pixel, distance = 8 * 0.172, 351.0
    size = (308, 316)
    centre = (212.0, 217.0)
    detector = flat_detector(distance, centre, size, pixel)
    source = beam(0.96859, 0.999)
    ours = acceptance(detector, source, solid_angle=True)
    integrator = integrator_module.AzimuthalIntegrator(
        dist=distance * 1e-3,
        poni1=centre[1] * 1e-3,
        poni2=centre[0] * 1e-3,
        pixel1=pixel * 1e-3,
        pixel2=pixel * 1e-3,
        wavelength=0.96859e-10,
    )
    shape = size[::-1]
    theirs = integrator.solidAngleArray(shape) * (pixel / distance) ** 2
    assert np.abs(ours / theirs - 1).max() < 1e-4
    # pyFAI's factor (horizontal plane) runs from -1 to 1, and is 2 f - 1
    ours = acceptance(detector, source, polarization=True)
    theirs = integrator.polarization(shape, factor=2 * 0.999 - 1)
    assert np.abs(ours / theirs - 1).max() < 1e-4


def test_air_transmission_of_a_path_partly_through_helium():
    assert air_transmission(300.0, 0.001, 0.0, 0.0) == pytest.approx(math.exp(-0.3))
    assert air_transmission(300.0, 0.001, 0.0, 200.0) == pytest.approx(math.exp(-0.1))
    assert air_transmission(300.0, 0.001, 1e-5, np.inf) == pytest.approx(math.exp(-0.003))
    assert air_transmission(np.array([100.0, 300.0]), 0.001, 0.0, 200.0) == pytest.approx(
        [1.0, math.exp(-0.1)]
    )


def test_the_gas_in_the_flight_path_is_used(pixels):
    detector, source = flat_detector(), beam()
    panel = detector[0]
    i, j = (int(v[0]) for v in pixels)
    distance = np.linalg.norm(panel.get_lab_coord(panel.pixel_to_millimeter((j + 0.5, i + 0.5))))
    air, helium, vacuum, half = (
        acceptance(detector, source, air=True, **more)[i, j]
        for more in (
            {},
            {"medium": "helium"},
            {"medium": "vacuum"},
            {"medium": "vacuum", "length": distance / 2},
        )
    )
    mu = gas_attenuation("air", 0.97, 1013.25, 293.15)
    assert air == pytest.approx(math.exp(-mu * distance), rel=1e-6)
    assert 0.999 < helium < 1 and vacuum == 1
    assert half == pytest.approx(math.sqrt(air), rel=1e-6)


def test_lorentz_factors():
    q, sine = 0.25, 0.24
    assert lorentz_factor(q, sine, LORENTZ_NONE) == 1
    assert lorentz_factor(q, sine, LORENTZ_INVERSE_Q) == 4
    assert lorentz_factor(q, sine, LORENTZ_SIN_TWO_THETA) == pytest.approx(1 / 0.24)
    detector, source = flat_detector(), beam()
    q = compute_panel(detector[0], source, settings()).q_length().astype(float)
    ratio = acceptance(detector, source, lorentz="inverse_q") * q
    assert np.allclose(ratio, 1, rtol=1e-6)
    sine = np.sin(4 * np.arcsin(0.5 * q * 0.97) / 2)
    assert np.allclose(acceptance(detector, source, lorentz="sin_two_theta") * sine, 1, rtol=1e-6)


def test_geometry_holds_the_product_of_all_factors(pixels):
    detector, source = tilted(flat_detector()), beam()
    detector[0].set_mu(3.8)
    detector[0].set_thickness(0.45)
    every = compute_panel(detector[0], source, default_settings(GeometrySettings)).acceptance
    product = np.ones(every.shape)
    for name in ONLY:
        product *= acceptance(detector, source, **{name: True})
    assert np.allclose(every, product, rtol=1e-6)


def test_a_tilted_normal_is_that_across_the_beam():
    detector = flat_detector()
    straight = acceptance(detector, beam(), polarization=True)
    angle = math.radians(11)
    tilted_normal = beam(normal=(0.0, math.cos(angle), math.sin(angle)))
    np.testing.assert_array_equal(acceptance(detector, tilted_normal, polarization=True), straight)


@pytest.mark.parametrize("normal", [(0, 0, 1), (0, 0, 0)])
def test_a_normal_without_direction_is_refused(normal):
    with pytest.raises(ValueError, match="polarization normal"):
        acceptance(flat_detector(), beam(normal=normal), polarization=True)
    assert (acceptance(flat_detector(), beam(normal=normal)) == 1).all()
