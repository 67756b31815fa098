"""Corrected pixels against the formulas, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model import BeamFactory, DetectorFactory

from dials_diffuse.extraction.photons import PanelPixels
from dials_diffuse.extraction.pixels import corrected_pixels
from dials_diffuse.geometry.panel import compute_panel
from dials_diffuse.geometry.settings import GeometrySettings
from dials_diffuse.phil.defaults import default_settings

SHAPE = (8, 12)


@pytest.fixture(scope="module")
def geometry():
    detector = DetectorFactory.simple(
        "PAD", 100.0, (2.0, 1.0), "+x", "-y", (0.3, 0.3), SHAPE[::-1], (-1, 1000)
    )
    return compute_panel(detector[0], BeamFactory.simple(1.0), default_settings(GeometrySettings))


@pytest.fixture
def pixels():
    rng = np.random.default_rng(1)
    background = tuple(rng.random((3, *SHAPE)).astype(np.float32))
    raw = rng.poisson(20.0, SHAPE).astype(np.int32)
    return PanelPixels(
        raw, rng.random(SHAPE) > 0.2, rng.random(SHAPE) > 0.9, (0, 30), 2.0, 4.0, background
    )


def test_intensities_and_errors(geometry, pixels):
    found = corrected_pixels(7, pixels, geometry, 0.5, 3.0)
    wanted = pixels.use & ~pixels.bragg & (pixels.raw <= 30)
    assert set(zip(found.slow, found.fast)) == set(zip(*np.nonzero(wanted)))
    assert set(found.panel) == {7}
    for n, (i, j) in enumerate(zip(found.slow, found.fast)):
        photons = (pixels.raw[i, j] - 4.0) / 2.0
        mean, spread, shared = (float(plane[i, j]) for plane in pixels.background)
        exposure = 0.5 * float(geometry.acceptance[i, j])
        sigma = np.sqrt(max(photons, 0) + 9 * spread + 9 * shared**2) / exposure
        assert found.intensity[n] == pytest.approx((photons - 3 * mean) / exposure, rel=1e-6)
        assert found.sigma[n] == pytest.approx(sigma, rel=1e-6)
        assert np.array_equal(found.q[n], geometry.q[i, j])


def test_limits_of_intensity(geometry, pixels):
    everything = corrected_pixels(0, pixels, geometry, 0.5, 3.0)
    limit = (
        float(np.median(everything.intensity)) * 0.5
    )  # photons/sr, as the exposure time is 0.5 s
    few = corrected_pixels(0, pixels._replace(intensity=(limit, np.inf)), geometry, 0.5, 3.0)
    assert few.intensity.min() >= np.median(everything.intensity) * (1 - 1e-6)
    assert 0 < len(few) < len(everything)
