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

from dials_diffuse.scaling.model import DiffuseScalingModel
from dials_diffuse.scaling.observations import Observations, ObservationSource
from dials_diffuse.scaling.scaler import DiffuseScaler
from dials_diffuse.scaling.survey import Survey
from dials_diffuse.scaling.target import DiffuseScalingTarget

logger = logging.getLogger("dials.diffuse.scaling.fit")

COMPONENTS = ("scale", "offset", "panel", "sensitivity")


@dataclass
class FitSettings:
    """What the fit is to do; see phil/scale.py for the meaning of each value."""

    engine: str = "SimpleLBFGS"
    max_iterations: int | None = None
    n_cycles: int = 3
    max_observations: int = 2_000_000
    prior_strength: float = 2.0
    readout_noise: float = 0.0
    seed: int = 42


@dataclass
class FitResult:
    """Outcome of the fit.

    Attributes:
        models: one a still, in the input's order
        cycles: rows of the convergence table
    """

    models: list
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


def normalise_mean_scale(models: list, used: np.ndarray) -> float:
    """Make the mean of b over the used stills 1. Returns what they were divided by."""
    mean = float(
        np.mean([m.components["scale"].parameters[0] for m, u in zip(models, used) if u])
    )
    for model in models:
        scale = model.components["scale"]
        scale.set_values(scale.values() / mean)
    return mean


def fit(
    source: ObservationSource,
    survey: Survey,
    excluded: np.ndarray,
    settings: FitSettings,
) -> FitResult:
    """Refine all models.

    Raises:
        ValueError: no voxel is seen by two stills.
    """
    start = survey.still_scales()
    models = []
    for b in start:
        model = DiffuseScalingModel.create(source.grid.to_dict())
        model.components["scale"].set_values([b])
        models.append(model)
    chosen = select_for_fit(survey, excluded, settings)
    observations = collect(source, survey, chosen, excluded)
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
    result = FitResult(models)
    scaler = DiffuseScaler(
        models,
        observations,
        survey.prior(start),
        prior_strength=settings.prior_strength,
        readout_noise=settings.readout_noise,
    )
    for cycle in range(settings.n_cycles):
        scaler.update_weights()
        target = DiffuseScalingTarget(scaler)
        target.compute_functional_gradients(scaler.data)
        scaler.set_units(target.reference)
        components = [manager.components for manager in scaler.data_managers]
        manager = multi_active_parameter_manager(
            target, components, [list(COMPONENTS)] * len(components), active_parameter_manager
        )
        before = target.rmsds(None, None)[0]
        refinery = scaling_refinery(
            settings.engine, scaler, target, manager, settings.max_iterations
        )
        refinery.run()
        manager.set_param_vals(refinery.x)
        normalise_mean_scale(models, ~excluded)
        scaler.update_for_minimisation()
        result.cycles.append(
            {
                "cycle": cycle + 1,
                "parameters": manager.n_active_params,
                "steps": refinery.history.get_nrows(),
                "calls": target.n_calls,
                "rmsd_start": before,
                "rmsd_end": target.rmsds(None, None)[0],
                "reason": refinery.history.reason_for_termination,
            }
        )
    for model in models:
        model.set_scaling_model_as_scaled()
    return result
