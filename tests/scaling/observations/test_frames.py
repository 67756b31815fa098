"""|q|, directions and bins of positions on a detector, against dxtbx and numpy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scaling_rows import experiments_of, tilted_detector

from dials.array_family import flex

from dials_diffuse.model.components import N_AZIMUTHAL, N_RADIAL, RadialOffset, Sensitivity
from dials_diffuse.scaling.expectation.patches import N_PATCHES, N_RINGS, N_SECTORS
from dials_diffuse.scaling.observations.frames import (
    Bins,
    across_beam,
    bins_at,
    bins_of,
    directions_of_bins,
    frames_of,
    patches_of,
    positions_of,
)

BEAMS = [(0.0, 0.0, -1.0), (0.1, -0.2, -0.9)]


def all_pixels(panel, step=1):
    """Corners and centres of pixels (n, 2)"""
    n_fast, n_slow = panel.get_image_size()
    fast, slow = np.meshgrid(np.arange(0, n_fast + 0.1, step), np.arange(0, n_slow + 0.1, step))
    return np.stack((fast.ravel(), slow.ravel()), axis=1)


def by_dxtbx(experiment, panel, px):
    """q vectors (n, 3), and directions of s1 (n, 3)"""
    lab = np.array([experiment.detector[panel].get_pixel_lab_coord(tuple(xy)) for xy in px])
    s1 = lab / np.linalg.norm(lab, axis=1)[:, None]
    s0 = np.array(experiment.beam.get_s0())
    return s1 * np.linalg.norm(s0) - s0, s1


@pytest.mark.parametrize("s0", BEAMS)
@pytest.mark.parametrize("panel", [0, 1, 2])
def test_positions_are_those_of_dxtbx(s0, panel):
    experiments = experiments_of([tilted_detector(3)], [s0])
    px = np.random.default_rng(1).uniform(0, 30, (60, 2))
    number, panels = np.zeros(60, dtype=int), np.full(60, panel)
    q, x, y = positions_of(experiments, number, panels, px)
    vector, s1 = by_dxtbx(experiments[0], panel, px)
    np.testing.assert_allclose(q, np.linalg.norm(vector, axis=1))
    # |(x, y)| is 2 sin(theta)
    np.testing.assert_allclose(np.hypot(x, y), q / np.linalg.norm(s0))
    # (x, y) points where s1 does, seen along the beam
    first = np.array([1.0, 0, 0]) - s0[0] * np.array(s0) / np.dot(s0, s0)
    first /= np.linalg.norm(first)
    second = np.cross(np.array(s0) / np.linalg.norm(s0), first)
    np.testing.assert_allclose(np.arctan2(y, x), np.arctan2(s1 @ second, s1 @ first))


def test_each_row_has_its_own_experiment_and_panel():
    experiments = experiments_of([tilted_detector(2, seed) for seed in (1, 2)], BEAMS)
    rng = np.random.default_rng(1)
    number, panel = rng.integers(0, 2, (2, 40))
    px = rng.uniform(0, 30, (40, 2))
    q, _, _ = positions_of(experiments, number, panel, px)
    for k in range(40):
        vector, _ = by_dxtbx(experiments[int(number[k])], int(panel[k]), px[k : k + 1])
        assert q[k] == pytest.approx(np.linalg.norm(vector))


@pytest.mark.parametrize("direction", [(0, 0, -1), (1, 0, 0), (0, 1, 0), (0.6, 0, 0.8)])
def test_vectors_across_the_beam(direction):
    axes = np.array([*across_beam(np.array(direction, dtype=float)), direction])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.dot(np.cross(axes[2], axes[0]), axes[1]) == pytest.approx(1)


def test_equal_beams_and_detectors_are_kept_once():
    one, other = tilted_detector(2, 1), tilted_detector(1, 2)
    detectors = [one, other, one, one, copy.deepcopy(other), copy.deepcopy(one)]
    frames = frames_of(experiments_of(detectors, [BEAMS[k] for k in (0, 0, 0, 1, 0, 0)]))
    assert frames.number.tolist() == [0, 1, 0, 2, 1, 0]
    assert frames.beams.shape == (3, 10) and frames.panels.shape == (3, 2, 9)
    np.testing.assert_array_equal(frames.panels[0], frames.panels[2])
    # the detector that has one panel only
    assert np.isnan(frames.panels[1, 1]).all() and np.isfinite(frames.panels[1, 0]).all()
    np.testing.assert_allclose(frames.beams[:, 9], np.linalg.norm(BEAMS, axis=1)[[0, 0, 1]])


@pytest.mark.parametrize("d_min", [None, 2.0])
def test_bins_hold_all_pixels(d_min):
    detectors = [tilted_detector(3, 1), tilted_detector(2, 2)]
    experiments = experiments_of(detectors, BEAMS)
    bins = bins_of(experiments, d_min)
    found = []
    for number, experiment in enumerate(experiments):
        for panel in range(len(experiment.detector)):
            px = all_pixels(experiment.detector[panel], step=0.5)
            same = np.full(len(px), number), np.full(len(px), panel)
            found.append(positions_of(experiments, *same, px))
    q, x, y = np.concatenate(found, axis=1)
    # a side's farthest point may lie between two that are looked at
    slack = 0.02 / N_AZIMUTHAL * (bins.x1 - bins.x0)
    if d_min is None:
        assert q.max() <= bins.q_max < q.max() * (1 + 1e-5)
    else:
        assert bins.q_max == pytest.approx(1 / d_min, rel=1e-5)
        x, y = x[q < bins.q_max], y[q < bins.q_max]
        # |(x, y)| at this |q|, with the longest of the wavelengths
        most = 1 / d_min / min(np.linalg.norm(BEAMS, axis=1)) + 1e-5
        assert max(-bins.x0, bins.x1, -bins.y0, bins.y1) <= most
    assert bins.x0 < x.min() + slack and x.max() < bins.x1 + slack
    assert bins.y0 < y.min() + slack and y.max() < bins.y1 + slack
    if d_min is None:
        assert abs(bins.x0 - x.min()) < slack and abs(bins.x1 - x.max()) < slack


def test_bins_of_positions_are_those_of_the_components():
    bins = Bins(0.9, -0.7, 0.5, -0.4, 0.8)
    # also outside of the range
    x, y = np.random.default_rng(1).uniform(-0.9, 0.9, (2, 2000))
    wave_number = 1.1
    found = np.array([bins_at(bins, wave_number, *at) for at in zip(x, y)])
    q = np.hypot(x, y) * wave_number
    np.testing.assert_allclose(found[:, 0], q)
    offset = RadialOffset(flex.double(6, 0), bins.q_max)
    sensitivity = Sensitivity(flex.double(25, 1), bins.extent, (5, 5))
    np.testing.assert_array_equal(found[:, 1], offset.bin_of(q))
    np.testing.assert_array_equal(found[:, 2], sensitivity.bin_of(x, y))
    np.testing.assert_array_equal(directions_of_bins(bins, x, y), sensitivity.bin_of(x, y))
    np.testing.assert_allclose(bins.q_of(np.arange(N_RADIAL)), offset.bin_centres())


def test_bins_of_nowhere_are_the_first():
    q, radial, direction = bins_at(Bins(0.9, -0.7, 0.5, -0.4, 0.8), 1.0, np.nan, 0.1)
    assert np.isnan(q) and (radial, direction % N_AZIMUTHAL) == (0, 0)


@pytest.mark.parametrize("extent", [(-0.5, 0.5, -0.5, 0.5), (-0.7, 0.5, -0.4, 0.8)])
def test_patches_are_sectors_of_rings(extent):
    bins = Bins(1.0, *extent)
    patch = patches_of(bins).astype(int)
    assert patch.shape == (N_AZIMUTHAL**2,) and patch.max() < N_PATCHES
    # of the outermost rings there are corners only, and the innermost one is small
    assert len(np.unique(patch)) > 0.6 * N_PATCHES
    ring, sector = np.divmod(patch, N_SECTORS)
    x, y = Sensitivity(flex.double(25, 1), bins.extent, (5, 5)).bin_centres()
    farthest = np.hypot(max(-extent[0], extent[1]), max(-extent[2], extent[3]))
    edges = farthest / N_RINGS * np.arange(N_RINGS + 1)
    np.testing.assert_array_equal(ring, np.searchsorted(edges, np.hypot(x, y), "right") - 1)
    angle = np.degrees(np.arctan2(y, x))
    assert all(np.ptp(angle[sector == number]) < 360 / N_SECTORS for number in range(N_SECTORS))
