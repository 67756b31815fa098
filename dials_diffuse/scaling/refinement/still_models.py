"""Scaling models of all stills: made for a fit, and completed after it."""

from __future__ import annotations

import numpy as np

from dials.array_family import flex

from dials_diffuse.model.components import RadialOffset, Sensitivity, n_parameters_of
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.settings import ModelSettings, SeriesSettings
from dials_diffuse.scaling.refinement.uncertainties import shifts_of_detector


def build_models(
    source: ObservationSource,
    overview: Overview,
    settings: ModelSettings,
    names: list[str],
    start: list | np.ndarray,
) -> list:
    """Models of all stills to start a fit from.

    Args:
        names: components they have
        start: models whose values are taken over for the components they have, or scales (S,);
            all else starts at null values
    """
    x0, x1, y0, y1 = overview.extent
    extent = (x0 - 1e-6, x1 + 1e-6, y0 - 1e-6, y1 + 1e-6)
    n = settings.sensitivity_parameters
    grid = source.grid.to_dict()
    models = []
    for begin in start:
        model = DiffuseScalingModel.create(
            grid,
            offset={
                "n_parameters": settings.offset_parameters_to(overview.q_max),
                "q_max": overview.q_max * (1 + 1e-6),
            }
            if "offset" in names
            else None,
            n_panels=overview.n_panels if "panel" in names else None,
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
    models: list, settings: SeriesSettings, p_order: np.ndarray | None, start: list | np.ndarray
) -> None:
    """Replace offsets and sensitivity by functions of p_order that all stills share, if so set.

    Args:
        models: of build_models; changed in place
        p_order: (S,), None to do nothing
        start: models whose values are taken over for the components they have
    """
    if p_order is None:
        return
    made = {}
    first = models[0].components
    if settings.offset_intervals is not None and "offset" in first:
        n = first["offset"].n_params
        values = flex.double(n * n_parameters_of(settings.offset_intervals), 0.0)
        made["offset"] = OffsetSeries(values, first["offset"].q_max, n, p_order)
    if settings.sensitivity_intervals is not None and "sensitivity" in first:
        plane = first["sensitivity"]
        values = flex.double(plane.n_params * n_parameters_of(settings.sensitivity_intervals), 1.0)
        made["sensitivity"] = SensitivitySeries(values, plane.extent, plane.shape, p_order)
    for name, component in made.items():
        if isinstance(start[0], DiffuseScalingModel) and name in start[0].components:
            component.set_values(start[0].components[name].values())
        for model in models:
            model.components[name] = component


def split_offset_series(models: list, scaler: DiffuseScaler, covariances: np.ndarray) -> None:
    """After the fit, give each still c(|q|) at its p_order, and store c(|q|, p_order) beside it.

    Args:
        models: changed in place
        covariances: (S, 1 + n, 1 + n) of b and c
    """
    series = scaler.offset_series
    if series is None:
        return
    stored = series.to_dict()
    for model, values, covariance, p in zip(models, series.by_still(), covariances, series.p_order):
        component = RadialOffset(flex.double(len(values), 0.0), series.q_max)
        component.set_values(values)
        component.parameter_esds = flex.double(np.sqrt(np.diagonal(covariance)[1:]).tolist())
        model.components["offset"] = component
        model.keep_series("offset", stored, p)


def split_sensitivity_series(models: list, scaler: DiffuseScaler) -> None:
    """The same for a(x, y, p_order); stills of the same step share a component."""
    series = scaler.shared.get("sensitivity")
    if not isinstance(series, SensitivitySeries):
        return
    n = series.plane.n_params
    shifts = shifts_of_detector(scaler, "sensitivity").reshape(series.n_p, n, -1)
    by_step = []
    for values, weights in zip(series.by_step(), series.weights):
        component = Sensitivity(flex.double(n, 1.0), series.extent, series.shape)
        component.set_values(values)
        variances = series.variances(convention=np.tensordot(weights, shifts, axes=(0, 0)))
        component.parameter_esds = flex.double(np.sqrt(variances).tolist())
        by_step.append(component)
    for number, (model, step) in enumerate(zip(models, series.step_of_still)):
        model.components["sensitivity"] = by_step[step]
        # a thousand numbers or more: the first model holds them
        stored = series.to_dict() if number == 0 else {"range": list(series.range)}
        model.keep_series("sensitivity", stored, series.p_order[number])
