"""Expected variances and intensities, against brute force and with random photons."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import in_memory, random_rows

from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.scaling.expectation.variance import (
    CERTAIN,
    FEW,
    LEAST_SIGNAL,
    drawn_intensity,
    expected_intensities,
    expected_variance,
    neighbours,
)
from dials_diffuse.scaling.observations import sorted_rows

STEPS = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]


def drawn(num, den, floor, strength, towards):
    """The intensity that num/den is drawn to, in numpy"""
    found, expected = max(num, 0) + floor, den * towards + floor
    sigmas = 2 * abs(np.sqrt(found + 0.375) - np.sqrt(expected + 0.375))
    k = min(strength, FEW) if sigmas > CERTAIN else strength
    return (max(num, 0) + k) / (den + k / towards)


def test_variance_of_an_observation():
    assert expected_variance(10.0, 3.0, 2.0, 0.0) == 15
    assert expected_variance(10.0, 3.0, 2.0, 4.0) == 31
    # an offset below zero does not make it certain
    assert expected_variance(10.0, -10.0, 2.0, 0.0) == pytest.approx(2 + 10 * LEAST_SIGNAL)


def test_photons_draw_a_voxel_from_the_expected_to_its_own():
    # no observations: as expected; many photons: its own
    assert drawn_intensity(0.0, 0.0, 0.0, 40.0, 7.0) == pytest.approx(7)
    assert drawn_intensity(2e6, 1e5, 0.0, 40.0, 18.0) == pytest.approx(20, rel=1e-4)
    # half of the photons are those of the drawing
    assert drawn_intensity(44.0, 4.0, 0.0, 40.0, 10.0) == pytest.approx(84 / 8)
    # less than nothing is nothing
    assert drawn_intensity(-5.0, 1.0, 9.0, 40.0, 2.0) == pytest.approx(40 / 21)


def test_what_certainly_differs_keeps_its_own():
    bright = drawn_intensity(400.0, 10.0, 0.0, 40.0, 2.0)
    assert bright == pytest.approx(402 / 11)
    # the same with a background that makes it uncertain
    assert drawn_intensity(400.0, 10.0, 1e6, 40.0, 2.0) == pytest.approx(440 / 30)


def test_expected_intensities_against_brute_force():
    rng = np.random.default_rng(1)
    voxel = rng.integers(-4, 4, (900, 3))
    rows = in_memory(random_rows(900), pack_voxels(voxel))
    keys = pack_voxels(voxel)
    voxel = {key: tuple(v) for key, v in zip(keys.tolist(), voxel.tolist())}
    place = {voxel[key]: i for i, key in enumerate(rows.voxels.tolist())}
    n = len(place)
    assert 300 < n < 512
    # some photons below zero, some voxels that are far off
    sums = np.array([rng.normal(20, 20, n), rng.uniform(0.5, 2, n), rng.uniform(0, 9, n)])
    sums[0, ::20] *= 100
    prior = rng.uniform(5, 30, n)
    found = expected_intensities(neighbours(rows), sums, prior, 15.0)
    for v, i in place.items():
        around = [place.get(tuple(np.add(v, step))) for step in STEPS]
        of_others = sums[:, [j for j in around if j is not None]].sum(axis=1)
        towards = drawn(*of_others, 15.0, prior[i])
        assert found[i] == pytest.approx(drawn(*sums[:, i], 15.0, towards))


def test_neighbours_are_found_in_files_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sorted_rows, "CHUNK", 50)
    rng = np.random.default_rng(1)
    voxel = pack_voxels(rng.integers(-4, 4, (900, 3)))
    rows = in_memory(random_rows(900), voxel)
    collector = sorted_rows.RowCollector(900, 10, str(tmp_path))
    collector.add(random_rows(900), voxel)
    in_file = collector.finish()
    sums = rng.uniform(1, 50, (3, len(rows.voxels)))
    found = expected_intensities(neighbours(rows), sums, np.full(len(rows.voxels), 9.0), 15.0)
    order = rows.places(in_file.voxels)
    assert (np.diff(order) < 0).any()
    again = expected_intensities(
        neighbours(in_file), sums[:, order], np.full(len(order), 9.0), 15.0
    )
    np.testing.assert_allclose(again, found[order])


@pytest.mark.parametrize("strength, limit", [(40.0, 0.032), (200.0, 0.015)])
@pytest.mark.parametrize("contrast", [0.0, 0.4])
def test_weighted_means_of_photons_are_hardly_bent(strength, limit, contrast):
    """Voxels of a class of expected photons: their mean, weighted by 1/variance, is that of the truth

    A weight follows the photons of its own voxel to the fraction 1/(photons + strength), and the mean falls by as
    much; that some voxels keep their own intensity costs less than 1 % more.
    """
    rng = np.random.default_rng(5)
    side, each = 40, 4
    axes = np.arange(side) - side // 2
    voxel = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    n = len(voxel)
    prior = 50 * np.exp(-7 * np.linalg.norm(voxel, axis=1) / side)
    smooth = 1 + contrast * np.sin(voxel @ [0.5, 0.3, 0.2])
    intensity = prior * smooth * (rng.gamma(9, 1 / 9, n) if contrast else 1)
    eg, floor = rng.uniform(0.3, 3, (n, each)), rng.uniform(0.1, 0.3, (n, each))
    net = rng.poisson(eg * intensity[:, None] + floor) - floor

    rows = in_memory(random_rows(n), pack_voxels(voxel))
    # voxels are sorted already
    np.testing.assert_array_equal(rows.voxels, pack_voxels(voxel))
    sums = np.array([net.sum(axis=1), eg.sum(axis=1), floor.sum(axis=1)])
    expected = expected_intensities(neighbours(rows), sums, prior, strength)
    weight = 1 / (eg * expected[:, None] + floor)
    information = np.sum(weight * eg**2, axis=1)
    mean = np.sum(weight * eg * net, axis=1) / information
    photons = eg.sum(axis=1) * intensity
    for low, high in ((0.5, 3), (3, 10), (10, 30), (30, 100), (100, 400)):
        chosen = (photons > low) & (photons < high)
        w = information[chosen]
        total = np.sum(w * intensity[chosen])
        ratio, error = np.sum(w * mean[chosen]) / total, np.sqrt(np.sum(w)) / total
        assert error < 0.02
        assert abs(ratio - 1) < limit + 2 * error
