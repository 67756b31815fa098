"""Tables that dials.diffuse_scale writes."""

from __future__ import annotations

import numpy as np
from scaling_problems import source_of
from synthetic_scaling import ONLY_SCALES, scale_settings

from dials_diffuse.adapters.tables import as_numpy, bool_column, double_column
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.scaling.scale import scale
from dials_diffuse.scaling.workflow import merged_table, scale_columns


def test_merged_table_has_a_row_a_voxel(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, n_voxels=200)
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES))
    table = merged_table(scaled.merged, truth.grid)
    voxel = as_numpy(table["voxel"])
    assert len(np.unique(pack_voxels(voxel))) == len(voxel)
    np.testing.assert_allclose(as_numpy(table["hkl"]), voxel / 2)
    np.testing.assert_allclose(
        np.linalg.norm(as_numpy(table["q"]), axis=1), 1 / as_numpy(table["d"])
    )
    ids, asu = as_numpy(truth.table["id"]), pack_voxels(as_numpy(truth.table["asu_voxel"]))
    for row in range(0, len(voxel), 17):
        inside = asu == pack_voxels(voxel[row : row + 1])
        assert table["n_obs"][row] == inside.sum()
        assert table["n_stills"][row] == len(np.unique(ids[inside]))


def test_rows_that_are_not_finite_take_no_part(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, n_voxels=100)
    counts = as_numpy(truth.table["counts"]).copy()
    counts[::10] = np.nan
    truth.table["counts"] = double_column(counts)
    source = source_of(truth, tmp_path)
    scaled = scale(source, scale_settings(model=ONLY_SCALES))
    assert scaled.overview.n_not_finite == len(counts[::10])
    assert np.isfinite(scaled.merged.intensity).all()
    np.testing.assert_array_equal(scale_columns(scaled, 0, 1)["excluded"], np.isnan(counts))


def test_bragg_rows_that_are_not_finite_are_excluded(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, n_voxels=100)
    bragg = np.zeros(truth.table.size(), dtype=bool)
    bragg[::50] = True
    truth.table["bragg"] = bool_column(bragg)
    variance = np.zeros(len(bragg))
    variance[[50, 51]] = np.nan
    truth.table["background.variance"] = double_column(variance)
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES))
    assert np.flatnonzero(scale_columns(scaled, 0, 1)["excluded"]).tolist() == [50, 51]
