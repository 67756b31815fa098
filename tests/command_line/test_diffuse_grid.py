from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from commands import run_command

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.voxel_grid import grid_of
from dials_diffuse.io.model_copy import models_to_json


def run(folder, *arguments):
    return run_command(folder, "dials.diffuse_grid", *arguments)


def load(folder, name="diffuse_gridded"):
    experiments = ExperimentList.from_file(str(folder / f"{name}.expt"), check_format=False)
    return experiments, flex.reflection_table.from_file(str(folder / f"{name}.refl"))


def test_one_pair(make_extracted, tmp_path):
    names, voxel, values, grid = make_extracted(tmp_path, 5, space_group="P 41 21 2")
    result = subprocess.run(
        [shutil.which("dials.diffuse_grid"), *names, "output.json=grid.json", "d_min=6"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert not result.returncode and not result.stderr
    experiments, table = load(tmp_path)
    found = grid_of(experiments)
    assert found.d_min == 6 and found.laue_group == grid.laue_group
    assert found.unit_cell.parameters() == pytest.approx(grid.unit_cell.parameters(), rel=1e-6)
    before = load(tmp_path, "extracted")[1]
    # of equivalent voxels on the limit all are in or all out, whatever the rounding
    inside = found.contains(found.to_asu(as_numpy(before["voxel"])))
    assert table.size() == inside.sum() < before.size()
    assert np.array_equal(as_numpy(table["asu_voxel"]), found.to_asu(as_numpy(table["voxel"])))
    for name in ("counts", "exposure", "background", "id", "bragg"):
        assert np.array_equal(as_numpy(table[name]), as_numpy(before[name])[inside])
    asu = as_numpy(table["asu_voxel"])[~as_numpy(table["bragg"])]
    assert found.index_range == tuple(zip(asu.min(axis=0), asu.max(axis=0)))
    numbers = json.loads((tmp_path / "grid.json").read_text())
    overall = numbers["coverage"][-1]
    assert overall["seen"] == len(np.unique(asu, axis=0))
    assert overall["observations"] == len(asu)
    assert set(numbers["models"]) == {e.identifier for e in experiments}
    assert (tmp_path / "dials.diffuse_grid.html").stat().st_size > 10_000


def test_derived_columns(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 3)
    experiments, _ = load(tmp_path, "extracted")
    for experiment in experiments:
        panel = experiment.detector.add_panel()
        panel.set_frame((1, 0, 0), (0, -1, 0), (-50, 50, -100))
        panel.set_pixel_size((0.1, 0.1))
        panel.set_image_size((1000, 1000))
    experiments.as_file(str(tmp_path / "extracted.expt"))
    result = run(tmp_path, *names, "output.derived=True")
    assert not result.returncode and not result.stderr
    experiments, table = load(tmp_path)
    hkl = as_numpy(table["voxel"]) / np.array(grid_of(experiments).subdivide)
    assert np.array_equal(as_numpy(table["miller_index"]), np.floor(hkl + 0.5))
    net = as_numpy(table["counts"]) - as_numpy(table["background"])
    assert np.allclose(as_numpy(table["intensity.sum.value"]), net / as_numpy(table["exposure"]))
    assert {"s1", "d", "intensity.sum.variance", "asu_voxel"} <= set(table.keys())


def test_pairs_give_what_one_pair_gives(make_extracted, tmp_path):
    for folder, n_files in ((tmp_path / "one", 1), (tmp_path / "three", 3)):
        folder.mkdir()
        names, *_ = make_extracted(
            folder, 6, n_files, space_group="P 3", cell=(40, 40, 60, 90, 90, 120)
        )
        result = run(folder, *names, "output.json=grid.json", "ambiguity.resolve=False")
        assert not result.returncode and not result.stderr
    coverage = [
        json.loads((tmp_path / part / "grid.json").read_text())["coverage"]
        for part in ("one", "three")
    ]
    assert coverage[0] == coverage[1]
    whole = load(tmp_path / "one")[1]
    parts = [load(tmp_path / "three", f"diffuse_gridded_{i:04d}") for i in (1, 2, 3)]
    assert sum(table.size() for _, table in parts) == whole.size()
    assert len({json.dumps(grid_of(experiments).to_dict()) for experiments, _ in parts}) == 1
    assert [list(table.experiment_identifiers().values()) for _, table in parts] == [
        [e.identifier for e in experiments] for experiments, _ in parts
    ]


def test_coarser_grid_keeps_every_count(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 4, space_group="P 41 21 2")
    result = run(tmp_path, *names, "subdivide=1,1,1")
    assert not result.returncode and not result.stderr
    experiments, coarse = load(tmp_path)
    fine = load(tmp_path, "extracted")[1]
    assert grid_of(experiments).subdivide == (1, 1, 1)
    # by brute force: every fine row, put where the coarse grid says its centre is
    expected = {}
    grid = grid_of(experiments)
    inside = np.floor(as_numpy(fine["voxel"]) / 3 + 0.5).astype(int)
    rows = zip(
        as_numpy(fine["id"]),
        as_numpy(fine["bragg"]),
        inside,
        as_numpy(fine["counts"]),
        as_numpy(fine["exposure"]),
        as_numpy(fine["num_pixels.valid"]),
        grid.contains(inside),
    )
    for still, bragg, voxel, counts, exposure, pixels, kept in rows:
        if kept:
            key = (still, bragg, *voxel)
            expected[key] = expected.get(key, 0) + np.array([counts, exposure, pixels])
    assert coarse.size() == len(expected)
    columns = (
        as_numpy(coarse[n])
        for n in ("id", "bragg", "voxel", "counts", "exposure", "num_pixels.valid")
    )
    for still, bragg, voxel, *sums in zip(*columns):
        assert sums == pytest.approx(expected[(still, bragg, *voxel)], rel=1e-9)


def test_stills_in_two_settings_come_out_in_one(make_extracted, tmp_path):
    names, voxel, values, grid = make_extracted(
        tmp_path,
        12,
        2,
        subdivide=(2, 2, 2),
        exposure=0.5,
        d_min=4,
        swapped=("k,h,-l", {1, 4, 5, 9}),
    )
    result = run(tmp_path, *names, "output.json=grid.json")
    assert not result.returncode and not result.stderr
    numbers = json.loads((tmp_path / "grid.json").read_text())["ambiguity"]
    assert set(np.flatnonzero(numbers["chosen"])) == {1, 4, 5, 9}
    # what is written merges to the truth
    value_of = dict(zip(map(tuple, grid.to_asu(voxel)), values))
    chi2, n = 0.0, 0
    for number in (1, 2):
        table = load(tmp_path, f"diffuse_gridded_{number:04d}")[1]
        truth = np.array([value_of[tuple(v)] for v in as_numpy(table["asu_voxel"])])
        expected = truth * as_numpy(table["exposure"]) + 0.5
        chi2 += ((as_numpy(table["counts"]) - expected) ** 2 / expected).sum()
        n += table.size()
    assert chi2 / n == pytest.approx(1, abs=4 * np.sqrt(3 / n))


def test_outlier_cells(make_extracted, tmp_path):
    names, *_ = make_extracted(
        tmp_path, 7, space_group="P 41 21 2", cells={3: (41, 41, 60, 90, 90, 90)}
    )
    result = run(tmp_path, *names, "output.json=grid.json")
    assert not result.returncode
    assert json.loads((tmp_path / "grid.json").read_text())["cells"]["outliers"] == [3]
    assert 3 in set(load(tmp_path)[1]["id"])
    result = run(tmp_path, *names, "grid.max_cell_deviation=0.01")
    assert not result.returncode
    experiments, table = load(tmp_path)
    # its rows are gone, its experiment stays
    assert len(experiments) == 7 and set(table["id"]) == {0, 1, 2, 4, 5, 6}
    assert dict(table.experiment_identifiers())[3] == "still-3"
    assert grid_of(experiments).unit_cell.parameters()[0] == pytest.approx(40, rel=1e-6)


def test_other_laue_groups(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 3, space_group="P 41 21 2")
    for arguments, order in (
        (["grid.laue_group=P4"], 8),
        (["grid.laue_group=P1"], 2),
        (["grid.friedel=False"], 8),
    ):
        result = run(tmp_path, *names, *arguments, "ambiguity.resolve=False")
        assert not result.returncode and not result.stderr
        grid = grid_of(load(tmp_path)[0])
        assert grid.laue_group.order_z() == order
    assert not grid.friedel


def test_lost_models_come_from_the_copy(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 2, space_group="P 41 21 2")
    experiments = load(tmp_path, "extracted")[0]
    (tmp_path / "extract.json").write_text(json.dumps({"models": models_to_json(experiments)}))
    for experiment in experiments:
        experiment.scaling_model = None
    experiments.as_file(str(tmp_path / "extracted.expt"))
    result = run(tmp_path, *names)
    assert result.returncode and "carries no grid" in result.stderr
    result = run(tmp_path, *names, "extract.json")
    assert not result.returncode and not result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["subdivide=3,1,3"], "against the symmetry"),
        (["subdivide=2,2,2"], "can't be made of the extracted 3,3,3"),
        (["grid.laue_group=P23"], "does not have the symmetry"),
        (["grid.laue_group=P5"], "Unknown symmetry"),
        (["grid.reference_cell=40,41,60,90,90,90"], "against the symmetry"),
        (["d_min=9", "d_max=8"], "must be smaller"),
        (["d_max=4"], "exclude the extracted range"),
        (["output.experiments=absent/a.expt"], "Can't write"),
    ],
)
def test_bad_parameters(make_extracted, tmp_path, arguments, message):
    names, *_ = make_extracted(tmp_path, 2, space_group="P 41 21 2", d_min=7.0)
    result = run(tmp_path, *names, *arguments)
    assert result.returncode and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_nothing_within_the_limits_leaves_the_files_as_they_were(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 2, 2, space_group="P 41 21 2", d_min=7.0)
    assert not run(tmp_path, *names).returncode
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*gridded*")}
    assert len(before) == 4
    result = run(tmp_path, *names, "d_min=200")
    assert result.returncode and "lies between d_max=infinity and d_min=200 A" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*gridded*")} == before
    assert not list(tmp_path.glob(".*"))


def test_different_space_groups(make_extracted, tmp_path):
    names, *_ = make_extracted(tmp_path, 2, 2, space_group="P 4", d_min=8.0)
    second = [tmp_path / name for name in names if name.endswith(".expt")][1]
    content = json.loads(second.read_text())
    content["crystal"][0]["space_group_hall_symbol"] = " P 2 2"
    second.write_text(json.dumps(content))
    result = run(tmp_path, *names)
    assert result.returncode
    assert "different" in result.stderr
