"""Covariances of what was refined, under the conventions that fix what the data can't tell."""

from __future__ import annotations

import numpy as np

from dials_diffuse.model.components import whitening
from dials_diffuse.scaling.refinement.restraints import Restraints, mean_over_observations
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget


def still_covariances(scaler: DiffuseScaler, restraints: Restraints) -> np.ndarray:
    """(S, 1 + n, 1 + n): covariances of b and c of each still at the present parameters, by counting statistics and by
    how well whole patches of the image follow the model"""
    target = DiffuseScalingTarget(scaler)
    target.functional_and_gradients(scaler.data)
    normal = scaler.still_normal_matrices(restraints, target.reference)
    factor = scaler.chi2_of_patches()[:, None, None]
    if scaler.offset_series is not None:
        return factor * covariances_with_offset_series(scaler, normal)
    units, _ = whitening(normal)
    # A still's own part of the means by convention: for equal stills that share voxels at random
    n_stills = len(np.unique(scaler.data.still[scaler.data.weight > 0]))
    units = units * max(1 - 1 / max(n_stills, 1), 0.5)
    return factor * np.einsum("spk,sqk->spq", units, units)


def covariances_with_offset_series(scaler: DiffuseScaler, normal: np.ndarray) -> np.ndarray:
    """The same where c is a function of p_order: b for a fixed c, and what the error of c adds"""
    out = np.empty_like(normal)
    of_c, slopes = scaler.offset_series.covariances(), scaler.slopes
    cross = np.einsum("spq,sq->sp", of_c, slopes)
    out[:, 0, 0] = 1.0 / normal[:, 0, 0] + np.einsum("sp,sp->s", cross, slopes)
    out[:, 0, 1:] = out[:, 1:, 0] = cross
    out[:, 1:, 1:] = of_c
    return out


def series_variances(scaler: DiffuseScaler) -> np.ndarray:
    """(S,): variances of b where it is a smooth function, for the convention mean b = 1"""
    b = scaler.b
    of_b = scaler.series_weights @ scaler.series.unit
    return np.sum((of_b - np.outer(b / b.mean(), of_b.mean(axis=0))) ** 2, axis=1)


def shifts_of_detector(scaler: DiffuseScaler, name: str) -> np.ndarray:
    """(n, n): shifts of the parameters of "panel" or "sensitivity" -> what is left of them by the
    convention that their mean logarithm over the observations is 0"""
    component = scaler.shared[name]
    return np.eye(component.n_params) - np.outer(
        component.values(), mean_over_observations(scaler, name)
    )
