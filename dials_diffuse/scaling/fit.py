"""Refinement of the scaling models with DIALS's parameter manager and refinery."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.algorithms.scaling.scaling_refiner import scaling_refinery
from dials.array_family import flex

from dials_diffuse.scaling.model import DiffuseScalingModel
from dials_diffuse.scaling.observations import Observations, ObservationSource
from dials_diffuse.scaling.restraints import (
    Restraints,
    RestraintSettings,
    apply_conventions,
    lift_offsets,
)
from dials_diffuse.scaling.scaler import DiffuseScaler
from dials_diffuse.scaling.survey import Survey
from dials_diffuse.scaling.target import DiffuseScalingTarget

logger = logging.getLogger("dials.diffuse.scaling.fit")

COMPONENTS = ("scale", "offset", "panel", "sensitivity")


@dataclass(frozen=True)
class ModelSettings:
    """Components of the model; see phil/scale.py.

    Attributes:
        scale, offset, panel, sensitivity: refine them or not
        offset_parameters: of c over |q|
        sensitivity_parameters: of a along x and along y
    """

    scale: bool = True
    offset: bool = False
    panel: bool = False
    sensitivity: bool = False
    offset_parameters: int = 8
    sensitivity_parameters: int = 7


@dataclass(frozen=True)
class FitSettings:
    """What the fit is to do; see phil/scale.py for the meaning of each value."""

    model: ModelSettings = ModelSettings()
    restraints: RestraintSettings = RestraintSettings()
    engine: str = "SimpleLBFGS"
    max_iterations: int | None = None
    n_cycles: int = 6
    max_observations: int = 2_000_000
    min_observations_per_parameter: float = 5.0
    free_percentage: float = 5.0
    outlier_cutoff: float | None = 6.0
    prior_strength: float = 2.0
    readout_noise: float = 0.0
    seed: int = 42


@dataclass
class FitResult:
    """Outcome of the fit.

    Attributes:
        models: one a still, in the input's order
        components: names of the refined ones
        cycles: rows of the convergence table
    """

    models: list
    components: list[str]
    n_observations: int
    n_voxels: int
    cycles: list[dict] = field(default_factory=list)


def select_for_fit(survey: Survey, excluded: np.ndarray, settings: FitSettings) -> np.ndarray:
    """(V,) bool: voxels of the fit: seen by several stills, and a quasi-random choice of these
    when there are more observations than needed.

    The golden ratio's multiples modulo one are spread evenly over any run of voxels, so over
    reciprocal space too (voxels are sorted by index).
    """
    shared = survey.n_stills > 1
    total = survey.n_obs[shared].sum()
    if total <= settings.max_observations:
        return shared
    position = np.arange(len(shared)) * 0.6180339887498949 % 1.0
    return shared & (position < settings.max_observations / total)


def collect(
    source: ObservationSource, survey: Survey, chosen: np.ndarray, excluded: np.ndarray
) -> Observations:
    """The usable observations of the chosen voxels from all pairs"""
    parts = []
    for obs, index in source.indexed(survey.voxels):
        keep = obs.usable & (index >= 0) & ~excluded[obs.still]
        keep[keep] = chosen[index[keep]]
        parts.append(obs.select(keep))
    return Observations.concatenate(parts)


def build_models(source: ObservationSource, survey: Survey, settings: ModelSettings) -> list:
    """Models of all stills at the start: scales from radial profiles, the rest null."""
    margin = 1 + 1e-6
    x0, x1, y0, y1 = survey.extent
    extent = (x0 - 1e-6, x1 + 1e-6, y0 - 1e-6, y1 + 1e-6)
    n = settings.sensitivity_parameters
    models = []
    for b in survey.still_scales():
        model = DiffuseScalingModel.create(
            source.grid.to_dict(),
            offset={"n_parameters": settings.offset_parameters, "q_max": survey.q_max * margin}
            if settings.offset
            else None,
            n_panels=survey.n_panels if settings.panel else None,
            sensitivity={"extent": extent, "shape": (n, n)} if settings.sensitivity else None,
        )
        model.components["scale"].set_values([b])
        models.append(model)
    return models


def refine_cycle(scaler, restraints, names: list[str], settings: FitSettings) -> dict:
    """One refinement of the named components by DIALS. Returns a row of the convergence table."""
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.compute_functional_gradients(scaler.data)
    scaler.set_units(target.reference)
    components = [manager.components for manager in scaler.data_managers]
    manager = multi_active_parameter_manager(
        target, components, [names] * len(components), active_parameter_manager
    )
    before = target.rmsds(None, None)[0]
    refinery = scaling_refinery(settings.engine, scaler, target, manager, settings.max_iterations)
    refinery.run()
    manager.set_param_vals(refinery.x)
    scaler.update_for_minimisation()
    target.compute_functional_gradients(scaler.data)
    return {
        "components": list(names),
        "parameters": manager.n_active_params,
        "steps": refinery.history.get_nrows(),
        "calls": target.n_calls,
        "rmsd_start": before,
        "rmsd_end": target.rmsds(None, None)[0],
        "reason": refinery.history.reason_for_termination,
    }


def fit(
    source: ObservationSource,
    survey: Survey,
    excluded: np.ndarray,
    settings: FitSettings,
) -> FitResult:
    """Refine all models.

    First the scales alone, then everything; after each cycle the expected variances and
    the outliers are found anew, until nothing moves any more.

    Raises:
        ValueError: no voxel is seen by two stills.
    """
    models = build_models(source, survey, settings.model)
    start = np.array([m.components["scale"].parameters[0] for m in models])
    prior = survey.prior(start)
    chosen = select_for_fit(survey, excluded, settings)
    free = np.zeros(len(chosen), dtype=bool)
    observations = collect(source, survey, chosen & ~free, excluded)
    if not len(observations):
        raise ValueError(
            "No voxel is seen by two stills: there is nothing that could relate their scales "
            "(coarser voxels, subdivide=1,1,1, may help)"
        )
    logger.info(
        "Fit on %d observations of %d voxels seen by two or more stills",
        len(observations),
        np.count_nonzero(chosen),
    )
    scaler = DiffuseScaler(
        models,
        observations,
        prior,
        prior_strength=settings.prior_strength,
        readout_noise=settings.readout_noise,
    )
    restraints = Restraints(scaler, settings.restraints, start, prior)
    names = [n for n in COMPONENTS if getattr(settings.model, n)]
    result = FitResult(models, names, scaler.data.size, len(scaler.data.voxel))
    order = [["scale"], names] if "scale" in names and len(names) > 1 else [names]
    used = ~excluded
    last = None
    for cycle in range(settings.n_cycles):
        if not names:
            break
        scaler.accept_all()
        n_rejected = 0
        if settings.outlier_cutoff:
            n_rejected = scaler.reject_outliers(settings.outlier_cutoff)
            scaler.update_weights()
            n_rejected += scaler.reject_outliers(settings.outlier_cutoff)
        active = order[min(cycle, len(order) - 1)]
        row = refine_cycle(scaler, restraints, active, settings)
        apply_conventions(scaler, used)
        b = scaler.b[used]
        row.update(cycle=cycle + 1, outliers=n_rejected)
        row["shift"] = float(np.max(abs(b / last - 1))) if last is not None else None
        result.cycles.append(row)
        if cycle >= len(order) and row["shift"] < shift_tolerance(scaler):
            break
        last = b
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.compute_functional_gradients(scaler.data)
    covariances = scaler.still_covariances(restraints, target.reference)
    for model, covariance in zip(models, covariances):
        sigmas = np.sqrt(np.diagonal(covariance))
        if "scale" in names:
            model.components["scale"].parameter_esds = flex.double(sigmas[:1].tolist())
        if "offset" in names:
            model.components["offset"].parameter_esds = flex.double(sigmas[1:].tolist())
    if "offset" in names:
        lift_offsets(scaler, used, covariances)
    for model in models:
        model.set_scaling_model_as_scaled()
    return result


def shift_tolerance(scaler) -> float:
    """Largest relative shift of b at which the cycles end: a tenth of a typical e.s.d."""
    of_b = scaler.curvatures()[0]
    relative = 1.0 / (scaler.b * np.sqrt(np.maximum(of_b, 1e-300)))
    return float(0.1 * np.median(relative))
