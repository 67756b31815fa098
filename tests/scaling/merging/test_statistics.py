"""Statistics of merging, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of

from dials_diffuse.scaling.expectation.patches import N_PATCHES
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.merging.halves import deal
from dials_diffuse.scaling.merging.merge import Merger, Voxels
from dials_diffuse.scaling.merging.statistics import correlation, statistics
from dials_diffuse.scaling.observations.overview import read_observations


@pytest.fixture
def merger(make_truth, tmp_path):
    truth = make_truth(n_stills=8, n_obs=300, n_voxels=60, panels=(2, 1))
    source = source_of(truth, tmp_path)
    overview = read_observations(source, 0.0, 10**8)
    tables = ScaleTables.without_model(8, overview.n_panels)._replace(b=truth.b)
    none = np.zeros(8, dtype=bool)
    patches = np.zeros((8, N_PATCHES + 1), dtype=bool)
    halves, voxels = deal(source.experiments, ~none, 1), Voxels(overview.rows, source.grid)
    return Merger(overview, voxels, tables, none, patches, halves, 2.0)


def test_correlation_skips_what_is_not_finite():
    x = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    y = np.array([2.0, 4.5, 1.0, 8.0, np.inf])
    assert correlation(x, y) == pytest.approx(np.corrcoef(x[[0, 1, 3]], y[[0, 1, 3]])[0, 1])
    assert np.isnan(correlation(x[:3], y[:3]))
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)))


def test_sums_over_stills_and_panels_are_those_of_numpy(merger):
    merged = merger.merge()
    result = statistics(merger, merged)
    rows = merger.overview.rows.rows(slice(0, len(merged.voxels)))
    g, _ = merger.tables.factors(rows)
    eg, voxel = rows["exposure"] * g, rows["voxel"]
    expected, _ = merger._expected()
    variance = eg * expected[voxel] + rows["floor"]
    residual = rows["net"] - eg * merged.intensity[voxel]
    freedom = 1 - eg**2 / variance * merged.variance[voxel]
    assert (merged.n_obs > 1).all()
    for key, n, chi2 in (
        (rows["still"], result.still_n, result.still_chi2),
        (rows["panel"], result.panel_n, result.panel_chi2),
    ):
        np.testing.assert_array_equal(n, np.bincount(key))
        squares = np.bincount(key, residual**2 / variance)
        np.testing.assert_allclose(chi2, squares / np.bincount(key, freedom), rtol=1e-6)
    scatter = np.bincount(voxel, residual**2 / variance) / (merged.n_obs - 1) * merged.variance
    np.testing.assert_allclose(merged.variance_scatter, scatter, rtol=1e-5)
    assert result.overall.n_obs == len(rows) == result.histogram.sum()
    n = merged.n_obs[voxel]
    r_meas = np.sum(np.sqrt(n / (n - 1)) * abs(residual))
    r_meas /= np.sum(eg * merged.intensity[voxel])
    assert result.overall.r_meas == pytest.approx(r_meas, rel=1e-6)
    assert sum(shell.n_voxels for shell in result.shells) == result.overall.n_voxels
    # a still's slope over the others is 1 in the mean, and no still is misoriented
    assert np.mean(result.still_slope) == pytest.approx(1, abs=0.2)
    assert len(result.misoriented()) == 0


def test_half_sets_and_variances(merger):
    merged = merger.merge()
    result = statistics(merger, merged)
    inside = merged.shell >= 0
    expected = correlation(*merged.half[:, inside])
    assert result.overall.cc_half == pytest.approx(expected)
    for number in (0, 7):
        mine = merged.shell == number
        assert result.shells[number].cc_half == pytest.approx(correlation(*merged.half[:, mine]))
        mean = merged.intensity[mine].mean()
        assert result.shells[number].mean_intensity == pytest.approx(mean)
    ratio = np.mean(merged.variance_jackknife[inside]) / np.mean(merged.variance[inside])
    assert result.overall.jackknife == pytest.approx(np.sqrt(ratio))
    larger = statistics(merger, merged, variance_factor=4.0)
    assert larger.overall.chi2 == pytest.approx(result.overall.chi2 / 4)
    assert larger.overall.jackknife == pytest.approx(result.overall.jackknife / 2)
    assert larger.overall.mean_i_over_sigma == pytest.approx(result.overall.mean_i_over_sigma / 2)
    np.testing.assert_allclose(larger.still_chi2, result.still_chi2 / 4)
