"""The survey of images, against plain numpy."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from dials_diffuse.adapters.stills import Still, group_by_image, stills_of
from dials_diffuse.masking import survey
from dials_diffuse.masking.bright.rings import N_RINGS
from dials_diffuse.masking.pixels.sums import PixelSums
from dials_diffuse.masking.spots.rows import SpotRows
from dials_diffuse.masking.spots.sums import EXCITATION_BINS, PLANE_BINS, Q_BINS, SpotSums
from dials_diffuse.masking.survey import (
    HIGH_SIGMA,
    PanelImage,
    PanelSums,
    add_nodes,
    count_orientations,
    run_survey,
    spread_subset,
)

GOOD = [np.ones((150, 150), dtype=bool)]


@pytest.fixture
def panel():
    """A panel of 40 x 50 pixels, two rings, a fifth of the pixels bad; 0 to 30 ADU are trusted."""
    rng = np.random.default_rng(4)
    values = rng.poisson(5, (40, 50)).astype(np.int32)
    values[rng.random(values.shape) < 0.1] = -1
    values[rng.random(values.shape) < 0.1] = 28
    values[rng.random(values.shape) < 0.1] = 99
    ring = np.where(np.arange(50) < 20, 3, 7)[None, :].repeat(40, axis=0).astype(np.int16)
    # Without statistics
    ring[38:] = 9
    mean, sigma = np.zeros(N_RINGS), np.full(N_RINGS, np.inf)
    mean[[3, 7]], sigma[[3, 7]] = (4.5, 5.25), (1.0, 4.0)
    return PanelImage(values, rng.random(values.shape) < 0.2, 0.0, 30.0, ring, mean, sigma)


def test_sums_of_pixels(panel):
    rng = np.random.default_rng(5)
    bragg, near = rng.random((2, 40, 50)) < 0.2
    sums = PixelSums.empty([(40, 50)])
    arrays = PanelSums(*(getattr(sums, name)[0] for name in PanelSums._fields))
    for _ in range(2):
        survey._add_pixels(panel, bragg, near, arrays)
    trusted = ~panel.bad & (panel.values >= 0) & (panel.values <= 30)
    use = trusted & ~bragg & (panel.ring != 9)
    mean, sigma = panel.mean[panel.ring], panel.sigma[panel.ring]
    for name, expected in (
        ("near", near),
        ("negative", ~panel.bad & (panel.values < 0)),
        ("overloaded", ~panel.bad & (panel.values > 30)),
        ("valid", use),
        ("high", use & (panel.values > mean + HIGH_SIGMA * sigma)),
        ("total", np.where(use, panel.values, 0)),
        ("expected", np.where(use, mean, 0)),
        ("variance", np.square(sigma, where=use, out=np.zeros(use.shape))),
    ):
        assert expected.any()
        assert np.array_equal(getattr(sums, name)[0], 2 * expected), name
    assert np.array_equal(sums.least[0], np.where(use, panel.values, np.inf))
    assert np.array_equal(sums.most[0], np.where(use, panel.values, -np.inf))


def test_sums_around_nodes(panel):
    """Pixels are binned by their displacement from the node, radial and tangential."""
    rows = SpotRows.none()
    rows.panel = np.array([0, 0, 1])
    rows.centre = np.array([[20.3, 11.8], [48.9, 2.2], [20.0, 20.0]])
    rows.q = np.array([0.21, 0.44, 0.21])
    rows.excitation = np.array([-1e-4, 3e-3, 0.0])
    rows.to_pixels = np.array([[[900.0, 300.0], [-200.0, 1100.0]]] * 3)
    window = 0.005
    sums = SpotSums(0.5, window)
    add_nodes(rows, [panel], sums)

    expected = SpotSums(0.5, window)
    largest = 3 * np.hypot(1e-3, 8e-3 * (np.arange(Q_BINS) + 0.5) * 0.5 / Q_BINS)
    y, x = np.mgrid[:40, :50] + 0.5
    trusted = ~panel.bad & (panel.values >= 0) & (panel.values <= 30)
    level = panel.mean[panel.ring]
    for i in range(3):
        q_bin = int(rows.q[i] / 0.5 * Q_BINS)
        inverse = np.linalg.inv(rows.to_pixels[i])
        expected.nodes[q_bin] += 1
        expected.pixel_variance[q_bin] += (inverse**2).sum(axis=1) / 12
        if rows.panel[i] != 0:
            continue
        depth = int(abs(rows.excitation[i]) / largest[q_bin] * EXCITATION_BINS)
        moved = np.stack([x - rows.centre[i, 0], y - rows.centre[i, 1]], axis=-1) @ inverse.T
        use = trusted & (np.abs(moved) < window).all(axis=-1)
        # No pixels outside of the box around the circle of radius window
        reach = window * np.linalg.norm(rows.to_pixels[i], axis=1)
        for pixel, centre, size in zip((x - 0.5, y - 0.5), rows.centre[i], reach):
            use &= (np.floor(centre - size) <= pixel) & (pixel < np.ceil(centre + size))
        u, v = ((moved[use] / window + 1) / 2 * PLANE_BINS).astype(int).T
        excess = panel.values - level
        np.add.at(expected.plane_excess[q_bin], (u, v), excess[use])
        np.add.at(expected.plane_pixels[q_bin], (u, v), 1)
        close = use & (np.linalg.norm(moved, axis=-1) < window / 2)
        expected.excess[q_bin, depth] += excess[close].sum()
        expected.level[q_bin, depth] += level[close].sum()
        expected.pixels[q_bin, depth] += close.sum()
        expected.strength[q_bin] += excess[close].sum(), excess[close].sum() ** 2
    assert expected.pixels.sum() > 20 and (expected.nodes > 0).sum() == 2
    for name in ("nodes", "pixel_variance", "plane_excess", "plane_pixels", "excess", "level"):
        assert np.allclose(getattr(sums, name), getattr(expected, name)), name
    assert np.array_equal(sums.pixels, expected.pixels)
    assert np.allclose(sums.strength, expected.strength)
    assert sums.stills == 1


def test_a_survey_reads_some_of_the_images(pair, caplog):
    groups = group_by_image(stills_of(pair[0]))
    some = run_survey(groups, 3, GOOD, False, 1)
    assert some.pixels.images == 3 and not some.failures
    assert some.spots.nodes.sum() == 0
    every = run_survey(groups, 30, GOOD, True, 1)
    assert every.pixels.images == every.spots.stills == every.spots.orientations == 4
    raw = [still.imageset.get_raw_data(0)[0].as_numpy_array() for (still,) in groups]
    outside = every.pixels.valid[0] == 4
    assert 0.5 < outside.mean() < 1
    assert np.array_equal(every.pixels.total[0][outside], np.sum(raw, axis=0)[outside])
    assert np.array_equal(every.pixels.least[0][outside], np.min(raw, axis=0)[outside])
    # The scattering at nodes on the sphere is above that around them
    signal = every.spots.excess.sum(axis=0) / np.maximum(every.spots.pixels.sum(axis=0), 1)
    assert signal[0] > 10 * abs(signal[EXCITATION_BINS // 2 :].mean())


def test_shares_of_processes_add_up(pair, monkeypatch):
    groups = group_by_image(stills_of(pair[0]))
    one = run_survey(groups, 4, GOOD, True, 1)
    monkeypatch.setattr(survey, "LEAST_SHARE", 2)
    monkeypatch.setattr(
        survey, "map_in_processes", lambda function, tasks, nproc: map(function, tasks)
    )
    two = run_survey(groups, 4, GOOD, True, 2)
    for name in PanelSums._fields:
        assert np.array_equal(getattr(one.pixels, name), getattr(two.pixels, name)), name
    assert np.array_equal(one.spots.plane_excess, two.spots.plane_excess)
    assert two.pixels.images == two.spots.stills == 4


def test_images_that_can_not_be_read(pair, monkeypatch, caplog):
    groups = group_by_image(stills_of(pair[0]))
    read = survey.read_raw
    broken = {groups[1][0].path}

    def read_some(imageset, index):
        if imageset.get_path(index) in broken:
            raise ValueError("truncated")
        return read(imageset, index)

    monkeypatch.setattr(survey, "read_raw", read_some)
    result = run_survey(groups, 4, GOOD, True, 1)
    assert result.failures == dict.fromkeys(broken, "truncated")
    assert result.pixels.images == result.spots.stills == 3
    broken = {group[0].path for group in groups}
    with pytest.raises(ValueError, match="None of the images can be used. truncated"):
        run_survey(groups, 4, GOOD, True, 1)


def test_subsets_are_spread():
    assert spread_subset(range(10), None) == spread_subset(range(10), 10) == list(range(10))
    assert spread_subset(range(11), 3) == [0, 5, 10]
    assert spread_subset(range(5), 1) == [0]


def test_orientations_are_counted_once(pair):
    stills = stills_of(pair[0])
    assert count_orientations(stills) == 4
    assert count_orientations([stills[0], stills[0], stills[1]]) == 2
    # Turned by less and by more than 0.005 rad
    for angle, number in ((0.2, 1), (0.4, 2)):
        experiments = [copy.deepcopy(pair[0][0]) for _ in range(2)]
        experiments[1].crystal.rotate_around_origin((0, 0, 1), angle, deg=True)
        assert count_orientations([Still(0, experiment) for experiment in experiments]) == number
    assert count_orientations([]) == 1
