"""The fit: recovery, errors, convergence; what it is made on, and the conventions."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import ONLY_SCALES, scale_settings

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.observations.overview import read_observations
from dials_diffuse.scaling.refinement.fit import (
    Fitter,
    Mixing,
    apply_conventions,
    chosen_voxels,
    fit_data,
    free_voxels,
    meet_prior,
)
from dials_diffuse.scaling.refinement.objective import Objective
from dials_diffuse.scaling.refinement.parameters import Parameters
from dials_diffuse.scaling.refinement.selection import fit
from dials_diffuse.scaling.refinement.still_models import Components
from dials_diffuse.scaling.scale import scale

P_ORDER = np.random.default_rng(4).permutation(9) * 1.5


def scales_of(scaled):
    return scaled.merger.tables.b


def esds_of(models):
    return np.array([m.components["scale"].parameter_esds[0] for m in models])


def fitter_of(make_truth, folder, intervals=None, **recipe):
    """Fitter on nine stills with four panels; intervals: of all components along p_order"""
    recipe = {"n_stills": 9, "n_obs": 400, "n_voxels": 100, "panels": (2, 2), **recipe}
    overview = read_observations(source_of(make_truth(**recipe), folder), 0.0, 10**8)
    names = ("intervals", "offset_intervals", "sensitivity_intervals")
    settings = scale_settings(series=dict.fromkeys(names, intervals))
    components = Components(overview, settings, None if intervals is None else P_ORDER)
    start = overview.still_scales()
    prior = overview.prior(start)
    data = fit_data(overview, chosen_voxels(overview, 10**8), prior)
    return Fitter(components, data, start, prior)


def test_perturbed_starts_agree(make_truth, tmp_path):
    truth = make_truth(n_stills=20, n_obs=1500, n_voxels=500)
    source = source_of(truth, tmp_path)
    overview = read_observations(source, 0.0, 10**8)
    settings = scale_settings(model={"offset": True, "panel": False, "sensitivity": True})
    rng = np.random.default_rng(8)
    results = []
    for start in (None, truth.b * rng.uniform(0.5, 2, 20), np.ones(20)):
        models = fit(source, overview, settings, start).models
        results.append(np.array([m.components["scale"].parameters[0] for m in models]))
        sigma = esds_of(models)
    # far below what counting statistics leave open
    assert np.max(abs(results[1] - results[0]) / sigma) < 0.2
    assert np.max(abs(results[2] - results[0]) / sigma) < 0.2


def test_standard_deviations_of_scales_are_right(make_truth, tmp_path):
    truth = make_truth(n_stills=80, n_obs=1500, n_voxels=600, offset=0.5)
    model = {"offset": True, "panel": False, "sensitivity": False}
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=model))
    sigma = esds_of(scaled.fit.models)
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


def test_cycles_that_end_too_early_are_named(make_truth, tmp_path, caplog):
    source = source_of(make_truth(n_stills=6, n_obs=2000, mean_counts=20), tmp_path)
    scale(source, scale_settings(model=ONLY_SCALES))
    assert "give a larger fit.n_cycles" not in caplog.text
    start = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    few = scale_settings(model=ONLY_SCALES, fit={"n_cycles": 2, "max_iterations": 1})
    fit(source, read_observations(source, 0.0, 10**8), few, start)
    assert "in the last of 2 cycles: give a larger fit.n_cycles" in caplog.text


def test_voxels_of_the_fit_are_those_that_several_stills_see(make_truth, tmp_path):
    # 3 stills, and so many voxels that a third are seen once
    truth = make_truth(n_stills=3, n_obs=1000, n_voxels=2500)
    overview = read_observations(source_of(truth, tmp_path), 0.0, 10**8)
    several = overview.connections.n_stills > 1
    assert 0.1 < several.mean() < 0.9
    np.testing.assert_array_equal(chosen_voxels(overview, 10**8), several)
    few = chosen_voxels(overview, 500)
    assert not (few & ~several).any()
    counts = np.diff(overview.rows.start)
    assert counts[few].sum() == pytest.approx(500, rel=0.15)
    # spread over all of reciprocal space
    order = np.argsort(overview.rows.voxels)
    share = few[order][: len(few) // 2].sum() / few.sum()
    assert share == pytest.approx(several[order][: len(few) // 2].sum() / several.sum(), abs=0.05)
    free = free_voxels(overview, 20.0)
    assert free.mean() == pytest.approx(0.2, abs=0.01)
    assert (free & few).sum() / few.sum() == pytest.approx(0.2, abs=0.1)
    assert not free_voxels(overview, 0.0).any()


def test_data_of_the_fit_are_the_observations_of_its_voxels(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, n_voxels=100)
    overview = read_observations(source_of(truth, tmp_path), 0.0, 10**8).without([4])
    chosen = np.arange(len(overview.rows.voxels)) % 3 == 0
    data = fit_data(overview, chosen, lambda q: 100 + q)
    everything = overview.rows.rows(slice(0, len(chosen)))
    expected = everything[chosen[everything["voxel"]] & (everything["still"] != 4)]
    np.testing.assert_array_equal(data.rows, expected)
    np.testing.assert_array_equal(np.unique(expected["voxel"]), data.rows["voxel"][data.start[:-1]])
    assert data.start[-1] == len(data.rows)
    q = overview.bins.q_of(expected["radial"])
    mean = [q[a:b].mean() for a, b in zip(data.start[:-1], data.start[1:])]
    np.testing.assert_allclose(data.prior, 100 + np.array(mean))


@pytest.mark.parametrize("intervals", [None, 3])
def test_conventions_change_no_expectation(make_truth, tmp_path, intervals):
    fitter = fitter_of(make_truth, tmp_path, intervals)
    names = ["scale", "offset", "panel", "sensitivity"]
    rng = np.random.default_rng(3)
    parts = [fitter.part(name) for name in names]
    for part in parts:
        size = 0.2 if part.name != "offset" else 50
        part.values = part.values + rng.uniform(0, size, part.values.shape)
    parameters = Parameters(parts, fitter.tables)
    objective = Objective(fitter.data, parameters)
    before = objective.squares()
    seen = {name: fitter.observations_of(name, fitter.data.rows) for name in names[2:]}
    apply_conventions(parameters, seen, fitter.used)
    tables, rows = parameters.tables(), fitter.data.rows
    assert tables.b.mean() == pytest.approx(1)
    assert np.log(tables.d[rows["panel"]]).mean() == pytest.approx(0, abs=1e-12)
    a = tables.a[tables.step[rows["still"]], rows["direction"]]
    assert np.log(a).mean() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(objective.squares(), before, rtol=1e-8, atol=1e-8)


def test_factors_that_are_not_positive_are_refused(make_truth, tmp_path):
    fitter = fitter_of(make_truth, tmp_path)
    part = fitter.part("panel")
    part.values[0, 1] = -0.1
    seen = {"panel": fitter.observations_of("panel", fitter.data.rows)}
    with pytest.raises(ValueError, match="panel factors zero or negative"):
        apply_conventions(Parameters([part], fitter.tables), seen, fitter.used)


def test_observations_of_panels_and_directions_are_counted(make_truth, tmp_path):
    fitter = fitter_of(make_truth, tmp_path, 3)
    rows = fitter.data.rows
    panels = fitter.observations_of("panel", rows)
    assert panels.shape == (1, 4) and panels[0, 2] == np.sum(rows["panel"] == 2)
    directions = fitter.observations_of("sensitivity", rows)
    assert directions.shape == fitter.tables.a.shape and directions.sum() == len(rows)
    step = fitter.tables.step[rows["still"]]
    assert directions[5].sum() == np.sum(step == 5)


def test_priors_are_learnt_from_how_far_the_stills_differ(make_truth, tmp_path):
    fitter = fitter_of(make_truth, tmp_path, n_stills=30, n_obs=1500, mean_counts=30, offset=0.0)
    refined = fitter.refine(["scale", "offset"])
    part = refined.parts["offset"]
    # all have the same c: it is no longer as free as at first
    wide = fitter.part("offset").prior.precision
    narrow = np.trace(part.prior.precision, axis1=1, axis2=2) / np.trace(wide, axis1=1, axis2=2)
    assert (narrow > 10).mean() > 0.8
    assert set(refined.priors) == {"scale", "offset"}
    again = fitter.refine(["scale"], refined, 1)
    np.testing.assert_array_equal(
        again.parts["scale"].prior.precision, refined.priors["scale"].precision
    )


def test_spread_of_the_intensities_is_learnt(make_truth, tmp_path):
    fitter = fitter_of(make_truth, tmp_path, n_stills=30, n_obs=1500, n_voxels=600)
    # gamma law of shape 6
    spread = fitter.refine(["scale"]).spread
    assert spread == pytest.approx(1 / np.sqrt(6), rel=0.15)


def test_mixing_finds_the_end_of_slow_cycles():
    rng = np.random.default_rng(2)
    # each cycle leaves 0.9 and 0.6 of two of the ways to the end, and little of all others
    axes = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    left = axes * np.array([0.9, 0.6, *rng.uniform(0, 0.05, 6)]) @ axes.T
    end, x = rng.normal(size=(2, 8))
    mixing, plain = Mixing(), x
    for _ in range(6):
        after = end + left @ (x - end)
        x, plain = mixing.next(after, after - x), end + left @ (plain - end)
    assert 20 * abs(x - end).max() < abs(plain - end).max()


def test_mixing_begins_with_the_cycle_itself_and_never_goes_far():
    x, shift = np.array([1.0, 2.0, 3.0]), np.array([1.0, -2.0, 0.5])
    mixing = Mixing()
    np.testing.assert_array_equal(mixing.next(x, shift), x)
    # shifts that do not get smaller have no end
    np.testing.assert_array_equal(mixing.next(x + 1, 0.999 * shift), x + 1)


@pytest.mark.parametrize("name, learnt", [("scale", False), ("offset", False), ("offset", True)])
def test_priors_pull_nowhere_that_the_data_do_not_tell(make_truth, tmp_path, name, learnt):
    fitter = fitter_of(make_truth, tmp_path)
    part, rng = fitter.part(name), np.random.default_rng(3)
    scales = rng.uniform(0.5, 2.0, len(fitter.start))
    part.values = rng.uniform(0.5, 2.0, part.values.shape)
    used = np.arange(len(scales)) != 4
    b = part.values[:, 0] if name == "scale" else scales
    before, values = part.prior.mean.copy(), part.values.copy()
    meet_prior(part, b, used, learnt)
    pull = part.prior.half_gradient(part.values)[used]
    size = abs(b[used, None] * pull).sum(axis=0)
    assert (abs(b[used] @ pull) < 1e-9 * size).all()
    # by a factor, or by b f
    if name == "scale":
        moved = part.prior.mean / before
    elif learnt:
        moved = (part.prior.mean - before) / b[:, None]
    else:
        moved = (values - part.values) / b[:, None]
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape))
    assert name == "offset" and not learnt or np.array_equal(values, part.values)


def test_b_of_tables_is_the_start_before_it_is_refined(make_truth, tmp_path):
    fitter = fitter_of(make_truth, tmp_path)
    np.testing.assert_array_equal(fitter.tables.b, fitter.start)
    assert isinstance(fitter.tables, ScaleTables)
    assert fitter.refine([]).names == []
