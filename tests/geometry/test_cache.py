"""The cache of geometries: what it forgets, and what processes share."""

from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model import BeamFactory, Detector, DetectorFactory

from dials_diffuse.geometry.cache import GeometryCache, geometry_key
from dials_diffuse.geometry.panel import detector_geometry
from dials_diffuse.geometry.settings import CorrectionSettings, GeometrySettings
from dials_diffuse.phil.defaults import default_settings


def settings(**corrections):
    return default_settings(
        GeometrySettings, corrections=default_settings(CorrectionSettings, **corrections)
    )


PLAIN = settings(air=False, efficiency=False)
beam = BeamFactory.simple


def one_panel(distance=180.0):
    return DetectorFactory.simple(
        "PAD", distance, (60.0, 55.0), "+x", "-y", (1.0, 1.0), (124, 112), (-1, 1e6)
    )


def two_panels():
    detector = Detector()
    for x, size in ((-30.0, (60, 70)), (31.0, (50, 80))):
        panel = detector.add_panel()
        panel.set_frame((1, 0, 0), (0, 1, 0), (x, -30.0, -150.0))
        panel.set_image_size(size)
        panel.set_pixel_size((0.5, 0.5))
    return detector


def test_a_geometry_per_wavelength():
    detector = one_panel()
    cache = GeometryCache(PLAIN)
    one, other = cache.get(detector, beam(0.98)), cache.get(detector, beam(0.97))
    assert cache.get(detector, beam(0.98)) is one
    ratio = other[0].q_length() / one[0].q_length()
    assert ratio[50:60] == pytest.approx(0.98 / 0.97, rel=1e-5)


def test_the_cache_forgets_what_was_used_longest_ago():
    detector = one_panel()
    one_size = detector_geometry(detector, beam(0.98), PLAIN)[0].nbytes
    cache = GeometryCache(PLAIN, max_bytes=int(2.5 * one_size))
    first, second = cache.get(detector, beam(1.0)), cache.get(detector, beam(1.1))
    assert cache.get(detector, beam(1.0)) is first
    cache.get(detector, beam(1.2))
    assert cache.get(detector, beam(1.0)) is first
    assert cache.get(detector, beam(1.1)) is not second


def test_a_stored_geometry_is_mapped_not_copied(tmp_path):
    detector, source = two_panels(), beam(0.98)
    GeometryCache(PLAIN, str(tmp_path)).store(detector, source)
    found = GeometryCache(PLAIN, str(tmp_path)).get(detector, source)
    assert len(found) == 2
    for ours, panel in zip(found, detector_geometry(detector, source, PLAIN)):
        assert np.array_equal(ours.planes, panel.planes)
        assert np.array_equal(ours.acceptance, panel.acceptance)
        base = ours.planes
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)


def test_keys_tell_models_and_settings_apart():
    detector, source = one_panel(), beam(0.98)
    key = geometry_key(detector, source, PLAIN)
    assert geometry_key(one_panel(), beam(0.98), PLAIN) == key
    assert geometry_key(one_panel(181.0), source, PLAIN) != key
    assert geometry_key(detector, beam(0.981), PLAIN) != key
    assert geometry_key(detector, source, settings(air=False)) != key
