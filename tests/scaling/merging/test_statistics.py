"""Statistics of merging, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of

from dials_diffuse.scaling.merging.merge import Merger, ScaleTables, split_halves
from dials_diffuse.scaling.merging.statistics import correlation, statistics
from dials_diffuse.scaling.observations.overview import read_overview


def test_correlation_skips_what_is_not_finite():
    x = np.array([1.0, 2.0, np.nan, 4.0, 5.0])
    y = np.array([2.0, 4.5, 1.0, 8.0, np.inf])
    assert correlation(x, y) == pytest.approx(np.corrcoef(x[[0, 1, 3]], y[[0, 1, 3]])[0, 1])
    assert np.isnan(correlation(x[:3], y[:3]))
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)))


def test_sums_over_stills_and_panels_are_those_of_numpy(make_truth, tmp_path):
    truth = make_truth(n_stills=8, n_obs=300, n_voxels=60, panels=(2, 1))
    source = source_of(truth, tmp_path)
    overview = read_overview(source)
    tables = ScaleTables(truth.b, np.zeros(8, dtype=bool))
    half = split_halves(np.ones(8, dtype=bool), 1)
    merger = Merger(source, overview, tables, overview.prior(truth.b), half, 2.0, 0.0)
    merged = merger.merge()
    result = statistics(merger, merged, n_shells=4)

    (block,) = merger.blocks()
    rows = block.rows
    eg = rows.exposure * rows.g
    variance = eg * merged.expected[rows.index] + rows.floor
    residual = rows.net - eg * merged.intensity[rows.index]
    freedom = 1 - eg**2 / variance / merged.den[rows.index]
    assert (merged.n_obs > 1).all()
    for key, n, chi2 in (
        (rows.still, result.still_n, result.still_chi2),
        (rows.panel, result.panel_n, result.panel_chi2),
    ):
        np.testing.assert_array_equal(n, np.bincount(key))
        squares = np.bincount(key, residual**2 / variance)
        np.testing.assert_allclose(chi2, squares / np.bincount(key, freedom))
    scatter = np.bincount(rows.index, residual**2 / variance) / (merged.n_obs - 1) / merged.den
    np.testing.assert_allclose(merged.variance_scatter, scatter)
    assert result.overall.n_obs == len(rows.index) == result.histogram.sum()
    n = merged.n_obs[rows.index]
    r_meas = np.sum(np.sqrt(n / (n - 1)) * abs(residual))
    r_meas /= np.sum(eg * merged.intensity[rows.index])
    assert result.overall.r_meas == pytest.approx(r_meas)
    assert sum(shell.n_voxels for shell in result.shells) == result.overall.n_voxels
    # a still's slope over the others is 1 in the mean, and no still is misoriented
    assert np.mean(result.still_slope) == pytest.approx(1, abs=0.2)
    assert len(result.misoriented()) == 0
