"""Overview of all observations, against counts by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of

from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.scaling.observations.overview import read_overview


def test_counts_of_voxels_and_stills(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=200, n_voxels=300, panels=(2, 1))
    columns = truth.columns
    overview = read_overview(source_of(truth, tmp_path, n_pairs=2), excluded=[4])
    keep = columns["id"] != 4
    still, voxel = columns["id"][keep], pack_voxels(columns["asu_voxel"])[keep]
    voxels, index, n_obs = np.unique(voxel, return_inverse=True, return_counts=True)
    seen = np.zeros((6, len(voxels)), dtype=bool)
    seen[still, index] = True
    np.testing.assert_array_equal(overview.voxels, voxels)
    np.testing.assert_array_equal(overview.n_obs, n_obs)
    np.testing.assert_array_equal(overview.n_stills, seen.sum(axis=0))
    np.testing.assert_array_equal(overview.still_shared, seen[:, seen.sum(axis=0) > 1].sum(axis=1))
    assert overview.still_obs.tolist() == [200, 200, 200, 200, 0, 200]
    assert overview.groups() == [[0, 1, 2, 3, 5]]
    net = columns["counts"] - columns["background"]
    np.testing.assert_allclose(overview.profile_counts.sum(), net[keep].sum())
    assert (overview.n_rows, overview.n_usable, overview.n_panels) == (1200, 1000, 2)


def test_scales_of_radial_profiles_come_near_the_truth(make_truth, tmp_path):
    truth = make_truth(n_stills=20, n_obs=2000, mean_counts=20)
    overview = read_overview(source_of(truth, tmp_path))
    scales = overview.still_scales()
    assert scales.mean() == pytest.approx(1)
    np.testing.assert_allclose(scales / truth.b, (scales / truth.b).mean(), rtol=0.1)
    q = np.linspace(0.2, 0.45, 20)
    np.testing.assert_allclose(overview.prior(scales)(q), 1000 * np.exp(-4 * q**2), rtol=0.3)


def test_one_still_is_refused(make_truth, tmp_path):
    with pytest.raises(ValueError, match="only one still"):
        read_overview(source_of(make_truth(n_stills=1, n_obs=50), tmp_path))
