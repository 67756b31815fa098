from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    as_numpy,
    double_column,
    int_column,
    miller_index_column,
    vec3_column,
)
from dials_diffuse.command_line.diffuse_scale import run
from dials_diffuse.grid.voxel_grid import grid_of
from dials_diffuse.io.model_copy import models_to_json


def write(truth, stem="diffuse_gridded"):
    truth.experiments.as_file(f"{stem}.expt")
    truth.table.as_file(f"{stem}.refl")
    return [f"{stem}.expt", f"{stem}.refl"]


def test_scale_writes_models_factors_and_the_merged_map(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=20, n_obs=1500)
    run([*write(truth), "output.json=scale.json"])
    experiments = ExperimentList.from_file("diffuse_scaled.expt", check_format=False)
    b = np.array([e.scaling_model.components["scale"].parameters[0] for e in experiments])
    assert b.mean() == pytest.approx(1)
    assert np.corrcoef(b, truth.b)[0, 1] > 0.999
    table = flex.reflection_table.from_file("diffuse_scaled.refl")
    assert len(table) == len(truth.table)
    np.testing.assert_allclose(as_numpy(table["inverse_scale_factor"]), b[as_numpy(table["id"])])
    merged = flex.reflection_table.from_file("diffuse_merged.refl")
    assert as_numpy(merged["n_obs"]).sum() == len(truth.table)
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    expected = np.array([known[tuple(v)] for v in as_numpy(merged["voxel"])])
    pull = (as_numpy(merged["intensity"]) - expected) / np.sqrt(as_numpy(merged["variance"]))
    assert np.mean(pull**2) == pytest.approx(1, abs=0.25)


def test_derived_columns(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, offset=1)
    run([*write(truth), "model.offset=True", "output.derived=True"])
    table = flex.reflection_table.from_file("diffuse_scaled.refl")
    of = {name: as_numpy(table[name]) for name in table.keys()}
    assert abs(of["offset"]).max() > 0
    g = of["inverse_scale_factor"]
    intensity = (of["counts"] - of["background"]) / of["exposure"]
    np.testing.assert_allclose(of["intensity.sum.value"], intensity)
    np.testing.assert_allclose(of["intensity.scale.value"], (intensity - of["offset"]) / g)
    np.testing.assert_allclose(of["intensity.scale.variance"], of["intensity.sum.variance"] / g**2)


def test_report_numbers_and_map_file(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=12, n_obs=800, n_voxels=300, panels=(2, 2))
    run([*write(truth), "output.json=scale.json", "model.offset=True"])
    numbers = json.loads(pathlib.Path("scale.json").read_text())
    assert set(numbers["models"]) == {e.identifier for e in truth.experiments}
    assert numbers["components"][:2] == ["scale", "offset"]
    assert 0 < numbers["statistics"]["overall"]["cc_half_anisotropic"] <= 1
    assert numbers["statistics"]["overall"]["chi2"] == pytest.approx(1, abs=0.05)
    assert {"scale_b", "scale_offset", "scale_cc_half", "scale_residuals_xy"} <= set(
        numbers["plots"]
    )
    assert all(plot["help"] for plot in numbers["plots"].values())
    page = pathlib.Path("dials.diffuse_scale.html").read_text()
    assert all(name in page for name in numbers["plots"])
    assert {"scale_section_intensity_hk0", "scale_section_intensity_hk0_before"} <= set(
        numbers["plots"]
    )
    titles = [
        numbers["plots"][f"scale_anisotropic_intensity_h0l_anisotropic{k}"]["layout"]["title"][
            "text"
        ]
        for k in ("", "_before")
    ]
    assert titles[1] == titles[0] + ", before scaling"
    log = pathlib.Path("dials.diffuse_scale.log").read_text()
    assert "Before scaling" in log and "Convergence" in log
    from dials_diffuse.io.maps.map_file import read_map

    found = read_map("diffuse_merged.h5")
    merged = flex.reflection_table.from_file("diffuse_merged.refl")
    row = 5
    place = tuple(as_numpy(merged["voxel"])[row] - found.first)
    assert found.columns["intensity"][place] == pytest.approx(merged["intensity"][row], rel=1e-5)


def test_several_pairs_are_written_as_several_pairs(make_truth, run_in_tmp_path):
    one = make_truth(n_stills=6, n_obs=500, n_voxels=200)
    two = make_truth(n_stills=6, n_obs=500, n_voxels=200)
    for i, experiment in enumerate(two.experiments):
        experiment.identifier = f"other-{i}"
        two.table.experiment_identifiers()[i] = f"other-{i}"
    run([*write(one, "a"), *write(two, "b"), "memory.keep_observations=0"])
    total = 0
    for number in (1, 2):
        experiments = ExperimentList.from_file(
            f"diffuse_scaled_000{number}.expt", check_format=False
        )
        assert all(e.scaling_model.is_scaled for e in experiments)
        total += len(flex.reflection_table.from_file(f"diffuse_scaled_000{number}.refl"))
    assert total == len(one.table) + len(two.table)
    merged = flex.reflection_table.from_file("diffuse_merged.refl")
    assert flex.max(merged["n_stills"]) > 6


def test_dials_shows_the_model(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=4, n_obs=400, n_voxels=100)
    run([*write(truth), "model.offset=True"])
    shown = subprocess.run(
        [sys.executable, "-m", "dials.command_line.show", "diffuse_scaled.expt"],
        capture_output=True,
        text=True,
    )
    assert not shown.returncode, shown.stderr
    assert "type : diffuse" in shown.stdout and "Offset component" in shown.stdout


def no_asu_voxel(truth):
    del truth.table["asu_voxel"]


def no_background(truth):
    del truth.table["background"]


def no_grid(truth):
    for experiment in truth.experiments:
        experiment.scaling_model = None


def nothing_counted(truth):
    truth.table["counts"] = flex.double(len(truth.table), 0.0)


def nothing_finite(truth):
    truth.table["counts"] = flex.double(len(truth.table), float("nan"))


def no_voxel_in_common(truth):
    ids = as_numpy(truth.table["id"])
    voxel = np.stack((ids, np.zeros_like(ids), np.arange(len(ids)) % 7), axis=1)
    truth.table["asu_voxel"] = miller_index_column(voxel)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (no_asu_voxel, "run dials.diffuse_grid first"),
        (no_background, "lacks the column background"),
        (no_grid, "carries no grid"),
        (nothing_counted, "All counts are zero"),
        (nothing_finite, "None of the observations can be used"),
        (no_voxel_in_common, "no voxel is seen by two stills"),
    ],
)
def test_bad_input_gets_one_clear_line(make_truth, run_in_tmp_path, spoil, message):
    truth = make_truth(n_stills=4, n_obs=200, n_voxels=100)
    spoil(truth)
    with pytest.raises(SystemExit) as error:
        run(write(truth))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(run_in_tmp_path.glob("diffuse_scaled*"))


def test_one_still_is_refused(make_truth, run_in_tmp_path):
    with pytest.raises(SystemExit, match="only one still"):
        run(write(make_truth(n_stills=1, n_obs=200, n_voxels=100)))


def test_a_lost_grid_is_restored_from_the_json_copy(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=5, n_obs=300, n_voxels=100)
    pathlib.Path("grid.json").write_text(json.dumps({"models": models_to_json(truth.experiments)}))
    no_grid(truth)
    run([*write(truth), "grid.json"])
    experiments = ExperimentList.from_file("diffuse_scaled.expt", check_format=False)
    assert grid_of(experiments).to_dict() == truth.grid.to_dict()


def test_stills_that_cant_be_scaled_are_reported_and_the_rest_goes_on(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=8, n_obs=400, n_voxels=150)
    ids = as_numpy(truth.table["id"])
    counts = as_numpy(truth.table["counts"]).copy()
    counts[ids == 2] = 0
    valid = as_numpy(truth.table["num_pixels.valid"]).copy()
    valid[ids == 5] = 0
    truth.table["counts"] = double_column(counts)
    truth.table["num_pixels.valid"] = int_column(valid)
    run([*write(truth), "output.json=scale.json"])
    stills = json.loads(pathlib.Path("scale.json").read_text())["stills"]
    reasons = {i: s["excluded"] for i, s in enumerate(stills) if s["excluded"]}
    assert reasons == {2: "no counts above background", 5: "no usable observations"}
    table = flex.reflection_table.from_file("diffuse_scaled.refl")
    np.testing.assert_array_equal(as_numpy(table["excluded"]), (ids == 2) | (ids == 5))
    merged = flex.reflection_table.from_file("diffuse_merged.refl")
    assert as_numpy(merged["n_obs"]).sum() == np.count_nonzero((ids != 2) & (ids != 5))


def test_groups_without_a_common_voxel_are_reported(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=8, n_obs=400, n_voxels=100)
    # stills 5 to 7 see a copy of reciprocal space of their own
    ids, voxel = as_numpy(truth.table["id"]), as_numpy(truth.table["asu_voxel"]).copy()
    voxel[ids > 4, 0] += 40
    truth.table["asu_voxel"] = miller_index_column(voxel)
    run([*write(truth), "output.json=scale.json"])
    assert json.loads(pathlib.Path("scale.json").read_text())["groups"] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7],
    ]
    assert (
        "2 groups that have no voxel in common"
        in pathlib.Path("dials.diffuse_scale.log").read_text()
    )


def turn_away(truth, still):
    """Give a still the counts of neighbours in |q|: as intense as it was, but of another orientation"""
    rows = np.flatnonzero(as_numpy(truth.table["id"]) == still)
    voxel = as_numpy(truth.table["asu_voxel"]).copy()
    q = np.linalg.norm(truth.grid.q_of_voxel(voxel[rows]), axis=1)
    order = rows[np.argsort(q, kind="stable")]
    voxel[order] = np.roll(voxel[order], 40, axis=0)
    truth.table["asu_voxel"] = miller_index_column(voxel)


def test_a_misoriented_still_is_reported_and_left_out_if_asked(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=12, n_obs=1500, n_voxels=300)
    weakest = int(np.argmin(truth.b))
    wrong = (weakest + 5) % 12
    turn_away(truth, wrong)
    files = write(truth)

    def stills_of(*options):
        run([*files, "output.json=scale.json", *options])
        return json.loads(pathlib.Path("scale.json").read_text())["stills"]

    # its b is not above 0, so that it takes no part in the map
    found = stills_of()
    assert [i for i, still in enumerate(found) if still["misoriented"]] == [wrong]
    assert not any(still["excluded"] for still in found)
    assert [i for i, still in enumerate(found) if still["n_obs"] == 0] == [wrong]
    others = [still["slope"] for i, still in enumerate(found) if i != wrong]
    assert np.mean(others) == pytest.approx(1, abs=0.1)
    log = pathlib.Path("dials.diffuse_scale.log").read_text()
    assert re.search(rf"scales of 1 stills are not above 0 .* out of the fit too: {wrong}\n", log)
    # where b is all that is refined, it has the b of its profile
    only_b = ("model.offset=False", "model.sensitivity=False")
    found = stills_of(*only_b)
    assert [i for i, still in enumerate(found) if still["misoriented"]] == [wrong]
    assert abs(found[wrong]["slope"]) < 0.3
    log = pathlib.Path("dials.diffuse_scale.log").read_text()
    assert "1 stills do not follow the map of all others" in log
    assert f"excludes them): {wrong}\n" in log
    for option in ("stills.exclude_misoriented=True", "stills.min_cc=0.2"):
        found = stills_of(option, *only_b)
        assert [i for i, still in enumerate(found) if still["excluded"]] == [wrong]
        assert "map of all others" in found[wrong]["excluded"]
    b = np.array([still["b"] for i, still in enumerate(found) if i != wrong])
    assert np.corrcoef(b, np.delete(truth.b, wrong))[0, 1] > 0.999
    table = flex.reflection_table.from_file("diffuse_scaled.refl")
    np.testing.assert_array_equal(as_numpy(table["excluded"]), as_numpy(table["id"]) == wrong)


def test_stills_are_left_out_by_number_and_by_identifier(make_truth, run_in_tmp_path, capsys):
    truth = make_truth(n_stills=6, n_obs=600, n_voxels=200)
    files = write(truth)
    name = truth.experiments[4].identifier
    run([*files, "output.json=scale.json", f"stills.exclude=1,{name}"])
    found = json.loads(pathlib.Path("scale.json").read_text())["stills"]
    assert [i for i, still in enumerate(found) if still["excluded"]] == [1, 4]
    table = flex.reflection_table.from_file("diffuse_scaled.refl")
    np.testing.assert_array_equal(
        as_numpy(table["excluded"]), np.isin(as_numpy(table["id"]), [1, 4])
    )
    with pytest.raises(SystemExit, match="stills.exclude=6: there is no still of this number"):
        run([*files, "stills.exclude=6"])


def test_dials_scale_refuses_the_model_for_bragg_reflections(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=2, n_obs=200, n_voxels=100)
    experiments = truth.experiments
    for experiment in experiments:
        experiment.scaling_model = None
    experiments.as_file("integrated.expt")
    n = 40
    rng = np.random.default_rng(2)
    table = flex.reflection_table()
    table["id"] = int_column(np.repeat([0, 1], n // 2))
    table["miller_index"] = miller_index_column(rng.integers(1, 6, (n, 3)))
    for kind in ("sum", "prf"):
        table[f"intensity.{kind}.value"] = double_column(rng.uniform(100, 200, n))
        table[f"intensity.{kind}.variance"] = double_column(rng.uniform(100, 200, n))
    table["d"] = double_column(np.full(n, 3.0))
    table["partiality"] = double_column(np.ones(n))
    table["lp"] = double_column(np.ones(n))
    table["xyzobs.px.value"] = vec3_column(np.full((n, 3), 50.0))
    table["s1"] = vec3_column(np.tile([0.0, 0.1, -1.0], (n, 1)))
    table["panel"] = table["id"].as_size_t()
    table["flags"] = flex.size_t(n, 0)
    table.set_flags(flex.bool(n, True), table.flags.integrated)
    for i, experiment in enumerate(experiments):
        table.experiment_identifiers()[i] = experiment.identifier
    table.as_file("integrated.refl")
    refused = subprocess.run(
        [
            sys.executable,
            "-m",
            "dials.command_line.scale",
            "integrated.expt",
            "integrated.refl",
            "model=diffuse",
        ],
        capture_output=True,
        text=True,
    )
    assert refused.returncode
    assert "use dials.diffuse_scale" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(run_in_tmp_path.glob("scaled*"))
