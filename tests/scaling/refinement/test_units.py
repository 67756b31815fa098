"""Units of the free parameters."""

from __future__ import annotations

import numpy as np
from synthetic_scaling import scale_settings

import dials.algorithms.scaling.model.model  # noqa: F401

from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.scaling.observations.source import observations_of
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.units import table_curvatures


def test_curvatures_do_not_depend_on_the_order_of_rows(make_truth):
    truth = make_truth(n_stills=8, n_obs=300, n_voxels=40, offset=0.5)
    observations = observations_of(truth.experiments, truth.columns)
    model = {"offset": {"n_parameters": 6, "q_max": 0.5}}
    found = []
    for order in (
        np.arange(len(observations)),
        np.random.default_rng(0).permutation(len(observations)),
    ):
        models = [DiffuseScalingModel.create(truth.grid.to_dict(), **model) for _ in range(8)]
        weighting = scale_settings().weighting
        prior = lambda q: 600 * np.exp(-3 * q**2)  # noqa: E731
        scaler = DiffuseScaler(models, observations.select(order), prior, weighting)
        curvatures, cross = table_curvatures(scaler, scaler.data.prior)
        found.append((*curvatures, cross))
    for in_order, shuffled in zip(*found):
        np.testing.assert_allclose(shuffled, in_order, rtol=1e-9)
