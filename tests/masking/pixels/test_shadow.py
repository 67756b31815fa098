from __future__ import annotations

import numpy as np
import pytest
from plain_images import flat_detector
from planted_stills import Layers, PlantedStills, random_orientations

from dxtbx.model import BeamFactory, DetectorFactory, Experiment

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.pixels.shadow import find_shadows, pixel_radius
from dials_diffuse.masking.pixels.sums import PixelSums


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


def mean_sums(mean, images, seed=2):
    """Sums over images with these expected photons."""
    sums = PixelSums.empty([mean.shape])
    sums.images = images
    sums.valid[0][:] = images
    sums.total[0][:] = np.random.default_rng(seed).poisson(images * mean)
    sums.variance[0][:] = images * mean
    return sums


def test_a_pixel_without_variance_hides_no_shadow(models):
    """One ring without samples on one of the images; sums that run along lines would spread it."""
    y, x = np.mgrid[:160, :200] + 0.5
    radius = np.hypot(x - 100, y - 80)
    mean = np.where(radius < 12, 0.2, 20.0)
    sums = mean_sums(mean, 10)
    sums.variance[0][radius > 125] = np.inf
    (found,) = find_shadows(sums, [np.ones(mean.shape, bool)], *models)
    assert found[radius < 12].all() and not found[radius > 20].any()


def stop(x, y):
    return (np.hypot(x - 350, y - 350) < 20) | ((abs(x - 350) < 8) & (y > 350))


def corner(x, y):
    return x + y < 250


def disc(x, y):
    return np.hypot(x - 500, y - 200) < 60


@pytest.mark.parametrize("planted", [None, stop, corner, disc])
@pytest.mark.parametrize(
    "layers, cell, n_stills",
    [
        (Layers(), (20.0, 24.0, 30.0), 1),
        (Layers(ratio=20.0, width=0.2), (6.0, 7.0, 9.0), 1),
        (Layers(axis=0, width=0.15, beats=True), (20.0, 24.0, 30.0), 1),
        (Layers(), (20.0, 24.0, 30.0), 3),
    ],
)
def test_layers_of_the_crystal_are_no_shadow(layers, cell, n_stills, planted):
    stills = PlantedStills(layers, random_orientations(n_stills), cell=cell)
    detector, beam = stills.models()
    y, x = np.mgrid[:700, :700] + 0.5
    mean = np.mean([stills.diffuse(i) for i in range(n_stills)], axis=0)
    mean *= np.exp(-np.hypot(x - 350, y - 350) / 500)
    shadow = np.zeros(mean.shape, bool) if planted is None else planted(x, y)
    mean[shadow] *= 0.02
    seen = [
        Still(i, Experiment(beam=beam, detector=detector, crystal=stills.crystal(i)))
        for i in range(n_stills)
    ]
    good = [np.ones(mean.shape, bool)]
    (found,) = find_shadows(mean_sums(mean, 10), good, detector, beam, seen)
    if planted is None:
        assert not found.any()
    else:
        # In dark layers hardly a photon was expected
        assert found[shadow].mean() > 0.8
        # Besides a rim
        assert (found & ~shadow).mean() < 0.01


def test_a_transparent_stop_off_centre_and_its_arm_across_a_gap(models):
    """As on real images: a dark core, a disc that lets a third through, an arm that lets two thirds."""
    stills = PlantedStills(np.ones_like, np.zeros((1, 3)), size=(600, 500))
    detector, beam = stills.models()
    y, x = np.mgrid[:500, :600] + 0.5
    away = np.hypot(x - 306, y - 244)
    mean = 8 * np.exp(-np.hypot(x - 300, y - 250) / 400)
    outside = (away < 33) | ((x < 310) & (y > 185) & (y < 235))
    mean[outside] *= 0.6
    mean[away < 33] *= 0.6
    mean[away < 16] = 0.1
    good = np.ones(mean.shape, bool)
    good[205:222] = False
    mean[~good] = 0
    (found,) = find_shadows(mean_sums(mean, 15), [good], detector, beam)
    assert found[(away < 33) & good].all()
    assert found[outside & good].mean() > 0.9
    assert (found & ~outside).mean() < 0.01


def test_dark_sides_are_no_arm():
    """Half of the detector is dimmer, next to a stop."""
    stills = PlantedStills(np.ones_like, np.zeros((1, 3)), size=(400, 400))
    y, x = np.mgrid[:400, :400] + 0.5
    mean = np.where(x < 200, 4.0, 8.0)
    away = np.hypot(x - 200, y - 200)
    mean[away < 16] = 0.1
    (found,) = find_shadows(mean_sums(mean, 15), [np.ones(mean.shape, bool)], *stills.models())
    assert found[away < 16].all() and not found[away > 60].any()
