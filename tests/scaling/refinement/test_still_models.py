"""Components of a fit, and the models of all stills after it."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import series_settings, source_of
from synthetic_scaling import scale_settings

from dials_diffuse.model.components import RadialOffset, ScaleSeries, Sensitivity
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.observations.overview import read_observations
from dials_diffuse.scaling.refinement.fit import Fitter, chosen_voxels, fit_data
from dials_diffuse.scaling.refinement.parameters import Parameters
from dials_diffuse.scaling.refinement.still_models import Components, finished_models

P_ORDER = np.array([3.0, 1.0, 0.0, 7.0, 4.0])


@pytest.fixture
def overview(make_truth, tmp_path):
    source = source_of(make_truth(n_stills=5, n_obs=200, n_voxels=60, panels=(2, 1)), tmp_path)
    return read_observations(source, 0.0, 10**8)


def components_of(overview, *intervals):
    intervals = intervals or (None, None, None)
    b, c, a = intervals
    settings = scale_settings(series=series_settings(b, None, c, a))
    return Components(overview, settings, None if intervals == 3 * (None,) else P_ORDER)


def test_components_are_functions_of_p_order_if_so_set(overview):
    each = components_of(overview)
    assert each.scale_series() is None
    assert type(each.offset()) is RadialOffset and type(each.sensitivity()) is Sensitivity
    assert each.offset().q_max == overview.bins.q_max
    assert each.sensitivity().extent == overview.bins.extent
    smooth = components_of(overview, 2, 3, 2)
    for component, kind in (
        (smooth.scale_series(), ScaleSeries),
        (smooth.offset(), OffsetSeries),
        (smooth.sensitivity(), SensitivitySeries),
    ):
        assert type(component) is kind
        np.testing.assert_array_equal(component.p_order, P_ORDER)


def test_empty_tables_have_the_steps_of_a(overview):
    tables = components_of(overview).empty_tables()
    assert len(tables.a) == 1 and tables.step.tolist() == 5 * [0]
    tables = components_of(overview, None, None, 2).empty_tables()
    assert len(tables.a) == 5 and (tables.a == 1).all()
    assert sorted(tables.step.tolist()) == [0, 1, 2, 3, 4]
    assert np.argsort(tables.step).tolist() == np.argsort(P_ORDER).tolist()


@pytest.mark.parametrize("intervals", [(None, None, None), (2, 3, 2)])
def test_models_hold_what_was_refined(overview, intervals):
    components = components_of(overview, *intervals)
    start = overview.still_scales()
    prior = overview.prior(start)
    data = fit_data(overview, chosen_voxels(overview, 10**8), prior)
    fitter = Fitter(components, data, start, prior)
    rng = np.random.default_rng(0)
    parts = {name: fitter.part(name) for name in ("scale", "offset", "panel", "sensitivity")}
    for part in parts.values():
        part.values = part.values + rng.uniform(0, 0.3, part.values.shape)
    tables = Parameters(list(parts.values()), fitter.tables).tables()
    n = parts["offset"].values.shape[1]
    covariances = np.tile(np.diag(np.arange(1.0, n + 2) ** 2), (5, 1, 1))
    sizes = {name: parts[name].values.size for name in ("panel", "sensitivity")}
    of_detector = {name: 0.04 * np.eye(size) for name, size in sizes.items()}
    lift = rng.uniform(0, 1, n)
    models = finished_models(components, parts, tables.b, covariances, of_detector, lift, {})
    found = ScaleTables.of_models(models, 2)
    for name in ("b", "d"):
        np.testing.assert_allclose(getattr(found, name), getattr(tables, name))
    rows = found.a[found.step]
    np.testing.assert_allclose(rows, tables.a[tables.step], rtol=1e-10)
    # c after the zero of the offsets
    weights = components_of(overview).offset().table_weights()
    expected = tables.c[:, :-1] - tables.b[:, None] * (weights @ lift)
    np.testing.assert_allclose(found.c[:, :-1], expected, rtol=1e-10, atol=1e-10)
    of_third = models[3].components
    assert list(of_third["scale"].parameter_esds) == [1.0]
    np.testing.assert_allclose(list(of_third["offset"].parameter_esds), np.arange(2, n + 2))
    np.testing.assert_allclose(list(of_third["panel"].parameter_esds), 0.2)
    esds = np.array(of_third["sensitivity"].parameter_esds)
    is_series = intervals[0] is not None
    assert ((0 < esds) & (esds < 0.2)).all() if is_series else (esds == pytest.approx(0.2))
    stored = set(models[3].configdict) & {"series", "offset_series", "sensitivity_series"}
    assert len(stored) == 3 * is_series
    if is_series:
        assert models[3].configdict["series"]["p_order"] == P_ORDER[3]
        np.testing.assert_allclose(
            models[3].offset_series(P_ORDER[3:4]).by_still()[0],
            np.array(of_third["offset"].values()) + tables.b[3] * lift,
        )


def test_models_without_parts_hold_the_scales_alone(overview):
    b = np.arange(1.0, 6.0)
    covariances = np.full((5, 1, 1), np.nan)
    models = finished_models(components_of(overview), {}, b, covariances, {}, None, {"d": 1})
    assert [list(m.components) for m in models] == 5 * [["scale"]]
    assert [m.components["scale"].parameters[0] for m in models] == b.tolist()
    assert not models[0].components["scale"].parameter_esds
