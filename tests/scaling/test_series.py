"""Components that are smooth functions of p_order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scaling_problems import series_settings
from synthetic_scaling import model_factors, scale_settings

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy, double_column
from dials_diffuse.io.json_file import write_json
from dials_diffuse.io.model_copy import restore_models
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.report.html import write_report
from dials_diffuse.scaling import report
from dials_diffuse.scaling.observations.frames import directions_of_bins, positions_of
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.scale import scale
from dials_diffuse.scaling.workflow import scale_columns, scaled_experiments


def in_series(truth, place, seed=5):
    """Counts drawn anew for scales that follow a wave of p_order"""
    rng = np.random.default_rng(seed)
    b = 1 + 0.5 * np.sin(place / place.max() * 4)
    b /= b.mean()
    still = as_numpy(truth.table["id"])
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    voxel = as_numpy(truth.table["asu_voxel"])
    intensity = np.array([known[tuple(v)] for v in voxel])
    signal = as_numpy(truth.table["exposure"]) * b[still] * intensity
    counts = rng.poisson(signal + as_numpy(truth.table["background"]))
    truth.table["counts"] = double_column(counts.astype(float))
    return b


@pytest.mark.parametrize("offset", [False, True])
def test_smooth_scales_come_back_and_are_kept(make_truth, tmp_path, offset):
    truth = make_truth(n_stills=24, n_obs=400, spread=0.0)
    place = np.random.default_rng(3).permutation(24) * 0.5
    b = in_series(truth, place)
    model = {"offset": offset, "panel": False, "sensitivity": False}
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    truth.table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")])
    each = scale(source, scale_settings(model=model))
    smooth = scale(
        source, scale_settings(model=model, series={"intervals": 6, "p_order": tuple(place)})
    )
    found = smooth.merger.tables.b
    sigma = np.array([m.components["scale"].parameter_esds[0] for m in smooth.fit.models])
    error = np.std(found - b)
    assert error < 0.8 * np.std(each.merger.tables.b - b)
    assert 0.4 < np.sqrt(np.mean(((found - b) / sigma) ** 2)) < 2.5
    # back from a file: the curve passes through the scales of all stills
    for i in (0, 11):
        back = DiffuseScalingModel.from_dict(smooth.fit.models[i].to_dict())
        kept = back.configdict["series"]
        curve = back.plot_model_components()["diffuse_series"]["data"][0]
        assert kept["p_order"] == place[i]
        assert np.interp(place[i], curve["x"], curve["y"]) == pytest.approx(found[i], rel=1e-3)


@pytest.mark.parametrize("offset", [3, 8])
def test_errors_of_smooth_scales_beside_an_offset_of_each_still(make_truth, tmp_path, offset):
    """That b is known better than from each still alone leaves covariances and the zero of offsets numbers"""
    truth = make_truth(
        n_stills=30, n_obs=3000, n_voxels=100, mean_counts=50, spread=0.1, offset=offset, seed=3
    )
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    truth.table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")])
    model = {"offset": True, "panel": False, "sensitivity": False}
    scaled = scale(
        source, scale_settings(model=model, series={"intervals": 2, "p_order": tuple(range(30))})
    )
    assert np.isfinite(scaled.fit.zero.lift).all()
    assert np.isfinite(scaled.merged.intensity).all()


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
        (source, b, still, q, x and y of the observations)
    """
    truth = make_truth(n_stills=40, n_obs=n_obs, mean_counts=mean_counts, spread=0.0)
    rng = np.random.default_rng(11)
    t = P_ORDER / P_ORDER.max()
    b = 1 + 0.4 * np.sin(4 * t)
    b /= b.mean()
    columns = truth.columns
    still = columns["id"]
    q, x, y = positions_of(truth.experiments, still, columns["panel"], columns["xyzobs.px.value"])
    obs = SimpleNamespace(still=still, q=q, x=x, y=y)
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    intensity = np.array([known[tuple(v)] for v in as_numpy(truth.table["asu_voxel"])])
    signal = b[obs.still] * intensity
    if of_c:
        signal = signal + offset_of(obs.q, t[obs.still])
    if of_a:
        signal = signal * sensitivity_of(obs.x, obs.y, t[obs.still])
    counts = rng.poisson(columns["exposure"] * signal + columns["background"]).astype(float)
    truth.table["counts"] = double_column(counts)
    table = truth.table.select(flex.bool((~np.isin(obs.still, absent)).tolist()))
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")])
    return source, b, obs


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def offsets_and_truth(scaled, b):
    """c of the stills and what it should be, by the convention that the smallest c/b is 0"""
    bins = np.arange(100, 450, 5)
    q, t = scaled.overview.bins.q_of(bins), P_ORDER / P_ORDER.max()
    expected = offset_of(q[None], t[:, None])
    expected -= (expected / b[:, None]).min(axis=0) * b[:, None]
    return scaled.merger.tables.c[:, bins].ravel(), expected.ravel()


def factors_of(scaled):
    """g of all observations of the only pair"""
    return scale_columns(scaled, 0, 1)["inverse_scale_factor"]


def test_offsets_and_sensitivity_of_a_rotation_series_come_back(make_truth, tmp_path):
    source, b, obs = rotation_series(make_truth, tmp_path)
    model = {"offset": True, "panel": False, "sensitivity": True, "sensitivity_parameters": 9}
    series = series_settings(6, tuple(P_ORDER), 6, 6)
    scaled = scale(source, scale_settings(model=model, series=series))
    tables = scaled.merger.tables
    # |q| to 0.5/A: 10 intervals of 0.05
    assert scaled.fit.cycles[-1]["parameters"] == 8 + 12 * 8 + 9 * 9 * 8
    assert np.std(tables.b - b) < 0.02
    c, expected = offsets_and_truth(scaled, b)
    assert correlation(c, expected) > 0.97
    assert np.polyfit(expected, c, 1)[0] == pytest.approx(1, abs=0.07)
    sigma = np.mean([m.components["offset"].parameter_esds[3] for m in scaled.fit.models])
    assert 0.4 < np.std(c - expected) / sigma < 2.5
    a, expected = (
        factors_of(scaled) / tables.b[obs.still],
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
        c, expected = offsets_and_truth(scaled, b)
        # b f may be added to all offsets: their zero is a convention
        off = (c - expected).reshape(len(b), -1)
        zero = np.linalg.lstsq(b[:, None], off, rcond=None)[0]
        rms.append(np.std(off - b[:, None] * zero))
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
    gap = np.isin(obs.still, absent)
    direction = directions_of_bins(scaled.overview.bins, obs.x, obs.y)
    g = tables.a[tables.step[obs.still], direction]
    expected = sensitivity_of(obs.x, obs.y, t[obs.still])
    assert correlation(g[gap], expected[gap]) > 0.9
    assert np.std(g[gap] - expected[gap]) < 0.12
    bins = np.arange(100, 450)
    profile = scaled.merger.prior_of_q(scaled.overview.bins.q_of(bins))
    assert abs(tables.c[absent][:, bins] / profile).max() < 3


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
    panel = np.zeros(len(obs.q), dtype=int)
    columns = scale_columns(scaled, 0, 1)
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
    "model, series, message",
    [
        ({"offset": False}, {"offset_intervals": 3}, "model.offset=False"),
        ({"sensitivity": False}, {"sensitivity_intervals": 3}, "model.sensitivity=False"),
        ({}, {"offset_intervals": 4, "p_order": (1.0, 2.0)}, "2 numbers for 6 stills"),
        # one of the six can't be scaled
        ({}, {"offset_intervals": 4}, "6 parameters along p_order, .* have 5 different"),
        ({}, {"offset_intervals": 3, "order": "image_number"}, "Experiment 0 has no image"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_truth, tmp_path, model, series, message):
    truth = make_truth(n_stills=6, n_obs=60, n_voxels=40)
    table = truth.table.select(truth.table["id"] != 4)
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")])
    with pytest.raises(ValueError, match=message):
        scale(source, scale_settings(model=model, series=series))
