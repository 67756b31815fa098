"""dials.diffuse_grid as a function: the files it writes against the files it reads."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.voxel_grid import grid_of
from dials_diffuse.gridding import workflow
from dials_diffuse.phil.grid import phil_scope


def grid(folder, names, **changes):
    """workflow.run on extracted files of a folder, which becomes that of the output."""
    params = phil_scope.extract()
    for name, value in changes.items():
        setattr(params, name, value)
    output = params.output
    output.experiments, output.reflections = f"{folder}/gridded.expt", f"{folder}/gridded.refl"
    output.html, output.json = f"{folder}/report.html", f"{folder}/numbers.json"
    pairs = [DataPair(folder / e, folder / r) for e, r in zip(names[::2], names[1::2])]
    return workflow.run(Inputs(pairs, []), params)


def load(folder, name):
    experiments = ExperimentList.from_file(folder / f"{name}.expt", check_format=False)
    table = flex.reflection_table.from_file(str(folder / f"{name}.refl"))
    return experiments, {column: as_numpy(table[column]) for column in table.keys()}


def reciprocal_points(experiments, columns):
    """(N, 3) A h n of each row: what the voxel is in the laboratory, whatever the setting."""
    setting = np.array([np.array(e.crystal.get_A()).reshape(3, 3) for e in experiments])
    return np.einsum("nij,nj->ni", setting[columns["id"]], columns["voxel"])


def test_gridded_files_hold_the_extracted_rows(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 6, n_files=2, space_group="P 41 21 2")
    result = grid(tmp_path, names)
    assert result.resolution is None
    photons, asu, n_rows = 0.0, [], 0
    for suffix in ("0001", "0002"):
        _, before = load(tmp_path, f"extracted_{suffix}")
        experiments, after = load(tmp_path, f"gridded_{suffix}")
        for column, values in before.items():
            np.testing.assert_array_equal(after[column], values)
        np.testing.assert_array_equal(after["asu_voxel"], result.grid.to_asu(after["voxel"]))
        assert grid_of(experiments).to_dict() == result.grid.to_dict()
        diffuse = ~after["bragg"]
        photons += (after["counts"] - after["background"])[diffuse].sum()
        asu.append(after["asu_voxel"][diffuse])
        n_rows += diffuse.sum()
    asu = np.concatenate(asu)
    assert result.sums.photons.sum() == pytest.approx(photons)
    assert result.coverage[-1].n_obs == n_rows
    np.testing.assert_array_equal(result.sums.voxel, np.unique(asu, axis=0))
    assert result.grid.index_range == tuple(zip(asu.min(axis=0), asu.max(axis=0)))
    assert set(result.models) == {f"still-{i}" for i in range(6)}
    assert set(json.loads((tmp_path / "numbers.json").read_text())) > {"coverage", "cells"}
    assert (tmp_path / "report.html").is_file()


def test_swapped_stills_are_written_in_one_setting(make_extracted, tmp_path):
    swapped = {1, 4, 5, 10}
    names, *_ = make_extracted(
        tmp_path, 16, 2, subdivide=(2, 2, 2), swapped=("k,h,-l", swapped), exposure=0.5
    )
    result = grid(tmp_path, names)
    assert set(np.flatnonzero(result.resolution.chosen)) == swapped
    for suffix in ("0001", "0002"):
        before, after = (load(tmp_path, f"{name}_{suffix}") for name in ("extracted", "gridded"))
        assert np.any(before[1]["voxel"] != after[1]["voxel"])
        # crystals and voxels changed together: each row is still at the same point
        assert reciprocal_points(*after) == pytest.approx(reciprocal_points(*before), abs=1e-9)
        np.testing.assert_array_equal(before[1]["counts"], after[1]["counts"])


def test_stills_stay_where_no_search_is_asked_for(make_extracted, tmp_path):
    names, *_ = make_extracted(
        tmp_path, 4, subdivide=(2, 2, 2), swapped=("k,h,-l", {1}), exposure=0.5
    )
    ambiguity = phil_scope.extract().ambiguity
    ambiguity.resolve = False
    assert grid(tmp_path, names, ambiguity=ambiguity).resolution is None
    before, after = load(tmp_path, "extracted")[1], load(tmp_path, "gridded")[1]
    np.testing.assert_array_equal(before["voxel"], after["voxel"])


def test_a_run_that_fails_leaves_the_files_of_the_last_one(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 4, 2, space_group="P 41 21 2")
    grid(tmp_path, names)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    table = flex.reflection_table.from_file(str(tmp_path / names[-1]))
    del table["counts"]
    table.as_file(str(tmp_path / names[-1]))
    before[names[-1]] = (tmp_path / names[-1]).read_bytes()
    with pytest.raises(ValueError, match="counts"):
        grid(tmp_path, names)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_limits_that_exclude_everything(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 2, space_group="P 41 21 2")
    with pytest.raises(ValueError, match="must be smaller than"):
        grid(tmp_path, names, d_min=20.0, d_max=10.0)
    with pytest.raises(ValueError, match="No observation outside the Bragg mask"):
        grid(tmp_path, names, d_min=1000.0)
    assert not list(tmp_path.glob("gridded*"))
