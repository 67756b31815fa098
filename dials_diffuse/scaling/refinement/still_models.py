"""Models of all stills: made for a fit, and given back what is each one's own after it."""

from __future__ import annotations

import numpy as np

from dials.array_family import flex

from dials_diffuse.model.components import RadialOffset, Sensitivity, n_parameters_of
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.observations.overview import Survey
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.order import SeriesSettings
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.settings import ModelSettings
from dials_diffuse.scaling.refinement.uncertainties import shifts_of_detector


def build_models(
    source: ObservationSource,
    survey: Survey,
    settings: ModelSettings,
    names: list[str],
    start: list | np.ndarray,
) -> list:
    """Models of all stills at the start.

    Args:
        names: components they have
        start: models whose values are taken over where they have the component, or
            scales; the rest begins at null
    """
    x0, x1, y0, y1 = survey.extent
    extent = (x0 - 1e-6, x1 + 1e-6, y0 - 1e-6, y1 + 1e-6)
    n = settings.sensitivity_parameters
    grid = source.grid.to_dict()
    models = []
    for begin in start:
        model = DiffuseScalingModel.create(
            grid,
            offset={
                "n_parameters": settings.offset_parameters_to(survey.q_max),
                "q_max": survey.q_max * (1 + 1e-6),
            }
            if "offset" in names
            else None,
            n_panels=survey.n_panels if "panel" in names else None,
            sensitivity={"extent": extent, "shape": (n, n)} if "sensitivity" in names else None,
        )
        if isinstance(begin, DiffuseScalingModel):
            for name, component in begin.components.items():
                if not isinstance(component, (OffsetSeries, SensitivitySeries)):
                    model.components[name].set_values(component.values())
        else:
            model.components["scale"].set_values([begin])
        models.append(model)
    return models


def put_series_in(
    models: list, settings: SeriesSettings, places: np.ndarray | None, start: list | np.ndarray
) -> None:
    """Exchange the offsets, and the sensitivity, for functions of p_order that all stills share.

    Args:
        models: as build_models made them; changed
        places: (S,) p_order, None to do nothing
        start: models whose values are taken over where they have the component
    """
    if places is None:
        return
    made = {}
    first = models[0].components
    if settings.offset_intervals is not None and "offset" in first:
        n = first["offset"].n_params
        values = flex.double(n * n_parameters_of(settings.offset_intervals), 0.0)
        made["offset"] = OffsetSeries(values, first["offset"].q_max, n, places)
    if settings.sensitivity_intervals is not None and "sensitivity" in first:
        of = first["sensitivity"]
        values = flex.double(of.n_params * n_parameters_of(settings.sensitivity_intervals), 1.0)
        made["sensitivity"] = SensitivitySeries(values, of.extent, of.shape, places)
    for name, component in made.items():
        if isinstance(start[0], DiffuseScalingModel) and name in start[0].components:
            component.set_values(start[0].components[name].values())
        for model in models:
            model.components[name] = component


def keep_offset_series_in(models: list, scaler: DiffuseScaler, covariances: np.ndarray) -> None:
    """The reverse, after the fit: what each still has of c(|q|, p_order) becomes its own, and the
    function is kept beside it.

    Args:
        models: changed
        covariances: (S, 1 + n, 1 + n) of b and c
    """
    series = scaler.offset_series
    if series is None:
        return
    kept = series.to_dict()
    for model, values, of, place in zip(models, series.by_still(), covariances, series.p_order):
        component = RadialOffset(flex.double(len(values), 0.0), series.q_max)
        component.set_values(values)
        component.parameter_esds = flex.double(np.sqrt(np.diagonal(of)[1:]).tolist())
        model.components["offset"] = component
        model.keep_series("offset", kept, place)


def keep_sensitivity_series_in(models: list, scaler: DiffuseScaler) -> None:
    """The same for a(x, y, p_order); stills at the same place share a component"""
    series = scaler.shared.get("sensitivity")
    if not isinstance(series, SensitivitySeries):
        return
    n = series.plane.n_params
    shifts = shifts_of_detector(scaler, "sensitivity").reshape(series.n_p, n, -1)
    made = []
    for values, weights in zip(series.of_places(), series.weights):
        component = Sensitivity(flex.double(n, 1.0), series.extent, series.shape)
        component.set_values(values)
        variances = series.variances(convention=np.tensordot(weights, shifts, axes=(0, 0)))
        component.parameter_esds = flex.double(np.sqrt(variances).tolist())
        made.append(component)
    for number, (model, place) in enumerate(zip(models, series.place)):
        model.components["sensitivity"] = made[place]
        # a thousand numbers or more: once is enough
        kept = series.to_dict() if number == 0 else {"range": list(series.range)}
        model.keep_series("sensitivity", kept, series.p_order[number])
