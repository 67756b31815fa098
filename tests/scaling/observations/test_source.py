"""Gridded observations in pairs of files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scaling_problems import source_of

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.voxel_grid import attach_grid
from dials_diffuse.scaling.observations.source import ObservationSource


def test_stills_of_all_pairs_are_counted_through(make_truth, tmp_path):
    truth = make_truth(n_stills=7, n_obs=30, panels=(2, 1))
    source = source_of(truth, tmp_path, n_pairs=3)
    assert source.first_stills == [0, 2, 4] and len(source.experiments) == 7
    models = [source.models_of(number, list(range(7))) for number in range(3)]
    assert models == [[0, 1], [2, 3], [4, 5, 6]]
    names = [e.identifier for number in range(3) for e in source.experiments_of(number)]
    assert names == [f"still-{i}" for i in range(7)]
    assert [source.table(number).n_rows for number in range(3)] == [60, 60, 90]
    parts = [part for number in range(3) for part in source.parts(number, 0.0)]
    rows = np.concatenate([part.rows for part in parts])
    columns = truth.columns
    np.testing.assert_array_equal(rows["still"], columns["id"])
    np.testing.assert_allclose(rows["exposure"], columns["exposure"], rtol=1e-6)
    # rows are counted in each table
    assert rows["row"].tolist() == [*range(60), *range(60), *range(90)]
    voxels = np.concatenate([part.voxels for part in parts])
    np.testing.assert_array_equal(voxels, pack_voxels(columns["asu_voxel"]))


def test_ids_in_another_order_than_the_experiments(make_truth, tmp_path):
    truth = make_truth(n_stills=4, n_obs=20)
    source = source_of(truth, tmp_path)
    reversed_ = truth.table
    reversed_["id"] = 3 - reversed_["id"]
    for i in range(4):
        reversed_.experiment_identifiers()[i] = f"still-{3 - i}"
    reversed_.as_file(str(source.pairs[0].reflections))
    (part,) = source.parts(0, 0.0)
    np.testing.assert_array_equal(part.rows["still"], 3 - as_numpy(reversed_["id"]))


def test_the_bins_end_where_the_grid_does(make_truth, tmp_path):
    source = source_of(make_truth(n_stills=2, n_obs=5), tmp_path)
    # d_min of the grid is 2 Angstrom, the detector sees more
    assert source.bins.q_max == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(source.bins.extent, (-0.5, 0.5, -0.5, 0.5), rtol=1e-4)


def test_files_that_do_not_fit_together(make_truth, tmp_path):
    source = source_of(make_truth(n_stills=4, n_obs=20), tmp_path, n_pairs=2)
    first, second = source.pairs
    with pytest.raises(ValueError, match="no .refl file"):
        ObservationSource([DataPair(first.experiments)])
    with pytest.raises(ValueError, match="twice"):
        ObservationSource([first, first])
    mixed = ObservationSource([DataPair(first.experiments, second.reflections)])
    with pytest.raises(ValueError, match="g1.refl"):
        mixed.table(0)
    others = source.experiments_of(1)
    attach_grid(others, dataclasses.replace(source.grid, d_min=1.5))
    others.as_file(str(second.experiments))
    with pytest.raises(ValueError, match="another grid"):
        ObservationSource(source.pairs)


def test_a_table_that_is_not_gridded(make_truth, tmp_path):
    truth = make_truth(n_stills=2, n_obs=20)
    source = source_of(truth, tmp_path)
    del truth.table["asu_voxel"]
    truth.table.as_file(str(source.pairs[0].reflections))
    with pytest.raises(ValueError, match="diffuse_grid first"):
        list(source.parts(0, 0.0))
