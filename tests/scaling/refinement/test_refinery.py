"""The engines of DIALS."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import scale_settings

from dials_diffuse.scaling.scale import scale

ENGINES = "GaussNewton", "SimpleLBFGS"


def scales_of(scaled):
    return scaled.merger.tables.b


def esds_of(scaled):
    return np.array([m.components["scale"].parameter_esds[0] for m in scaled.fit.models])


@pytest.mark.parametrize("offset, sensitivity", [(False, False), (True, True)])
def test_engines_agree(make_truth, tmp_path, offset, sensitivity):
    truth = make_truth(
        n_stills=8, n_obs=2000, n_voxels=150, panels=(2, 2), panel_spread=0.05, offset=0.5 * offset
    )
    model = {"offset": offset, "panel": True, "sensitivity": sensitivity}
    source = source_of(truth, tmp_path)
    gauss, lbfgs = (
        scale(source, scale_settings(model=model, fit={"engine": engine})) for engine in ENGINES
    )
    sigma = esds_of(gauss)
    assert np.max(abs(scales_of(gauss) - scales_of(lbfgs)) / sigma) < 0.1
    np.testing.assert_allclose(esds_of(lbfgs), sigma, rtol=0.1)
    for scaled in (gauss, lbfgs):
        assert scaled.fit.cycles[-1]["rmsd_end"] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_leave_out_stills_too(make_truth, tmp_path, engine):
    truth = make_truth(n_stills=6, n_obs=500, n_voxels=100, mean_counts=60, offset=0.3)
    model = {"scale": True, "offset": True, "panel": False, "sensitivity": False}
    stills = {"exclude": ("2",)}
    found, expected = (
        scale(
            source_of(truth, tmp_path),
            scale_settings(model=model, fit={"engine": name}, stills=stills),
        ).merger.tables.b
        for name in (engine, "SimpleLBFGS")
    )
    used = np.arange(6) != 2
    np.testing.assert_allclose(found[used], expected[used], rtol=2e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_of_the_convergence_table_says_what_was_done(make_truth, tmp_path, engine):
    truth = make_truth(n_stills=5, n_obs=500, n_voxels=100)
    model = {"offset": False, "panel": False, "sensitivity": False}
    settings = scale_settings(model=model, fit={"engine": engine, "max_iterations": 4})
    row = scale(source_of(truth, tmp_path), settings).fit.cycles[0]
    assert row["components"] == ["scale"] and row["parameters"] == 5
    assert 0 < row["rmsd_end"] < row["rmsd_start"] + 1e-3
    assert row["cycle"] == 1 and row["shift"] is None
    assert 0 < row["steps"] <= 20


def test_messages_of_dials_are_held_back_and_those_of_this_package_are_not(
    make_truth, tmp_path, caplog
):
    source = source_of(make_truth(n_stills=5, n_obs=300, n_voxels=100), tmp_path)
    model = {"offset": False, "panel": False, "sensitivity": False}
    with caplog.at_level("INFO", logger="dials"):
        scale(source, scale_settings(model=model, fit={"engine": "SimpleLBFGS"}))
    names = {record.name for record in caplog.records}
    assert "dials.diffuse.scaling.fit" in names
    assert all(name.startswith("dials.diffuse") for name in names), names
