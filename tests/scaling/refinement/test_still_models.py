"""Models of all stills at the start of a fit."""

from __future__ import annotations

import numpy as np
from scaling_problems import series_settings, source_of
from synthetic_scaling import scale_settings

from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.observations.overview import read_overview
from dials_diffuse.scaling.refinement.still_models import build_models, put_series_in


def test_models_start_from_scales_and_from_models(make_truth, tmp_path):
    source = source_of(make_truth(n_stills=5, n_obs=100, panels=(2, 1)), tmp_path)
    overview = read_overview(source)
    settings = scale_settings(series=series_settings(None, None, 3, 2))
    first = build_models(source, overview, settings.model, ["scale", "offset"], np.arange(5) + 1.0)
    assert [m.components["scale"].values()[0] for m in first] == [1, 2, 3, 4, 5]
    assert all(set(m.components) == {"scale", "offset"} for m in first)
    first[2].components["offset"].set_values(first[2].components["offset"].values() + 7)

    names = ["scale", "offset", "panel", "sensitivity"]
    second = build_models(source, overview, settings.model, names, first)
    assert second[3].components["scale"].values()[0] == 4
    assert (second[2].components["offset"].values() == 7).all()
    assert second[0].components["panel"].values().tolist() == [1, 1]

    put_series_in(second, settings.series, None, first)
    assert not isinstance(second[0].components["offset"], OffsetSeries)
    put_series_in(second, settings.series, np.arange(5.0), np.ones(5))
    for name, kind in (("offset", OffsetSeries), ("sensitivity", SensitivitySeries)):
        series = second[0].components[name]
        assert isinstance(series, kind) and all(m.components[name] is series for m in second)
