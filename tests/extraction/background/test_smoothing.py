"""Smoothing of backgrounds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model import BeamFactory, DetectorFactory

from dials_diffuse.extraction.background.smoothing import adaptive, radial
from dials_diffuse.geometry.panel import compute_panel
from dials_diffuse.geometry.settings import GeometrySettings
from dials_diffuse.phil.defaults import default_settings


@pytest.fixture(scope="module")
def panel():
    detector = DetectorFactory.simple(
        "PAD", 100.0, (20.0, 18.0), "+x", "-y", (0.3, 0.3), (130, 120), (-1, 1000)
    )
    return compute_panel(detector[0], BeamFactory.simple(1.0), default_settings(GeometrySettings))


@pytest.fixture(scope="module")
def truth(panel):
    """Photons per dose: a smooth function of |q| times the acceptance"""
    return 4 * np.exp(-panel.q_length() / 0.3) * panel.acceptance / panel.acceptance.max()


@pytest.mark.parametrize("smooth", [radial, adaptive])
def test_a_function_of_q_comes_out(panel, truth, smooth):
    dose = np.full(truth.shape, 5.0)
    dose[:10] = 0
    photons = np.random.default_rng(1).poisson(dose * truth).astype(float)
    mean, error = smooth(photons, dose, panel)
    assert mean.sum() == pytest.approx(truth.sum(), rel=0.01)
    assert np.abs(mean / truth - 1).mean() < 0.05
    # the error is shared by the pixels of a ring
    pull = (mean - truth) / error
    assert 0.3 < np.sqrt((pull**2).mean()) < 2.5


def test_a_shadow_is_followed_by_blocks_only(panel, truth):
    lit = np.ones(truth.shape, dtype=bool)
    lit[40:70, 50:90] = False
    dose = np.full(truth.shape, 20.0)
    photons = np.random.default_rng(2).poisson(dose * truth * lit).astype(float)
    left = [smooth(photons, dose, panel)[0][~lit].sum() for smooth in (radial, adaptive)]
    assert left[1] < 0.02 * left[0]
    assert adaptive(photons, dose, panel)[0][lit].sum() == pytest.approx(truth[lit].sum(), rel=0.01)


@pytest.mark.parametrize("smooth", [radial, adaptive])
def test_a_panel_without_usable_pixels(panel, smooth):
    nothing = np.zeros(panel.shape)
    assert all(np.isnan(plane).all() for plane in smooth(nothing, nothing, panel))
