"""c and a as smooth functions of p_order"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from synthetic_scaling import model_factors, scale_settings

from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.algorithms.scaling.model.components.smooth_scale_components import (
    GaussianSmoother2D,
    GaussianSmoother3D,
)
from dials.array_family import flex

from dials_diffuse.adapters.experiments import DataPair, load_experiments
from dials_diffuse.adapters.tables import as_numpy, double_column
from dials_diffuse.io.json_file import write_json
from dials_diffuse.io.model_copy import restore_models
from dials_diffuse.model.components import ScaleSeries
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import OffsetSeries, ProductWeights, SensitivitySeries
from dials_diffuse.report.html import write_report
from dials_diffuse.scaling import report
from dials_diffuse.scaling.observations.source import ObservationSource, observations_of
from dials_diffuse.scaling.refinement.fit import chi2_of
from dials_diffuse.scaling.refinement.restraints import (
    Restraints,
    apply_conventions,
    means_of_series,
)
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.units import set_units
from dials_diffuse.scaling.scale import scale
from dials_diffuse.scaling.workflow import scale_columns, scaled_experiments


def series_settings(
    intervals=None, p_order=None, offset_intervals=None, sensitivity_intervals=None
):
    return {
        "intervals": intervals,
        "p_order": p_order,
        "offset_intervals": offset_intervals,
        "sensitivity_intervals": sensitivity_intervals,
    }


EXTENT = (-0.5, 0.5, -0.4, 0.6)


def doubles(values):
    return flex.double(np.asarray(values, dtype=float).tolist())


@pytest.mark.parametrize("n_p", [3, 5, 7])
def test_offsets_of_stills_are_dials_2d_smoother(n_p):
    rng = np.random.default_rng(1)
    p_order = rng.uniform(3, 8, 20)
    values = rng.normal(0, 1, 6 * n_p)
    series = OffsetSeries(doubles(values), 0.5, 6, p_order)
    smoother = GaussianSmoother2D(
        (0, 0.5), 4, (p_order.min(), p_order.max()), {3: 2, 5: 3, 7: 5}[n_p]
    )
    q = series.radial.bin_centres()[::40]
    table = series.by_still() @ series.table_weights().T
    for still in range(20):
        expected = smoother.multi_value_weight(
            doubles(q), doubles(np.full(len(q), p_order[still])), doubles(values)
        )[0]
        np.testing.assert_allclose(table[still, ::40], expected, rtol=1e-12, atol=1e-12)
    # back from what a model keeps
    back = OffsetSeries.from_dict(series.to_dict(), p_order[[7, 2]])
    np.testing.assert_allclose(back.by_still(), series.by_still()[[7, 2]])


def test_sensitivity_at_steps_is_dials_3d_smoother():
    rng = np.random.default_rng(1)
    p_order = rng.uniform(-3, 8, 12)
    values = rng.uniform(0.5, 1.5, 5 * 6 * 7)
    series = SensitivitySeries(doubles(values), EXTENT, (5, 6), p_order)
    smoother = GaussianSmoother3D(EXTENT[:2], 3, EXTENT[2:], 4, (p_order.min(), p_order.max()), 5)
    weights = series.table_weights()
    table = (weights @ values).reshape(12, -1)
    x, y = (v[::500] for v in series.plane.bin_centres())
    for still in (0, 5, 11):
        z = np.full(len(x), p_order[still])
        expected = smoother.multi_value_weight(doubles(x), doubles(y), doubles(z), doubles(values))
        np.testing.assert_allclose(
            table[series.step_of_still[still], ::500], expected[0], rtol=1e-12
        )
        # and what the still's own model would hold
        own = series.plane.table_weights() @ series.by_step()[series.step_of_still[still]]
        np.testing.assert_allclose(own[::500], expected[0], rtol=1e-12)
        bins = series.bin_of(x, y, np.full(len(x), still))
        np.testing.assert_allclose((weights @ values)[bins], expected[0], rtol=1e-12)


def test_many_stills_share_steps_that_are_close():
    p_order = np.random.default_rng(0).uniform(0, 100, 5000)
    series = SensitivitySeries(flex.double(25 * 6, 1.0), EXTENT, (5, 5), p_order)
    assert len(series.steps) == 64
    assert abs(series.steps[series.step_of_still] - p_order).max() < 100 / 64
    # a twelfth of an interval is as good as the exact place
    values = series.weights_at(p_order) @ np.sin(np.arange(6))
    binned = (series.weights @ np.sin(np.arange(6)))[series.step_of_still]
    assert abs(binned - values).max() < 0.02 * np.ptp(values)


def test_products_of_weights_are_the_array_of_all():
    rng = np.random.default_rng(1)
    steps, directions = rng.uniform(0, 1, (4, 3)), rng.uniform(0, 1, (10, 5))
    steps[:2, 2] = steps[2:, 0] = 0
    weights, everything = ProductWeights(steps, directions), np.kron(steps, directions)
    of, parameters = rng.normal(0, 1, 40), rng.normal(0, 1, 15)
    matrix = sparse.random(6, 40, 0.3, "csr", random_state=1)
    assert len(weights) == 40
    np.testing.assert_allclose(weights @ parameters, everything @ parameters)
    np.testing.assert_allclose(of @ weights, of @ everything)
    np.testing.assert_allclose(
        weights.normal(of), everything.T @ (of[:, None] * everything), atol=1e-12
    )
    np.testing.assert_allclose(weights.sparse_product(matrix), matrix @ everything)


def make_problem(make_truth, of_b, of_c, of_a):
    """A scaler with parameters that are not the best, and its restraints"""
    truth = make_truth(n_stills=9, n_obs=60, n_voxels=40, panels=(2, 2), offset=0.5)
    rng = np.random.default_rng(2)
    p_order = rng.permutation(9) * 1.5
    offset = OffsetSeries(doubles(rng.uniform(0, 100, 30)), 0.5, 6, p_order)
    a = SensitivitySeries(
        doubles(rng.uniform(0.9, 1.1, 25 * 3)), (-0.5, 0.5, -0.5, 0.5), (5, 5), p_order
    )
    models = []
    for b in truth.b:
        model = DiffuseScalingModel.create(
            truth.grid.to_dict(),
            offset={"n_parameters": 6, "q_max": 0.5},
            n_panels=4,
            sensitivity={"extent": (-0.5, 0.5, -0.5, 0.5), "shape": (5, 5)},
        )
        model.components["scale"].set_values([b * rng.uniform(0.8, 1.2)])
        model.components["offset"].set_values(rng.uniform(0, 100, 6))
        if of_c:
            model.components["offset"] = offset
        if of_a:
            model.components["sensitivity"] = a
        models.append(model)
    models[0].components["panel"].set_values(rng.uniform(0.9, 1.1, 4))

    def prior(q):
        return 600 * np.exp(-3 * q**2)

    series = ScaleSeries(doubles(rng.uniform(0.7, 1.3, 5)), p_order) if of_b else None
    observations = observations_of(truth.experiments, truth.columns)
    scaler = DiffuseScaler(models, observations, prior, scale_settings().weighting, series=series)
    return scaler, Restraints(scaler, scale_settings().restraints, truth.b, prior)


@pytest.mark.parametrize(
    "of_b, of_c, of_a, names, n_parameters",
    [
        (False, True, False, "scale offset panel sensitivity", 30 + 9 + 4 + 25),
        (True, True, False, "scale offset", 5 + 30),
        (True, True, True, "scale offset panel sensitivity", 5 + 30 + 4 + 75),
        (False, False, True, "scale offset panel sensitivity", 9 * 7 + 4 + 75),
        (False, True, True, "offset sensitivity", 30 + 75),
        (False, True, True, "scale", 9),
    ],
)
def test_gradient_agrees_with_finite_differences(make_truth, of_b, of_c, of_a, names, n_parameters):
    scaler, restraints = make_problem(make_truth, of_b, of_c, of_a)
    names = names.split()
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.compute_functional_gradients(scaler.data)
    set_units(scaler, target.reference, restraints, names)
    components = [manager.components for manager in scaler.data_managers]
    manager = multi_active_parameter_manager(
        target, components, [names] * len(components), active_parameter_manager
    )
    start = np.array(manager.get_param_vals())
    assert len(start) == manager.n_active_params == n_parameters

    def evaluate(x):
        manager.set_param_vals(doubles(x))
        scaler.update_for_minimisation()
        f, g = manager.compute_functional_gradients(scaler.data)
        r = manager.compute_restraints_functional_gradients(manager)
        return f + r[0], np.array(g) + np.array(r[1])

    before, analytic = evaluate(start)
    assert before == pytest.approx(
        chi2_of(scaler) * (scaler.data.size - len(scaler.data.voxel))
        + restraints.functional_gradients(scaler)[0]
    )
    numeric = np.array(
        [
            (evaluate(start + step)[0] - evaluate(start - step)[0]) / 2e-3
            for step in 1e-3 * np.eye(len(start))
        ]
    )
    np.testing.assert_allclose(analytic, numeric, rtol=2e-5, atol=2e-5 * abs(analytic).max())


def test_conventions_change_no_expectation(make_truth):
    scaler, _ = make_problem(make_truth, True, True, True)
    before = chi2_of(scaler)
    apply_conventions(scaler, np.ones(9, dtype=bool))
    assert scaler.tables.b.mean() == pytest.approx(1)
    assert np.log(scaler.tables.a[scaler.data.direction]).mean() == pytest.approx(0, abs=1e-12)
    assert chi2_of(scaler) == pytest.approx(before, rel=1e-10)


def test_restrained_means_of_a_are_those_of_the_observations(make_truth):
    scaler, _ = make_problem(make_truth, False, False, True)
    series = scaler.shared["sensitivity"]
    means = means_of_series(scaler) @ series.values()
    a = scaler.tables.a[scaler.data.direction]
    # the last rows: around each position along p_order
    near = series.weights[series.step_of_still[scaler.data.still]]
    expected = (near * a[:, None]).sum(axis=0) / near.sum(axis=0) - a.mean()
    np.testing.assert_allclose(means[-series.n_p :], expected, atol=1e-12)
    # the others: over rings, of which all observations together have their mean
    x, y = series.plane.bin_centres()
    radius = np.hypot(x, y)[scaler.data.direction % len(x)]
    ring = (radius / (1.0 / 10)).astype(int)
    of_rings = (
        np.bincount(ring, a)[np.bincount(ring) > 0] / np.bincount(ring)[np.bincount(ring) > 0]
    )
    np.testing.assert_allclose(means[: -series.n_p], of_rings - a.mean(), atol=1e-12)


def test_one_interval_is_refused():
    with pytest.raises(ValueError, match="two or more intervals"):
        OffsetSeries(flex.double(12, 0.0), 0.5, 6, np.arange(5.0))


P_ORDER = np.random.default_rng(3).permutation(40) * 2.5


def offset_of(q, t):
    """c(|q|, p_order) for t from 0 to 1; 0 at t = 0"""
    ring = np.exp(-(((q - 0.3) / 0.08) ** 2)) + 0.3
    return 250 * ring * (1 - np.cos(2 * np.pi * t * (1 + q))) * t


def sensitivity_of(x, y, t):
    """a(x, y, p_order): a shadow of absorption that turns with the crystal"""
    phi = np.arctan2(y, x)
    return np.exp(0.3 * np.hypot(x, y) / 0.4 * np.sin(2 * phi + 3 * t))


def rotation_series(
    make_truth, tmp_path, of_c=True, of_a=True, n_obs=2500, mean_counts=10.0, absent=()
):
    """Counts of stills on one crystal: b, c and a change smoothly along it.

    Returns:
        (source, b, observations)
    """
    truth = make_truth(n_stills=40, n_obs=n_obs, mean_counts=mean_counts, spread=0.0)
    rng = np.random.default_rng(11)
    t = P_ORDER / P_ORDER.max()
    b = 1 + 0.4 * np.sin(4 * t)
    b /= b.mean()
    obs = observations_of(truth.experiments, truth.columns)
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    intensity = np.array([known[tuple(v)] for v in as_numpy(truth.table["asu_voxel"])])
    signal = b[obs.still] * intensity
    if of_c:
        signal = signal + offset_of(obs.q, t[obs.still])
    if of_a:
        signal = signal * sensitivity_of(obs.x, obs.y, t[obs.still])
    counts = rng.poisson(obs.exposure * signal + obs.background).astype(float)
    truth.table["counts"] = double_column(counts)
    table = truth.table.select(flex.bool((~np.isin(obs.still, absent)).tolist()))
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")], keep=10**8)
    return source, b, obs


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def offsets_and_truth(tables, b):
    """c of the stills and what it should be, by the convention that the smallest c/b is 0"""
    bins = slice(100, 450, 5)
    q, t = tables.offset.bin_centres()[bins], P_ORDER / P_ORDER.max()
    expected = offset_of(q[None], t[:, None])
    expected -= (expected / b[:, None]).min(axis=0) * b[:, None]
    return tables.c[:, bins].ravel(), expected.ravel()


def test_offsets_and_sensitivity_of_a_rotation_series_come_back(make_truth, tmp_path):
    source, b, obs = rotation_series(make_truth, tmp_path)
    model = {"offset": True, "panel": False, "sensitivity": True, "sensitivity_parameters": 9}
    series = series_settings(6, tuple(P_ORDER), 6, 6)
    scaled = scale(source, scale_settings(model=model, series=series))
    tables = scaled.merger.tables
    # |q| to 0.5/A: 10 intervals of 0.05
    assert scaled.fit.cycles[-1]["parameters"] == 8 + 12 * 8 + 9 * 9 * 8
    assert np.std(tables.b - b) < 0.02
    c, expected = offsets_and_truth(tables, b)
    assert correlation(c, expected) > 0.97
    assert np.polyfit(expected, c, 1)[0] == pytest.approx(1, abs=0.07)
    sigma = np.mean([m.components["offset"].parameter_esds[3] for m in scaled.fit.models])
    assert 0.4 < np.std(c - expected) / sigma < 2.5
    g, _ = tables.factors(obs)
    a, expected = (
        g / tables.b[obs.still],
        sensitivity_of(obs.x, obs.y, (P_ORDER / P_ORDER.max())[obs.still]),
    )
    assert correlation(a, expected) > 0.98
    # drawn a little towards 1 by the restraints
    assert 0.85 < np.polyfit(expected, a, 1)[0] < 1.02


def test_little_data_do_better_with_few_parameters(make_truth, tmp_path):
    source, b, obs = rotation_series(make_truth, tmp_path, of_a=False, n_obs=250, mean_counts=2.0)
    model = {"offset": True, "panel": False, "sensitivity": False}
    each = scale(source, scale_settings(model=model, fit={"min_observations_per_parameter": 0}))
    series = series_settings(4, tuple(P_ORDER), offset_intervals=4)
    smooth = scale(source, scale_settings(model=model, series=series))
    rms = []
    for scaled in (each, smooth):
        c, expected = offsets_and_truth(scaled.merger.tables, b)
        rms.append(np.std(c - expected))
    assert rms[1] < 0.6 * rms[0]


def test_where_there_are_no_data_the_function_goes_on_smoothly(make_truth, tmp_path):
    t = P_ORDER / P_ORDER.max()
    absent = np.flatnonzero((t > 0.5) & (t < 0.75))
    source, b, obs = rotation_series(make_truth, tmp_path, absent=absent)
    model = {"offset": True, "panel": False, "sensitivity": True, "sensitivity_parameters": 9}
    series = series_settings(None, tuple(P_ORDER), 8, 8)
    scaled = scale(source, scale_settings(model=model, series=series))
    assert len(scaled.excluded) == len(absent) >= 9
    tables = scaled.merger.tables
    tables.b = np.ones(40)
    g, _ = tables.factors(obs)
    gap = np.isin(obs.still, absent)
    expected = sensitivity_of(obs.x, obs.y, t[obs.still])
    assert correlation(g[gap], expected[gap]) > 0.9
    assert np.std(g[gap] - expected[gap]) < 0.12
    profile = scaled.merger.prior_of_q(tables.offset.bin_centres())
    assert abs(tables.c[absent] / profile)[:, 100:450].max() < 3


def test_models_come_back_from_file_and_json(make_truth, tmp_path):
    source, b, obs = rotation_series(make_truth, tmp_path, n_obs=500)
    model = {"offset": True, "panel": False, "sensitivity": True, "sensitivity_parameters": 7}
    series = series_settings(5, tuple(P_ORDER), 4, 3)
    scaled = scale(source, scale_settings(model=model, series=series))
    scaled_experiments(scaled, 0).as_file(str(tmp_path / "scaled.expt"))
    write_report(tmp_path / "report.html", "report", report.sections(scaled))
    write_json(tmp_path / "scaled.json", report.numbers(scaled))
    back = load_experiments(tmp_path / "scaled.expt", check_format=False)
    lost = load_experiments(tmp_path / "g.expt", check_format=False)
    for experiment in lost:
        experiment.scaling_model = None
    restore_models(lost, tmp_path / "scaled.json")
    panel = np.zeros(len(obs), dtype=int)
    columns = scale_columns(scaled, 0)
    g, h = columns["inverse_scale_factor"], columns["offset"]
    for read in (back, lost):
        for still in (0, 17, 39):
            rows = obs.still == still
            model = read[still].scaling_model
            found = model_factors(model, panel[rows], obs.q[rows], obs.x[rows], obs.y[rows])
            np.testing.assert_allclose(found[0], g[rows], rtol=1e-10)
            np.testing.assert_allclose(found[1], h[rows], rtol=1e-5, atol=1e-3)
    # the functions themselves
    kept = back[17].scaling_model
    c = kept.offset_series(P_ORDER[[17, 4]]).by_still()
    lift = np.array(kept.configdict["offset_series"]["lift"])
    own = kept.components["offset"].values() + kept.components["scale"].values()[0] * lift
    np.testing.assert_allclose(c[0], own, rtol=1e-9, atol=1e-6)
    assert kept.sensitivity_series(P_ORDER[:1]) is None
    whole = back[0].scaling_model.sensitivity_series(P_ORDER[[0, 17]])
    per_still = whole.by_step()[whole.step_of_still]
    np.testing.assert_allclose(per_still[1], kept.components["sensitivity"].values(), rtol=1e-9)
    plots = kept.plot_model_components()
    image = plots["diffuse_offset_series"]["data"][0]
    row = np.argmin(abs(np.array(image["y"]) - P_ORDER[17]))
    # as for a still of scale 1
    offset = kept.components["offset"]
    curve = np.interp(image["x"], offset.bin_centres(), offset.table_weights() @ (c[0] - lift))
    assert correlation(image["z"][row], curve) > 0.99
    curve = plots["diffuse_offset"]["data"][0]
    np.testing.assert_allclose(curve["y"], offset.table_weights() @ offset.values(), rtol=1e-9)
    assert "p_order" in plots["diffuse_sensitivity"]["help"]
    text = (tmp_path / "report.html").read_text()
    for name in ("scale_offset_series", "scale_sensitivity_first", "scale_sensitivity_last"):
        assert name in text


def test_a_function_that_the_data_do_not_ask_for_is_dropped(make_truth, tmp_path):
    kept = {}
    for of_c in (False, True):
        folder = tmp_path / str(of_c)
        folder.mkdir()
        source, *_ = rotation_series(make_truth, folder, of_c=of_c, of_a=False, n_obs=500)
        model = {"offset": None, "panel": False, "sensitivity": False}
        series = series_settings(5, tuple(P_ORDER), offset_intervals=3)
        found = scale(
            source, scale_settings(model=model, series=series, fit={"free_percentage": 10})
        ).fit
        assert found.trials[-1]["components"] == ["scale", "offset"]
        kept[of_c] = found.components
        assert ("offset_series" in found.models[3].configdict) is of_c
    assert kept == {False: ["scale"], True: ["scale", "offset"]}


@pytest.mark.parametrize(
    "model, engine, series, message",
    [
        ({"offset": False}, "SimpleLBFGS", {"offset_intervals": 3}, "model.offset=False"),
        (
            {"sensitivity": False},
            "SimpleLBFGS",
            {"sensitivity_intervals": 3},
            "model.sensitivity=False",
        ),
        ({}, "LevMar", {"offset_intervals": 3}, "need fit.engine=SimpleLBFGS"),
        (
            {},
            "SimpleLBFGS",
            {"offset_intervals": 4, "p_order": (1.0, 2.0)},
            "2 numbers for 6 stills",
        ),
        # one of the six can't be scaled
        (
            {},
            "SimpleLBFGS",
            {"offset_intervals": 4},
            "6 parameters along p_order, .* have 5 different",
        ),
        (
            {},
            "SimpleLBFGS",
            {"offset_intervals": 3, "order": "image_number"},
            "Experiment 0 has no image",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_truth, tmp_path, model, engine, series, message):
    truth = make_truth(n_stills=6, n_obs=60, n_voxels=40)
    table = truth.table.select(truth.table["id"] != 4)
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")], keep=10**8)
    settings = scale_settings(model=model, series=series, fit={"engine": engine})
    with pytest.raises(ValueError, match=message):
        scale(source, settings)
