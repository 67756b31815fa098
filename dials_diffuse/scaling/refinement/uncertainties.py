"""Covariances of the refined parameters, under the conventions for what the data leave open."""

from __future__ import annotations

import numpy as np

from dials_diffuse.model.components import whitening
from dials_diffuse.scaling.refinement.restraints import Restraints, mean_over_observations
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.units import still_normal_matrices


def still_covariances(scaler: DiffuseScaler, restraints: Restraints) -> np.ndarray:
    """(S, 1 + n, 1 + n): covariances of b and c of each still at the present parameters.

    From counting statistics, times the chi^2 of whole patches of the image if that is larger.
    """
    target = DiffuseScalingTarget(scaler)
    target.functional_and_gradients(scaler.data)
    normal = still_normal_matrices(scaler, restraints, target.reference)
    factor = scaler.chi2_of_patches()[:, None, None]
    if scaler.offset_series is not None:
        return factor * covariances_with_offset_series(scaler, normal)
    units, _ = whitening(normal)
    # the mean of b, held by convention, contains the still itself (for stills of equal weight)
    n_stills = len(np.unique(scaler.data.still[scaler.data.weight > 0]))
    units = units * max(1 - 1 / max(n_stills, 1), 0.5)
    return factor * np.einsum("spk,sqk->spq", units, units)


def covariances_with_offset_series(scaler: DiffuseScaler, normal: np.ndarray) -> np.ndarray:
    """The same if c is a function of p_order: of b for a fixed c, plus the effect of the error of c."""
    out = np.empty_like(normal)
    covariance_c, slopes = scaler.offset_series.covariances(), scaler.slopes
    cross = np.einsum("spq,sq->sp", covariance_c, slopes)
    out[:, 0, 0] = 1.0 / normal[:, 0, 0] + np.einsum("sp,sp->s", cross, slopes)
    out[:, 0, 1:] = out[:, 1:, 0] = cross
    out[:, 1:, 1:] = covariance_c
    return out


def series_variances(scaler: DiffuseScaler) -> np.ndarray:
    """(S,): variances of b if it is a smooth function of p_order, for the convention mean b = 1."""
    b = scaler.tables.b
    root = scaler.series_weights @ scaler.series.unit
    return np.sum((root - np.outer(b / b.mean(), root.mean(axis=0))) ** 2, axis=1)


def shifts_of_detector(scaler: DiffuseScaler, name: str) -> np.ndarray:
    """(n, n): projection of shifts of "panel" or "sensitivity" on those that keep the convention.

    The convention is that the mean logarithm over the observations is 0.
    """
    component = scaler.shared[name]
    return np.eye(component.n_params) - np.outer(
        component.values(), mean_over_observations(scaler, name)
    )
