from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.masking.pixels.shadow import beam_stop_edge

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
