"""Selection of components."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import ONLY_SCALES, scale_settings

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.scaling.observations.overview import read_observations
from dials_diffuse.scaling.refinement.kernels import FitData
from dials_diffuse.scaling.refinement.selection import (
    beats_useless_parameters,
    fit,
    freedom_of,
    gain_is_certain,
    gain_is_significant,
)
from dials_diffuse.scaling.scale import scale


def test_components_stay_only_if_the_free_set_agrees(make_truth, tmp_path):
    plain = scale(
        source_of(make_truth(n_stills=20, n_obs=2000, n_voxels=500), tmp_path), scale_settings()
    )
    # the truth has scales only: what the others gain on the free set is chance
    assert len(plain.fit.trials) > 1
    assert list(plain.fit.components) == ["scale"]
    folder = tmp_path / "offset"
    folder.mkdir()
    rings = scale(
        source_of(make_truth(n_stills=20, n_obs=2000, n_voxels=500, offset=1), folder),
        scale_settings(),
    )
    assert "offset" in rings.fit.components


def test_a_component_that_is_not_determined_is_left_out_of_an_automatic_model(
    make_truth, tmp_path, caplog
):
    truth = make_truth(n_stills=6, n_obs=2000)
    # observations in one half of the detector, and nothing to say what a is in the other
    table = truth.table
    x, _, _ = table["xyzobs.px.value"].parts()
    truth.table = table.select(x < 150)
    none = {"sensitivity": 1e200, "sensitivity_smoothness": 1e200}
    source = source_of(truth, tmp_path)
    automatic = scale_settings(model={"offset": False, "panel": False}, restraints=none)
    with caplog.at_level("INFO"):
        scaled = scale(source, automatic)
    assert scaled.fit.components == ["scale"]
    assert "sensitivity is not refined: The observations do not determine" in caplog.text
    asked = scale_settings(
        model={"offset": False, "panel": False, "sensitivity": True}, restraints=none
    )
    with pytest.raises(ValueError, match="do not determine"):
        scale(source, asked)


def test_useless_parameters_are_no_gain():
    """Linear least squares with columns that have nothing to do with the data, many times over"""
    rng = np.random.default_rng(8)
    n_fit, n_free, n_more = 400, 100, 10
    gains, kept = 0, 0
    for _ in range(400):
        design, y = rng.normal(size=(n_fit + n_free, n_more)), rng.normal(size=n_fit + n_free)
        solution = np.linalg.lstsq(design[:n_fit], y[:n_fit], rcond=None)[0]
        before = np.mean(y[n_fit:] ** 2)
        after = np.mean((y[n_fit:] - design[n_fit:] @ solution) ** 2)
        gains += after < before
        kept += beats_useless_parameters(before, after, n_more, n_free, n_fit)
    assert gains > 40  # a mere comparison is often fooled
    assert kept <= 2
    assert beats_useless_parameters(1.2, 1.0, n_more, n_free, n_fit)


def test_gains_that_chance_makes_or_that_do_not_matter_are_none():
    rng = np.random.default_rng(3)
    before = rng.chisquare(9, 20000)
    noise = rng.normal(0, 1, 20000)
    noise -= noise.mean()
    total = before.sum()
    # three standard deviations of the sum are 424, the least share 54
    assert not gain_is_significant(before, before + noise - 300 / 20000)
    assert gain_is_significant(before, before + noise - 600 / 20000)
    assert not gain_is_significant(before, before * (1 - 1e-4))
    assert gain_is_significant(before, before * (1 - 1e-3))
    assert total == pytest.approx(180000, rel=0.02)


def test_gains_of_the_fit_count_if_the_free_set_does_not_rise():
    before, free = np.full(1000, 1.0), np.full(50, 1.0)
    # 20 useless parameters: 20 +- 6.3
    assert gain_is_certain(before, before - 0.1, free, free - 1e-3, 20)
    assert not gain_is_certain(before, before - 0.1, free, free + 1e-3, 20)
    assert not gain_is_certain(before, before - 0.05, free, free - 1e-3, 20)


def test_degrees_of_freedom_are_those_of_accepted_observations():
    start = np.array([0, 3, 4, 8])
    weight = np.array([1.0, 0, 2, 1, 0, 0, 0, 0])
    none = np.zeros(3)
    data = FitData(start, np.zeros(8), weight, none, none, none, none)
    assert freedom_of(data) == 1
    assert freedom_of(data._replace(weight=np.ones(8))) == 2 + 0 + 3


def test_trials_say_what_was_tried_and_why_not(make_truth, tmp_path):
    source = source_of(make_truth(n_stills=5, n_obs=400, n_voxels=60, panels=(2, 2)), tmp_path)
    overview = read_observations(source, 0.0, 10**8)
    found = fit(source, overview, scale_settings())
    assert [trial["components"] for trial in found.trials] == [
        ["scale"],
        ["scale", "panel"],
        ["scale", "offset"],
        ["scale", "sensitivity"],
    ]
    assert found.trials[0]["kept"] and found.trials[0]["free_chi2"] > 0
    assert not any(trial["reason"] for trial in found.trials)
    found = fit(source, overview, scale_settings(fit={"min_observations_per_parameter": 50}))
    assert [trial["reason"] for trial in found.trials[2:]] == 2 * ["too few observations"]
    found = fit(source, overview, scale_settings(fit={"free_percentage": 0}))
    assert {trial["reason"] for trial in found.trials[1:]} == {"no free set"}
    assert found.components == ["scale"] and found.zero is None


def test_stills_that_share_no_voxel_are_refused(make_truth, tmp_path):
    truth = make_truth(n_stills=4, n_obs=100, n_voxels=100)
    overview = read_observations(source_of(truth, tmp_path), 0.0, 10**8).without([0, 1, 2])
    with pytest.raises(ValueError, match="No voxel is seen by two stills"):
        fit(source_of(truth, tmp_path), overview, scale_settings(model=ONLY_SCALES))


def test_a_panel_factor_needs_panels(make_truth, tmp_path, caplog):
    source = source_of(make_truth(n_stills=4, n_obs=300, n_voxels=60), tmp_path)
    overview = read_observations(source, 0.0, 10**8)
    settings = scale_settings(model={"offset": False, "panel": True, "sensitivity": False})
    with caplog.at_level("INFO"):
        assert fit(source, overview, settings).components == ["scale"]
    assert "The detector has one panel" in caplog.text


def test_excluded_stills_keep_the_scale_of_their_profile(make_truth, tmp_path):
    source = source_of(make_truth(n_stills=6, n_obs=300, n_voxels=60), tmp_path)
    overview = read_observations(source, 0.0, 10**8).without([2])
    models = fit(source, overview, scale_settings(model=ONLY_SCALES)).models
    start = overview.still_scales()
    # mean b of the others is 1
    b = np.array([model.components["scale"].parameters[0] for model in models])
    assert np.delete(b, 2).mean() == pytest.approx(1)
    assert b[2] == pytest.approx(start[2], rel=0.02)
    assert all(model.is_scaled for model in models)
