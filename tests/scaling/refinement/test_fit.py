"""The fit: recovery, errors, selection of components."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import ONLY_SCALES, scale_settings

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.scaling.observations.overview import read_overview
from dials_diffuse.scaling.refinement.fit import beats_useless_parameters, fit, gain_is_significant
from dials_diffuse.scaling.scale import scale


def scales_of(scaled):
    return scaled.merger.tables.b


def test_perturbed_starts_agree(make_truth, tmp_path):
    from dials_diffuse.scaling.observations.overview import read_overview
    from dials_diffuse.scaling.refinement.fit import fit

    truth = make_truth(n_stills=20, n_obs=1500, n_voxels=500)
    source = source_of(truth, tmp_path)
    overview = read_overview(source)
    none = np.zeros(20, dtype=bool)
    settings = scale_settings(model={"offset": True, "panel": False, "sensitivity": True})
    rng = np.random.default_rng(8)
    results = []
    for start in (None, truth.b * rng.uniform(0.5, 2, 20), np.ones(20)):
        models = fit(source, overview, none, settings, start).models
        results.append(np.array([m.components["scale"].parameters[0] for m in models]))
        sigma = np.array([m.components["scale"].parameter_esds[0] for m in models])
    # far below what counting statistics leave open
    assert np.max(abs(results[1] - results[0]) / sigma) < 0.2
    assert np.max(abs(results[2] - results[0]) / sigma) < 0.2


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


def test_standard_deviations_of_scales_are_right(make_truth, tmp_path):
    truth = make_truth(n_stills=80, n_obs=1500, n_voxels=600, offset=0.5)
    model = {"offset": True, "panel": False, "sensitivity": False}
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=model))
    sigma = np.array([m.components["scale"].parameter_esds[0] for m in scaled.fit.models])
    pull = (scales_of(scaled) - truth.b) / sigma
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.3)


def test_three_stills_with_everything_on_stay_sane(make_truth, tmp_path):
    truth = make_truth(n_stills=3, n_obs=1500, n_voxels=400, panels=(2, 2))
    model = {"offset": True, "panel": True, "sensitivity": True}
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=model))
    np.testing.assert_allclose(scales_of(scaled), truth.b, rtol=0.5)
    few = make_truth(n_stills=3, n_obs=80, n_voxels=40, panels=(2, 2))
    with pytest.raises(ValueError, match="too few"):
        scale(source_of(few, tmp_path), scale_settings(model=model))


def test_errors_of_scales_where_few_stills_share_a_voxel(make_truth, tmp_path):
    """Each voxel is seen by two or three stills: its intensity is known no better than their scales.
    The spread over repeated measurements is what the e.s.d.s say."""
    found, said = [], []
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        truth = make_truth(n_stills=30, n_obs=600, n_voxels=7000, mean_counts=30, seed=seed)
        scaled = scale(source_of(truth, tmp_path / str(seed)), scale_settings(model=ONLY_SCALES))
        components = [model.components["scale"] for model in scaled.fit.models]
        b = np.array([component.parameters[0] for component in components])
        ratio = b / truth.b
        found.append(ratio / ratio.mean() - 1)
        said.append([component.parameter_esds[0] for component in components] / b)
    assert np.mean(np.square(found)) / np.mean(np.square(said)) == pytest.approx(1, abs=0.3)


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


def test_cycles_that_end_too_early_are_named(make_truth, tmp_path, caplog):
    source = source_of(make_truth(n_stills=6, n_obs=2000, mean_counts=20), tmp_path)
    scale(source, scale_settings(model=ONLY_SCALES, fit={"n_cycles": 6}))
    assert "give a larger fit.n_cycles" not in caplog.text
    start = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    overview = read_overview(source)
    few = scale_settings(model=ONLY_SCALES, fit={"n_cycles": 2, "max_iterations": 1})
    fit(source, overview, np.zeros(6, dtype=bool), few, start)
    assert "in the last of 2 cycles: give a larger fit.n_cycles" in caplog.text


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
