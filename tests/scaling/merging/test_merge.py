"""Merging with given scales."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of, true_intensities

from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.scaling.expectation.patches import N_PATCHES
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.merging.halves import deal
from dials_diffuse.scaling.merging.merge import Merger, Voxels
from dials_diffuse.scaling.observations import sorted_rows
from dials_diffuse.scaling.observations.overview import read_observations


def merger_of(source, b, excluded=(), bad=(), n_threads=1):
    """Merger with the scales b and nothing else

    Args:
        excluded: stills; bad: (still, patch)
    """
    overview = read_observations(source, 0.0, 10**8)
    n_stills = len(b)
    mask = np.isin(np.arange(n_stills), list(excluded))
    patches = np.zeros((n_stills, N_PATCHES + 1), dtype=bool)
    for still, patch in bad:
        patches[still, patch] = True
    tables = ScaleTables.without_model(n_stills, overview.n_panels)._replace(b=b)
    halves = deal(source.experiments, ~mask, 1)
    voxels = Voxels(overview.rows, source.grid)
    return Merger(overview, voxels, tables, mask, patches, halves, 2.0, n_threads)


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_low_counts_are_not_biased(make_truth, tmp_path, background):
    # 0.1 photons an observation; the true scales, so that nothing but merging is tested
    truth = make_truth(
        n_stills=300, n_obs=8000, n_voxels=20000, mean_counts=0.1, background=background, seed=3
    )
    merger = merger_of(source_of(truth, tmp_path), truth.b)
    merged = merger.merge(6.0)
    expected = true_intensities(truth, merged.voxels)
    # 240,000 photons: 0.2 % of counting error (0.3 % with the background's)
    # (weights that follow from the counts, such as 1 / variance, would make a bias themselves)
    for w in (merged.exposure, np.ones(len(expected))):
        assert np.sum(w * merged.intensity) / np.sum(w * expected) == pytest.approx(1, abs=0.005)
    assert merger.n_outliers() < 1e-5 * len(truth.table)


def test_sums_of_voxels_are_those_of_numpy(make_truth, tmp_path):
    truth = make_truth(n_stills=8, n_obs=300, n_voxels=60)
    source = source_of(truth, tmp_path)
    merger = merger_of(source, truth.b, excluded=[2])
    merged = merger.merge()
    column = truth.columns
    used = column["id"] != 2
    voxel = np.searchsorted(merged.voxels, pack_voxels(column["asu_voxel"]))
    n = len(merged.voxels)
    still, voxel = column["id"][used], voxel[used]
    eg = (column["exposure"] * truth.b[column["id"]])[used]
    np.testing.assert_array_equal(merged.n_obs, np.bincount(voxel, minlength=n))
    pairs = np.unique(np.stack((voxel, still)), axis=1)
    np.testing.assert_array_equal(merged.n_stills, np.bincount(pairs[0], minlength=n))
    np.testing.assert_allclose(merged.exposure, np.bincount(voxel, eg, n), rtol=1e-6)
    # a mean over both halves, each with its weights
    low, high = np.sort(merged.half, axis=0)
    between = (merged.intensity >= low * 0.999999) & (merged.intensity <= high * 1.000001)
    assert (between | np.isnan(low) | np.isnan(high)).all()
    assert np.isfinite(low).mean() > 0.9
    ratio = np.bincount(voxel, (column["counts"] - column["background"])[used], n) / merged.exposure
    assert abs(merged.intensity / ratio - 1).max() < 0.3


def test_ranges_of_voxels_make_no_difference(make_truth, tmp_path, monkeypatch):
    """Also after one range only: the compiled loops see other arrays then"""
    truth = make_truth(n_stills=8, n_obs=500, n_voxels=200, wild_fraction=0.01)
    source = source_of(truth, tmp_path)
    results = []
    for size in (1 << 18, 300, 50):
        monkeypatch.setattr(sorted_rows.SortedRows.chunks, "__defaults__", (size,))
        for n_threads in (1, 3):
            merger = merger_of(source, truth.b, n_threads=n_threads)
            for cutoff in (6.0, 0.0, 0.0):
                merged = merger.merge(cutoff)
            results.append((merged, merger.n_outliers(), merger.outliers((0, 8), 4000)))
    first = results[0]
    for merged, n_outliers, outliers in results[1:]:
        for name in ("intensity", "variance", "half", "variance_scatter", "variance_jackknife"):
            values, expected = getattr(merged, name), getattr(first[0], name)
            np.testing.assert_allclose(values, expected, rtol=1e-12, err_msg=name)
        for values, expected in zip(merged.sums, first[0].sums):
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-6)
        assert n_outliers == first[1] > 0
        np.testing.assert_array_equal(outliers, first[2])


def test_outliers_are_kept_until_they_are_looked_for_anew(make_truth, tmp_path):
    truth = make_truth(n_stills=8, n_obs=1000, n_voxels=100, mean_counts=40, wild_fraction=0.02)
    merger = merger_of(source_of(truth, tmp_path), truth.b)
    everything = merger.merge()
    assert merger.n_outliers() == 0 and not merger.outliers((0, 8), 8000).any()
    without = merger.merge(6.0)
    flagged = merger.outliers((0, 8), 8000)
    assert flagged.sum() == merger.n_outliers()
    assert flagged[truth.wild].mean() > 0.9 and not flagged[~truth.wild].any()
    assert everything.n_obs.sum() - without.n_obs.sum() == flagged.sum()
    again = merger.merge()
    np.testing.assert_array_equal(again.n_obs, without.n_obs)
    np.testing.assert_array_equal(merger.outliers((0, 8), 8000), flagged)
    # of one pair of files only
    ids = truth.columns["id"]
    first = merger.outliers((0, 4), 8000)
    np.testing.assert_array_equal(first, flagged & (ids < 4))


def test_bad_patches_are_outliers_and_excluded_stills_are_not(make_truth, tmp_path):
    truth = make_truth(n_stills=5, n_obs=400, n_voxels=60)
    bad = [(1, patch) for patch in range(N_PATCHES)]
    merger = merger_of(source_of(truth, tmp_path), truth.b, excluded=[3], bad=bad)
    merged = merger.merge(6.0)
    ids = truth.columns["id"]
    np.testing.assert_array_equal(merger.outliers((0, 5), 2000), ids == 1)
    assert merged.n_obs.sum() == 3 * 400
    assert merged.sums.stills[[1, 3]].sum() == 0


def test_errors_of_the_jackknife_are_those_of_counting(make_truth, tmp_path):
    truth = make_truth(n_stills=60, n_obs=1000, n_voxels=300, mean_counts=10)
    merged = merger_of(source_of(truth, tmp_path), truth.b).merge()
    ratio = np.mean(merged.variance_jackknife) / np.mean(merged.variance)
    assert ratio == pytest.approx(1, abs=0.15)


def test_an_error_in_proportion_to_the_intensity_adds_to_the_variance(make_truth, tmp_path):
    truth = make_truth(n_stills=20, n_obs=500, n_voxels=100, mean_counts=50)
    merger = merger_of(source_of(truth, tmp_path), truth.b)
    plain, more = merger.merge(), merger.merge(error_b=0.2)
    assert (more.variance > 1.5 * plain.variance).mean() > 0.9
    np.testing.assert_allclose(more.intensity, plain.intensity, rtol=0.1)
