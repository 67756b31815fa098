"""Weights and sums of merging, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import in_memory, random_rows

from dials_diffuse.model.components import N_AZIMUTHAL, N_RADIAL
from dials_diffuse.scaling.expectation.patches import N_PATCHES
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.merging.merge_kernels import (
    StatisticSums,
    Still,
    VoxelSums,
    VoxelTables,
    add_ratios,
    merge_voxels,
)

N_STILLS, N_VOXELS, N_PANELS, N_SHELLS = 9, 10, 3, 4


@pytest.fixture
def problem():
    """(start, rows, tables, still, voxels) at random; offsets far below what would leave no photons, to far above"""
    rng = np.random.default_rng(1)
    rows = random_rows(300, N_STILLS)
    sorted_rows = in_memory(rows, rng.integers(0, N_VOXELS, 300))
    rows = sorted_rows.rows(slice(0, N_VOXELS))
    expected = rng.uniform(5, 9, N_VOXELS)
    tables = ScaleTables(
        rng.uniform(0.5, 2.0, N_STILLS),
        rng.uniform(-12, 12, (N_STILLS, N_RADIAL + 1)),
        rng.uniform(0.8, 1.2, N_PANELS),
        rng.uniform(0.8, 1.2, (2, N_AZIMUTHAL**2)),
        rng.integers(0, 2, N_STILLS),
    )
    excluded = np.arange(N_STILLS) == 4
    bad = np.zeros((N_STILLS, N_PATCHES + 1), dtype=bool)
    bad[2, :10] = True
    half, group = rng.integers(0, 2, N_STILLS), rng.integers(0, 3, N_STILLS)
    shell = rng.integers(-1, N_SHELLS, N_VOXELS).astype(float)
    voxels = VoxelTables(expected, expected + 0.5, expected - 1, shell)
    return sorted_rows.start, rows, tables, Still(excluded, bad, half, group), voxels


def empty_sums():
    shapes = ((N_SHELLS, 6), (N_PANELS, 5), (N_STILLS, 9), (4, 2), (80, 3), (1, 200))
    return StatisticSums(*(np.zeros(shape) for shape in shapes))


def merged(problem, cutoff=0.0, error_b=0.0, rejected=None):
    """(VoxelSums, StatisticSums, outliers)"""
    start, rows, tables, still, voxels = problem
    out = VoxelSums(*(np.zeros((N_VOXELS, 2)) for _ in range(2)), *np.zeros((5, N_VOXELS)))
    rejected = np.zeros(len(rows), dtype=bool) if rejected is None else rejected.copy()
    sums, direction = empty_sums(), np.arange(N_AZIMUTHAL**2) % 4
    options = cutoff, error_b
    merge_voxels(start, rows, tables, still, voxels, options, direction, out, sums, rejected)
    return out, sums, rejected


def by_hand(problem, error_b=0.0):
    """(rows that take part, E g, E h, weights)"""
    _, rows, tables, still, voxels = problem
    keep = ~still.excluded[rows["still"]] & ~still.bad_patches[rows["still"], rows["patch"]]
    g, h = tables.factors(rows)
    exposure = rows["exposure"].astype(float)
    eg, eh = exposure * g, exposure * h
    signal = eg * voxels.expected[rows["voxel"]]
    variance = np.maximum(signal + eh, 0.05 * signal) + rows["floor"] + (error_b * signal) ** 2
    return keep, eg, eh, 1 / variance


@pytest.mark.parametrize("error_b", [0.0, 0.3])
def test_voxels_are_weighted_sums(problem, error_b):
    out, _, rejected = merged(problem, error_b=error_b)
    rows, still = problem[1], problem[3]
    keep, eg, eh, w = by_hand(problem, error_b)
    # an offset below zero makes no observation certain
    assert (eg * 7 + eh < 0).sum() > 20
    assert not rejected.any()
    for half in (0, 1):
        mine = keep & (still.half[rows["still"]] == half)
        voxel = rows["voxel"][mine]
        den = np.bincount(voxel, (w * eg**2)[mine], N_VOXELS)
        num = np.bincount(voxel, (w * eg * (rows["net"] - eh))[mine], N_VOXELS)
        np.testing.assert_allclose(out.den[:, half], den, rtol=1e-6)
        np.testing.assert_allclose(out.num[:, half], num, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(out.exposure, np.bincount(rows["voxel"][keep], eg[keep]), rtol=1e-6)
    np.testing.assert_array_equal(out.n_obs, np.bincount(rows["voxel"][keep]))
    pairs = np.unique(np.stack((rows["voxel"][keep], rows["still"][keep])), axis=1)
    np.testing.assert_array_equal(out.n_stills, np.bincount(pairs[0]))


def test_the_jackknife_leaves_out_one_group_after_the_other(problem):
    out, _, _ = merged(problem)
    rows, still = problem[1], problem[3]
    keep, eg, eh, w = by_hand(problem)
    group = still.group[rows["still"]]
    for v in range(N_VOXELS):
        values = []
        for left_out in np.unique(group[keep & (rows["voxel"] == v)]):
            rest = keep & (rows["voxel"] == v) & (group != left_out)
            num = (w * eg * (rows["net"] - eh))[rest].sum()
            values.append(num / (w * eg**2)[rest].sum())
        n = len(values)
        expected = (n - 1) / n * np.sum((values - np.mean(values)) ** 2)
        assert out.jackknife[v] == pytest.approx(expected, rel=1e-5)


def test_given_outliers_take_no_part_and_others_are_found(problem):
    rows, (keep, *_) = problem[1], by_hand(problem)
    given = np.zeros(len(rows), dtype=bool)
    given[::7] = True
    out, sums, rejected = merged(problem, rejected=given)
    np.testing.assert_array_equal(out.n_obs, np.bincount(rows["voxel"][keep & ~given]))
    np.testing.assert_array_equal(rejected, given)
    assert sums.shells[:, 0].sum() <= (keep & ~given).sum()
    problem[2].c[:] = 0
    rows["net"][11] = 5000
    assert keep[11]
    _, _, found = merged(problem, cutoff=6.0)
    # patches that are left out are outliers, what excluded stills have is not
    bad = problem[3].bad_patches[rows["still"], rows["patch"]]
    excluded = problem[3].excluded[rows["still"]]
    assert found[11] and found[bad & ~excluded].all() and not found[excluded].any()


def test_statistics_are_sums_over_observations(problem):
    out, sums, _ = merged(problem)
    rows, voxels = problem[1], problem[4]
    keep, eg, eh, w = by_hand(problem)
    num, den = out.num.sum(axis=1), out.den.sum(axis=1)
    voxel, net = rows["voxel"], rows["net"] - eh
    intensity = (num / den)[voxel]
    residual, freedom = net - eg * intensity, 1 - w * eg**2 / den[voxel]
    columns = [np.ones(len(rows)), residual**2 * w, freedom, residual, eg * intensity]
    shell = voxels.shell[voxel].astype(int)
    inside = keep & (shell >= 0)
    for i, values in enumerate(columns):
        expected = np.bincount(shell[inside], values[inside], N_SHELLS)
        np.testing.assert_allclose(sums.shells[:, i], expected, rtol=1e-5, atol=1e-4)
        expected = np.bincount(rows["panel"][keep], values[keep], N_PANELS)
        np.testing.assert_allclose(sums.panels[:, i], expected, rtol=1e-5, atol=1e-4)
    information = w * eg**2
    rest = (num[voxel] - w * eg * net) / (den[voxel] - information) - voxels.isotropic[voxel]
    own = net / eg - voxels.isotropic[voxel]
    for i, values in enumerate((1, own, rest, own**2, rest**2, own * rest), start=3):
        total = np.bincount(rows["still"][keep], (information * values)[keep], N_STILLS)
        np.testing.assert_allclose(sums.stills[:, i], total, rtol=1e-4, atol=1e-4)
    assert sums.histogram.sum() == sums.panels[:, 0].sum() == keep.sum()
    np.testing.assert_allclose(sums.sizes[:, 1].sum(), freedom[keep].sum())
    np.testing.assert_allclose(sums.directions[:, 0].sum(), residual[keep].sum(), atol=1e-3)
    np.testing.assert_allclose(
        sums.directions[:, 1].sum(), (eg * intensity + eh)[keep].sum(), rtol=1e-5
    )


@pytest.mark.parametrize("some_rejected", [False, True])
def test_plain_ratios(problem, some_rejected):
    start, rows, tables, still, _ = problem
    keep, eg, eh, _ = by_hand(problem)
    rejected = np.zeros(0, dtype=bool)
    if some_rejected:
        rejected = np.arange(len(rows)) % 3 == 0
        keep = keep & ~rejected
    sums = np.zeros((3, N_VOXELS))
    add_ratios(start, rows, tables, still, rejected, sums)
    for found, values in zip(sums, (rows["net"] - eh, eg, rows["floor"] + np.maximum(eh, 0))):
        expected = np.bincount(rows["voxel"][keep], values[keep], N_VOXELS)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
