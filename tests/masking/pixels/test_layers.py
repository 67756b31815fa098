"""Darkness that follows h, on mean images made with plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from planted_stills import Layers, PlantedStills, random_orientations

from dxtbx.model import Experiment

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.pixels.layers import crystal_darkness, miller_indices, subdivisions


@pytest.fixture
def planted():
    return PlantedStills(Layers(), random_orientations(2), size=(300, 280))


def stills_of(planted):
    detector, beam = planted.models()
    return [
        Still(i, Experiment(beam=beam, detector=detector, crystal=planted.crystal(i)))
        for i in range(len(planted.orientations))
    ]


def test_indices_are_those_of_the_pixels(planted):
    still = stills_of(planted)[1]
    h = miller_indices(still, still.detector[0])
    assert np.abs(np.moveaxis(h, 0, -1) - planted.h(1)).max() < 1e-4
    # Nodes 1/20, 1/24 and 1/30 A apart, 4 pixels are 4 * 0.15 / 120 / A
    assert subdivisions(still).tolist() == [10, 8, 7]


def test_layers_are_as_dark_as_they_are(planted):
    ratio = planted.diffuse(0) / 8
    (darkness,) = crystal_darkness(stills_of(planted)[:1], [ratio])
    away = np.abs(planted.h(0)[..., 2] % 1 - 0.5)
    assert np.median(darkness[away < 0.1]) == pytest.approx(1 / 8, abs=0.02)
    assert np.median(darkness[away > 0.4]) == pytest.approx(1, abs=0.1)


def test_a_shadow_does_not_follow_h(planted):
    ratio = np.ones((280, 300))
    ratio[60:160, 60:160] = 0.01
    for stills in ([], stills_of(planted)):
        (darkness,) = crystal_darkness(stills, [ratio])
        assert darkness.min() > 0.9


def test_unknown_pixels_are_left_out(planted):
    ratio = planted.diffuse(0) / 8
    ratio[100:120] = np.nan
    (darkness,) = crystal_darkness(stills_of(planted)[:1], [ratio])
    assert np.isfinite(darkness).all() and darkness.min() < 0.2
    (darkness,) = crystal_darkness(stills_of(planted)[:1], [np.full(ratio.shape, np.nan)])
    assert (darkness == 1).all()
