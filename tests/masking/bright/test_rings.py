from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model.beam import BeamFactory
from dxtbx.model.detector import DetectorFactory

from dials_diffuse.masking.bright.rings import (
    N_RINGS,
    RingCache,
    add_profile,
    clipped_statistics,
    panel_rings,
)


def detector(distance=150.0):
    return DetectorFactory.simple(
        "PAD", distance, (30.0, 25.0), "+x", "-y", (0.2, 0.2), (300, 250), (0, 1e6)
    )


def test_rings_are_equal_steps_of_q_to_the_corner():
    model, beam = detector(), BeamFactory.simple(1.1)
    (rings,) = panel_rings(model, beam)
    panel, s0 = model[0], np.array(beam.get_s0())
    y, x = np.mgrid[:250, :300] + 0.5
    lab = (
        np.stack([x * 0.2, y * 0.2, np.ones_like(x)], axis=-1)
        @ np.array(panel.get_d_matrix()).reshape(3, 3).T
    )
    s1 = lab / np.linalg.norm(lab, axis=-1, keepdims=True) * np.linalg.norm(s0)
    q = np.linalg.norm(s1 - s0, axis=-1)
    q_max = 1 / panel.get_max_resolution_at_corners(beam.get_s0())
    # float32 positions move a pixel in 10 000 over the rim of a ring
    assert (rings.number != (q / q_max * N_RINGS).astype(int)).mean() < 1e-4
    assert rings.samples.size == 0


def test_samples_are_spread_over_each_ring_and_not_too_many():
    (rings,) = panel_rings(detector(), BeamFactory.simple(1.1), most=50)
    size = np.bincount(rings.number.ravel(), minlength=N_RINGS)
    sampled = np.bincount(rings.number.ravel()[rings.samples], minlength=N_RINGS)
    assert (np.diff(rings.samples) > 0).all()
    assert (sampled <= 60).all() and (sampled[size > 300] >= 24).all()
    slow = rings.samples // 300
    for ring in np.flatnonzero(size > 600):
        inside = np.flatnonzero((rings.number == ring).any(axis=1))
        covered = np.ptp(slow[rings.number.ravel()[rings.samples] == ring])
        assert covered > 0.8 * np.ptp(inside)


def test_rings_are_kept_until_the_detector_moves():
    cache, beam = RingCache(), BeamFactory.simple(1.0)
    first = cache.get(detector(), beam)
    assert cache.get(detector(150.0 * (1 + 1e-5)), BeamFactory.simple(1.3)) is first
    assert cache.get(detector(151.0), beam) is not first


def test_statistics_leave_out_what_is_far_from_the_mean():
    rng = np.random.default_rng(5)
    ring = rng.integers(0, 3, 6000)
    value = rng.normal(10.0 * ring + 10, 2.0).astype(np.float32)
    spots = rng.choice(6000, 30, replace=False)
    kept = np.setdiff1d(np.arange(6000), spots)
    value[spots] += 500
    mean, sigma, number = clipped_statistics(value, ring)
    for r in range(3):
        inside = value[kept][ring[kept] == r].astype(float)
        assert mean[r] == pytest.approx(inside.mean())
        assert sigma[r] == pytest.approx(inside.std(), rel=1e-5)
        assert number[r] == len(inside)
    assert mean[3] == 0 and np.isinf(sigma[3]) and number[3] == 0


def test_profile_is_the_sum_of_used_pixels():
    pixels = np.array([[1, 2, 3], [4, 5, 6]])
    use = np.array([[True, True, False], [True, True, True]])
    ring = np.array([[0, 0, 0], [1, 1, 199]], np.uint8)
    total, number = np.ones(N_RINGS), np.zeros(N_RINGS)
    add_profile(pixels, use, ring, total, number)
    assert total[[0, 1, 199]].tolist() == [4, 10, 7] and total.sum() == 18 + N_RINGS
    assert number[[0, 1, 199]].tolist() == [2, 2, 1] and number.sum() == 5
