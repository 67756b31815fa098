from __future__ import annotations

import numpy as np
import pytest

from dials.algorithms.integration import Corrections

from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.simulation.instrument.detectors import make_beam, make_detector
from dials_diffuse.simulation.instrument.pixels import (
    panel_pixels,
    pixel_positions,
    polarization,
    rays_to_pixels,
)
from dials_diffuse.simulation.settings import BeamSettings, DetectorSettings


def rectangle_solid_angle(x0, x1, y0, y1, distance):
    """Exact, as seen from the origin, of a rectangle in the plane z = distance."""

    def corner(x, y):
        return np.arctan2(x * y, distance * np.sqrt(x * x + y * y + distance * distance))

    return corner(x1, y1) - corner(x0, y1) - corner(x1, y0) + corner(x0, y0)


@pytest.mark.parametrize("distance", [30.0, 147.0])
def test_solid_angle_of_a_flat_panel_is_exact(distance):
    settings = default_settings(
        DetectorSettings, parallax=False, distance=distance, image_size=(120, 90)
    )
    detector = make_detector(settings, 1.0)
    pixels = panel_pixels(detector[0], make_beam(default_settings(BeamSettings), 1.0))
    exact = rectangle_solid_angle(-24.0, 24.0, -18.0, 18.0, distance)
    assert pixels.solid_angle.sum() == pytest.approx(exact, rel=1e-10)
    # and of single pixels: area * cos / r^2 is their limit
    origin = np.array(detector[0].get_origin())
    for fast, slow in ((0, 0), (59, 44), (119, 3)):
        x, y = origin[0] + 0.4 * fast, origin[1] - 0.4 * slow
        exact = rectangle_solid_angle(x, x + 0.4, y - 0.4, y, distance)
        assert pixels.solid_angle[slow, fast] == pytest.approx(exact, rel=1e-8)


def test_solid_angle_of_a_tilted_panel_is_what_points_on_it_say():
    detector = make_detector(default_settings(DetectorSettings, type="tilted", parallax=False), 1.0)
    panel = detector[1]
    pixels = panel_pixels(panel, make_beam(default_settings(BeamSettings), 1.0))
    # fraction of a dense grid's dOmega = dA cos / r^2, pixel by pixel
    sub = (np.arange(8) + 0.5) / 8
    for fast, slow in ((0, 0), (149, 149), (70, 20)):
        total = 0.0
        for a in sub:
            for b in sub:
                point = np.array(panel.get_pixel_lab_coord((fast + a, slow + b)))
                r = np.linalg.norm(point)
                cosine = abs(point @ np.array(panel.get_normal())) / r
                total += 0.4**2 / 64 * cosine / r**2
        assert pixels.solid_angle[slow, fast] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("kind", ["single", "tilted"])
def test_directions_and_parallax_are_those_of_dxtbx(kind):
    detector = make_detector(default_settings(DetectorSettings, type=kind, two_theta=12.0), 1.0)
    generator = np.random.default_rng(3)
    for panel in detector:
        pixels = panel_pixels(panel, make_beam(default_settings(BeamSettings), 1.0))
        size = panel.get_image_size()
        for _ in range(30):
            fast, slow = (int(generator.integers(n)) for n in size)
            point = np.array(panel.get_pixel_lab_coord((fast + 0.5, slow + 0.5)))
            found = pixels.directions[slow, fast] * pixels.distance[slow, fast]
            assert np.abs(found - point).max() < 1e-6
        without = make_detector(
            default_settings(DetectorSettings, type=kind, two_theta=12.0, parallax=False), 1.0
        )[0].pixel_to_millimeter((0.5, 0.5))
        with_parallax = pixel_positions(detector[0], np.array([0.5]), np.array([0.5]))[0, 0]
        assert np.abs(with_parallax - without).max() > 0.01


@pytest.mark.parametrize("fraction", [0.99, 0.5, 0.2])
@pytest.mark.parametrize("normal", [(0, 1, 0), (0.3, 1, 0)])
def test_polarization_and_efficiency_agree_with_dials(fraction, normal):
    beam = make_beam(
        default_settings(BeamSettings, polarization_fraction=fraction, polarization_normal=normal),
        1.0,
    )
    detector = make_detector(default_settings(DetectorSettings, type="tilted", distance=60.0), 1.0)
    corrections = Corrections(beam, detector)
    generator = np.random.default_rng(2)
    for number, panel in enumerate(detector):
        pixels = panel_pixels(panel, beam)
        for _ in range(40):
            slow, fast = (int(generator.integers(n)) for n in pixels.shape)
            s1 = tuple(pixels.directions[slow, fast] / beam.get_wavelength())
            assert pixels.polarization[slow, fast] == pytest.approx(
                1 / corrections.lp(s1), abs=1e-9
            )
            assert pixels.efficiency[slow, fast] == pytest.approx(
                corrections.qe(s1, number), abs=1e-9
            )
    assert pixels.polarization.min() < 0.95


def test_polarization_over_all_directions_is_two_thirds():
    # Thomson's total cross-section: 8 pi / 3 of 4 pi, whatever the polarization
    generator = np.random.default_rng(5)
    directions = generator.normal(size=(200000, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    for fraction in (1.0, 0.6):
        factor = polarization(directions, np.array([0, 0, -1.0]), np.array([0, 1.0, 0]), fraction)
        assert factor.mean() == pytest.approx(2 / 3, abs=3e-3)


def test_rays_come_back_to_the_pixels_they_were_made_of():
    detector = make_detector(default_settings(DetectorSettings, type="tilted"), 1.0)
    generator = np.random.default_rng(8)
    for number, panel in enumerate(detector):
        pixels = panel_pixels(panel, make_beam(default_settings(BeamSettings), 1.0))
        slow, fast = generator.integers(5, 145, (2, 50))
        panels, found, _ = rays_to_pixels(detector, pixels.directions[slow, fast])
        assert (panels == number).all()
        assert np.abs(found - np.stack([fast, slow], 1) - 0.5).max() < 1e-3
    panels, _, _ = rays_to_pixels(detector, np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.01]]))
    assert (panels == -1).all()
