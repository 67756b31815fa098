"""Covariances of scales and offsets."""

from __future__ import annotations

import numpy as np

from dials_diffuse.scaling.refinement.restraints import mean_over_observations
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.uncertainties import shifts_of_detector, still_covariances
from dials_diffuse.scaling.refinement.units import still_normal_matrices


def test_covariances_are_the_inverse_normal_matrices(problem):
    scaler, restraints = problem
    target = DiffuseScalingTarget(scaler)
    target.functional_and_gradients(scaler.data)
    normal = still_normal_matrices(scaler, restraints, target.reference)
    # the mean of five equal stills contains a fifth of each
    expected = 0.8**2 * np.linalg.inv(normal)
    scale = np.sqrt(np.einsum("si,sj->sij", *2 * (np.diagonal(expected, axis1=1, axis2=2),)))
    found = still_covariances(scaler, restraints)
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-9)


def test_shifts_of_the_detector_keep_its_mean_logarithm(problem):
    scaler, _ = problem
    for name in ("panel", "sensitivity"):
        component = scaler.shared[name]
        component.set_values(
            component.values() / (mean_over_observations(scaler, name) @ component.values())
        )
        shifts = shifts_of_detector(scaler, name)
        np.testing.assert_allclose(shifts @ shifts, shifts, atol=1e-12)
        # a common factor is what the convention takes away
        np.testing.assert_allclose(shifts @ component.values(), 0, atol=1e-12)
