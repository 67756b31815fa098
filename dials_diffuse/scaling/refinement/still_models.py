"""The components of a fit, the parts that refine them, and the scaling models of all stills afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials.array_family import flex

from dials_diffuse.model.components import RadialOffset, ScaleSeries, Sensitivity, n_parameters_of
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.refinement.parameters import Part
from dials_diffuse.scaling.refinement.settings import ScaleSettings


def _constant(n: int, value: float) -> flex.double:
    return flex.double(int(n), value)


@dataclass
class Components:
    """Components with their smoothers; the values are in the parts of a fit.

    Attributes:
        overview, settings: of scaling
        p_order: (S,) of all stills; None without series
    """

    overview: Overview
    settings: ScaleSettings
    p_order: np.ndarray | None

    def scale_series(self) -> ScaleSeries | None:
        """b(p_order); None if each still has a b of its own"""
        intervals = self.settings.series.intervals
        if intervals is None:
            return None
        return ScaleSeries(_constant(n_parameters_of(intervals), 1.0), self.p_order)

    def offset(self) -> RadialOffset | OffsetSeries:
        """c(|q|) or c(|q|, p_order)"""
        q_max = self.overview.bins.q_max
        n = self.settings.model.offset_parameters_to(q_max)
        intervals = self.settings.series.offset_intervals
        if intervals is None:
            return RadialOffset(_constant(n, 0.0), q_max)
        return OffsetSeries(_constant(n * n_parameters_of(intervals), 0.0), q_max, n, self.p_order)

    def sensitivity(self) -> Sensitivity | SensitivitySeries:
        """a(x, y) or a(x, y, p_order)"""
        n = self.settings.model.sensitivity_parameters
        extent, shape = self.overview.bins.extent, (n, n)
        intervals = self.settings.series.sensitivity_intervals
        if intervals is None:
            return Sensitivity(_constant(n * n, 1.0), extent, shape)
        values = _constant(n * n * n_parameters_of(intervals), 1.0)
        return SensitivitySeries(values, extent, shape, self.p_order)

    def empty_tables(self) -> ScaleTables:
        """Tables of a model without effect, with the steps that a(x, y, p_order) has."""
        overview = self.overview
        tables = ScaleTables.without_model(overview.n_stills_in, overview.n_panels)
        if self.settings.series.sensitivity_intervals is None:
            return tables
        series = self.sensitivity()
        a = np.ones((len(series.steps), tables.a.shape[1]))
        return tables._replace(a=a, step=np.asarray(series.step_of_still, dtype=np.int64))


def finished_models(
    components: Components,
    parts: dict[str, Part],
    scales: np.ndarray,
    covariances: np.ndarray,
    of_detector: dict[str, np.ndarray],
    lift: np.ndarray | None,
    grid: dict,
) -> list[DiffuseScalingModel]:
    """Scaling models of all stills.

    Args:
        parts: refined
        scales: (S,) b of all stills
        covariances: (S, 1 + n, 1 + n) of b and c
        of_detector: covariances (n, n) of the parameters of d and a, by name
        lift: (n,) zero of the offsets, see offset_zero; None without offsets
        grid: plain dictionary of the grid
    """
    settings, bins = components.settings, components.overview.bins
    n_sensitivity = settings.model.sensitivity_parameters
    n_panels = components.overview.n_panels if "panel" in parts else None
    offset, sensitivity, plane = None, None, None
    if "offset" in parts:
        offset = {"n_parameters": parts["offset"].values.shape[1], "q_max": bins.q_max}
    if "sensitivity" in parts:
        sensitivity = {"extent": bins.extent, "shape": (n_sensitivity, n_sensitivity)}
        plane = _planes(components, parts["sensitivity"], of_detector["sensitivity"])
    c = _rows(parts["offset"]) - scales[:, None] * lift if "offset" in parts else None
    sigmas = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    models = []
    for still, b in enumerate(scales):
        model = DiffuseScalingModel.create(grid, offset, n_panels, sensitivity)
        model.components["scale"].set_values([b])
        if "scale" in parts:
            model.components["scale"].parameter_esds = flex.double(sigmas[still, :1].tolist())
        if c is not None:
            model.components["offset"].set_values(c[still])
            model.components["offset"].parameter_esds = flex.double(sigmas[still, 1:].tolist())
        if n_panels:
            model.components["panel"].set_values(parts["panel"].values[0])
            esds = np.sqrt(np.diagonal(of_detector["panel"]))
            model.components["panel"].parameter_esds = flex.double(esds.tolist())
        if plane is not None:
            model.components["sensitivity"] = plane[still]
        models.append(model)
    _store_series(components, parts, models)
    return models


def _rows(part: Part) -> np.ndarray:
    """(S, n): parameters of each still"""
    return part.values if part.along is None else part.along @ part.values


def _planes(components: Components, part: Part, covariance: np.ndarray) -> list[Sensitivity]:
    """a(x, y) of each still; stills of the same step share a component."""
    component = components.sensitivity()
    is_series = isinstance(component, SensitivitySeries)
    plane = component.plane if is_series else component
    along = part.along if is_series else np.ones((1, 1))
    n_along, n = part.values.shape
    blocks = covariance.reshape(n_along, n, n_along, n)
    made = []
    for weights in along:
        out = Sensitivity(_constant(n, 1.0), plane.extent, plane.shape)
        out.set_values(weights @ part.values)
        variances = np.einsum("i,j,ikjk->k", weights, weights, blocks, optimize=True)
        out.parameter_esds = flex.double(np.sqrt(np.maximum(variances, 0)).tolist())
        made.append(out)
    steps = component.step_of_still if is_series else np.zeros(len(components.overview.used), int)
    return [made[step] for step in steps]


def _store_series(components: Components, parts: dict[str, Part], models: list) -> None:
    """Store the functions of p_order that the components of the stills come from."""
    series = {"scale": components.scale_series()} if "scale" in parts else {}
    series |= {
        name: getattr(components, name)() for name in ("offset", "sensitivity") if name in parts
    }
    for name, component in series.items():
        if not isinstance(component, (ScaleSeries, OffsetSeries, SensitivitySeries)):
            continue
        component.set_values(parts[name].values.ravel())
        for number, (model, p) in enumerate(zip(models, component.p_order)):
            if name == "scale":
                model.set_series(component, p)
                continue
            stored = component.to_dict()
            if name == "sensitivity" and number:
                # a thousand numbers or more: the first model holds them
                stored = {"range": list(component.range)}
            model.keep_series(name, stored, p)
