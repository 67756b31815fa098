"""Edge, disc and arm of beam stops, on profiles and panels of plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.masking.pixels.beam_stop import Disc, arm_from, beam_stop_edge, disc_around

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


def panel(centre, disc, power=0.0):
    """A core of 12 pixels in a disc that lets a third through: (values, distance from the beam, level)."""
    y, x = np.mgrid[:200, :200] + 0.5
    radius = np.hypot(x - 100, y - 100)
    away = np.hypot(x - centre[0], y - centre[1])
    value = 10 * (radius / 100) ** power
    value[away < disc] *= 0.35
    value[away < 12] = 0.01
    whole = radius.astype(int)
    level = np.array([np.percentile(value[whole == r], 75) for r in range(100)])
    return value, whole, level


@pytest.mark.parametrize("centre", [(100, 100), (105, 94)])
@pytest.mark.parametrize("disc", [12, 30])
def test_the_disc_has_its_own_centre(centre, disc):
    value, radius, level = panel(centre, disc)
    found = disc_around(value, radius, 12, level)
    assert (found.x, found.y) == pytest.approx(centre, abs=1)
    assert found.radius == pytest.approx(disc, abs=3)


def test_scattering_that_rises_is_no_disc():
    value, radius, level = panel((100, 100), 12, power=2.0)
    assert disc_around(value, radius, 12, level).radius < 16


def test_panels_without_the_core_have_no_disc():
    value, radius, level = panel((100, 100), 12)
    assert disc_around(np.full_like(value, 10.0), radius, 12, level) is None


def test_an_arm_is_long_and_narrow():
    y, x = np.mgrid[:300, :300] + 0.5
    rng = np.random.default_rng(1)
    disc, good = Disc(150.0, 150.0, 20.0), np.ones((300, 300), bool)
    error = np.full(good.shape, 0.03)
    arm = (abs(x - 150) < 10) & (y < 150)
    for dark, expected in (
        (arm, True),
        (arm & (y > 120), False),
        (x < 150, False),
        ((abs(x - 150) < 10) & (y < 90), False),
    ):
        ratio = np.where(dark, 0.6, 1.0) + rng.normal(0, 0.03, good.shape)
        found = arm_from(ratio, error, good, disc)
        assert found.any() == expected
    ratio = np.where(arm, 0.6, 1.0) + rng.normal(0, 0.03, good.shape)
    ratio[:, ::9] = np.nan
    found = arm_from(ratio, error, good, disc)
    assert found[arm & (y < 120)].mean() > 0.95
    assert not found[(abs(x - 150) > 15) & (y < 125)].any()
