from __future__ import annotations

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.command_line.diffuse_scale import run


@pytest.fixture(scope="module")
def make_truth():
    """The function of tests/scaling/synthetic.py that makes tables with a known truth"""
    path = pathlib.Path(__file__).parents[1] / "scaling" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("dials_diffuse_synthetic_tables", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_truth


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
