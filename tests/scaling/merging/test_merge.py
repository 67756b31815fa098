"""Merging with given scales."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of, true_intensities

from dials_diffuse.scaling.merging.merge import Merger, ScaleTables, split_halves
from dials_diffuse.scaling.observations.overview import read_overview


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_low_counts_are_not_biased(make_truth, tmp_path, background):
    # 0.1 photons an observation; the true scales, so that nothing but merging is tested
    truth = make_truth(
        n_stills=300, n_obs=8000, n_voxels=20000, mean_counts=0.1, background=background, seed=3
    )
    source = source_of(truth, tmp_path)
    overview = read_overview(source)
    tables = ScaleTables(truth.b, np.zeros(300, dtype=bool))
    half = split_halves(np.ones(300, dtype=bool), 1)
    merger = Merger(source, overview, tables, overview.prior(truth.b), half, 2.0, 0.0)
    merged = merger.reject_outliers(6.0)
    expected = true_intensities(truth, merged.voxels)
    # 240,000 photons: 0.2 % of counting error (0.3 % with the background's)
    # (weights that follow from the counts, such as 1 / variance, would make a bias themselves)
    for w in (merged.exposure, np.ones(len(expected))):
        assert np.sum(w * merged.intensity) / np.sum(w * expected) == pytest.approx(1, abs=0.005)
    assert merger.n_outliers() < 1e-5 * len(truth.table)


def test_halves_are_of_the_stills_that_are_used():
    used = np.array([False, True] * 8)
    for seed in range(5):
        assert np.bincount(split_halves(used, seed)[used]).tolist() == [4, 4]
