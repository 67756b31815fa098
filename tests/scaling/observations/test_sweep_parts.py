"""Sweeps in parts, and what is scaled of them: against the same observations as stills."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import scale_settings

from dxtbx.model import Goniometer, Scan
from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy, int_column, vec3_column
from dials_diffuse.command_line import diffuse_scale
from dials_diffuse.io.model_copy import restore_models
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.observations.sweep_parts import parts_of
from dials_diffuse.scaling.scale import scale

N = 12


def sweep_scan(n=N, first=1, width=0.5):
    return Scan((first, first + n - 1), (20.0, width), [0.1] * n, [0.0] * n)


def as_sweep(truth, first=1):
    """The truth's stills as images of one sweep: (experiments, table)"""
    experiments, table = truth.experiments[:1], truth.table.copy()
    experiments[0].scan = sweep_scan(len(truth.experiments), first)
    experiments[0].goniometer = Goniometer((0.0, 1.0, 0.0))
    experiments[0].identifier = "turned"
    z = as_numpy(table["id"]) + first - 1 + 0.5
    px = as_numpy(table["xyzobs.px.value"]).copy()
    px[:, 2] = z
    table["xyzobs.px.value"] = vec3_column(px)
    table["id"] = int_column(np.zeros(len(z), dtype=int))
    names = table.experiment_identifiers()
    for key in list(names.keys()):
        del names[key]
    names[0] = "turned"
    return experiments, table


def written(experiments, table, folder, degrees):
    experiments.as_file(str(folder / "sweep.expt"))
    table.as_file(str(folder / "sweep.refl"))
    return ObservationSource([DataPair(folder / "sweep.expt", folder / "sweep.refl")], (), degrees)


@pytest.mark.parametrize("first", [1, 101])
def test_parts_of_one_image_are_scaled_as_stills_are(make_truth, tmp_path, first):
    truth = make_truth(n_stills=N, n_obs=800, n_voxels=400, mean_counts=20, offset=0.3)
    settings = scale_settings(model={"offset": True, "panel": False, "sensitivity": False})
    stills = scale(source_of(truth, tmp_path), settings)
    source = written(*as_sweep(truth, first), tmp_path, 0.5)
    assert len(source.experiments) == N and len(source.files[0]) == 1
    sweep = scale(source, settings)
    np.testing.assert_allclose(sweep.merger.tables.b, stills.merger.tables.b, rtol=1e-9)
    np.testing.assert_allclose(sweep.merged.intensity, stills.merged.intensity, rtol=1e-9)
    # one model, from which all factors can be had again
    (model,) = source.models_of(0, sweep.fit.models)
    for image in range(N):
        b, c = model.at(first - 1 + image + 0.5)
        assert b == pytest.approx(stills.merger.tables.b[image], rel=1e-9)
        found = stills.fit.models[image].components["offset"].values()
        np.testing.assert_allclose(c, found, rtol=1e-6, atol=1e-9)


def test_sweeps_and_stills_of_one_file(make_truth, tmp_path):
    truth = make_truth(n_stills=N, n_obs=100, n_voxels=400)
    experiments = truth.experiments[:2]
    experiments[1].scan, experiments[1].goniometer = sweep_scan(10, 6), Goniometer((0, 1, 0))
    parts = parts_of(experiments, 2.0)
    # 5 degrees: three parts of 3 1/3 images
    assert parts.first.tolist() == [0, 1, 4] and len(parts.experiments) == 4
    assert parts.experiments[0].identifier == experiments[0].identifier
    z = np.array([0.5, 5.5, 8.2, 8.4, 14.9, 15.0, 5.0])
    ids = np.array([0, 1, 1, 1, 1, 1, 1])
    assert parts.number(ids, z).tolist() == [0, 1, 1, 2, 3, 3, 1]
    # each part has the orientation of its middle, turned about the goniometer's axis
    turns = []
    for one, two in ((1, 2), (2, 3)):
        a, b = (np.reshape(parts.experiments[i].crystal.get_A(), (3, 3)) for i in (one, two))
        turns.append(b @ np.linalg.inv(a))
    for turn in turns:
        np.testing.assert_allclose(turn @ [0, 1, 0], [0, 1, 0], atol=1e-9)
        assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(5 / 3)


def test_a_short_sweep_has_two_parts(make_truth):
    experiments = make_truth(n_stills=2, n_obs=50, n_voxels=60).experiments[:1]
    experiments[0].scan, experiments[0].goniometer = sweep_scan(3, 1, 0.1), Goniometer((0, 1, 0))
    parts = parts_of(experiments, 2.0)
    assert parts.number(np.zeros(3, dtype=int), np.array([0.5, 1.4, 2.5])).tolist() == [0, 0, 1]


def test_the_command_writes_one_model_that_can_be_restored(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=N, n_obs=800, n_voxels=400, mean_counts=20)
    experiments, table = as_sweep(truth)
    experiments.as_file("sweep.expt")
    table.as_file("sweep.refl")
    options = ["model.offset=True", "model.sensitivity=False", "sweeps.degrees=1", "nproc=1"]
    options += ["output.html=None", "output.json=scaled.json"]
    diffuse_scale.run(["sweep.expt", "sweep.refl", *options])
    (experiment,) = ExperimentList.from_file("diffuse_scaled.expt", check_format=False)
    model = experiment.scaling_model
    table = flex.reflection_table.from_file("diffuse_scaled.refl")
    z = as_numpy(table["xyzobs.px.value"])[:, 2]
    expected = np.array([model.at(value)[0] for value in z])
    np.testing.assert_allclose(as_numpy(table["inverse_scale_factor"]), expected, rtol=1e-6)
    # images of a part share b
    assert len(np.unique(np.round(expected, 9))) == N / 2
    assert {"diffuse_sweep", "diffuse_offset"} <= set(model.plot_model_components())
    lost = ExperimentList([experiment])
    lost[0].scaling_model = None
    restore_models(lost, "scaled.json")
    assert lost[0].scaling_model.at(3.5)[0] == pytest.approx(model.at(3.5)[0])
