from __future__ import annotations

import numpy as np
import pytest
from plain_images import flat_detector

from dxtbx.model import BeamFactory, DetectorFactory

from dials_diffuse.masking.pixels.shadow import beam_stop_edge, find_shadows, pixel_radius
from dials_diffuse.masking.pixels.sums import PixelSums

RADIUS = np.arange(200)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_scattering_that_rises_from_the_beam_is_no_beam_stop(power):
    level = 5.0 * (RADIUS / 60) ** power / (1 + (RADIUS / 60) ** (power + 2))
    assert beam_stop_edge(level, 10000) is None


def test_a_beam_stop_in_front_of_it_is_found():
    level = 5.0 * np.exp(-RADIUS / 40)
    level[:20] *= 0.01
    assert beam_stop_edge(level, 300) == pytest.approx(20, abs=3)


def test_empty_rings_at_a_few_photons_are_no_beam_stop():
    rng = np.random.default_rng(5)
    level = rng.poisson(0.01 * 72 * (RADIUS / 15) ** 2) / 72
    assert beam_stop_edge(level, 72) is None


@pytest.fixture
def models():
    detector = DetectorFactory.simple(
        "PAD", 200, (20, 16), "+x", "-y", (0.2, 0.2), (200, 160), trusted_range=(0, 1e6)
    )
    return detector, BeamFactory.simple(1.0)


def test_radius_is_the_angle_in_pixels_of_the_middle(models):
    (radius,) = pixel_radius(*models)
    y, x = np.mgrid[:160, :200] + 0.5
    expected = np.arctan(np.hypot(x - 100, y - 80) * 0.2 / 200) * 200 / 0.2
    assert np.abs(radius - expected).max() < 0.1


@pytest.mark.parametrize("two_theta", [60, 90, 100, -150, 175])
def test_radius_of_detectors_far_from_the_beam(two_theta):
    """Angle of the ray times the distance of the panel, by plain numpy"""
    turned = flat_detector((80, 120), distance=100.0, pixel=0.5, two_theta=two_theta)
    (radius,) = pixel_radius(turned, BeamFactory.simple(1.0))
    panel = turned[0]
    lab = np.array(
        [[panel.get_pixel_lab_coord((x + 0.5, y + 0.5)) for x in (0, 119)] for y in (0, 79)]
    )
    cosine = lab @ (0, 0, -1) / np.linalg.norm(lab, axis=-1)
    expected = np.arccos(cosine) * 100.0 / 0.5
    assert np.abs(radius[::79, ::119] - expected).max() < 0.01 * expected.max()
    sums = PixelSums.empty([radius.shape])
    sums.images = 40
    sums.valid[0][:] = 40
    sums.total[0][:] = np.random.default_rng(2).poisson(400.0, radius.shape)
    sums.variance[0][:] = 400.0
    good = np.ones(radius.shape, bool)
    assert not find_shadows(sums, [good], turned, BeamFactory.simple(1.0))[0].any()


def test_beam_stop_and_its_arm_are_in_shadow_and_the_rest_is_not(models):
    y, x = np.mgrid[:160, :200] + 0.5
    radius = np.hypot(x - 100, y - 80)
    mean = 20 * np.exp(-radius / 60)
    shadow = (radius < 12) | ((abs(x - 100) < 5) & (y > 80))
    mean[shadow] *= 0.02
    sums = PixelSums.empty([mean.shape])
    sums.images = 40
    sums.valid[0][:] = 40
    sums.total[0][:] = np.random.default_rng(2).poisson(40 * mean)
    sums.variance[0][:] = 40 * mean
    good = np.ones(mean.shape, bool)
    good[:, 150] = False
    (found,) = find_shadows(sums, [good], *models)
    assert found[shadow & good].mean() > 0.99
    # besides a rim of a few pixels
    rim = (radius < 17) | ((abs(x - 100) < 10) & (y > 80))
    assert not found[~rim].any() and not found[:, 150].any()
