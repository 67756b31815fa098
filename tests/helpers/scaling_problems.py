"""Data and problems that tests of scaling share"""

from __future__ import annotations

import numpy as np
from synthetic_scaling import scale_settings

import dials.algorithms.scaling.model.model  # noqa: F401
from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.model.components import ScaleSeries
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import OffsetSeries, SensitivitySeries
from dials_diffuse.scaling.observations.source import ObservationSource, observations_of
from dials_diffuse.scaling.refinement.restraints import Restraints
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.units import set_units


def source_of(truth, folder, n_pairs=1, keep=10**8):
    """Write a truth as so many pairs of files"""
    pairs = []
    n = len(truth.experiments)
    for number in range(n_pairs):
        first, last = n * number // n_pairs, n * (number + 1) // n_pairs
        experiments = truth.experiments[first:last]
        ids = as_numpy(truth.table["id"])
        table = truth.table.select(flex.bool(((ids >= first) & (ids < last)).tolist()))
        for name in list(table.experiment_identifiers().keys()):
            del table.experiment_identifiers()[name]
        table["id"] = table["id"] - first
        for i, experiment in enumerate(experiments):
            table.experiment_identifiers()[i] = experiment.identifier
        expt, refl = folder / f"g{number}.expt", folder / f"g{number}.refl"
        experiments.as_file(str(expt))
        table.as_file(str(refl))
        pairs.append(DataPair(expt, refl))
    return ObservationSource(pairs, keep=keep)


def true_intensities(truth, voxels):
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    return np.array([known[tuple(v)] for v in unpack_voxels(voxels)])


def make_problem(make_truth, n_obs):
    truth = make_truth(n_stills=5, n_obs=n_obs, n_voxels=40, panels=(2, 2), offset=0.5)
    observations = observations_of(truth.experiments, truth.columns)
    rng = np.random.default_rng(2)
    models = []
    for b in truth.b:
        model = DiffuseScalingModel.create(
            truth.grid.to_dict(),
            offset={"n_parameters": 6, "q_max": 0.5},
            n_panels=4,
            sensitivity={"extent": (-0.5, 0.5, -0.5, 0.5), "shape": (5, 5)},
        )
        model.components["scale"].set_values([b * rng.uniform(0.8, 1.2)])
        model.components["offset"].set_values(rng.uniform(0, 100, 6))
        models.append(model)
    models[0].components["panel"].set_values(rng.uniform(0.9, 1.1, 4))
    models[0].components["sensitivity"].set_values(rng.uniform(0.9, 1.1, 25))

    def prior(q):
        return 600 * np.exp(-3 * q**2)

    scaler = DiffuseScaler(models, observations, prior, scale_settings().weighting)
    return scaler, Restraints(scaler, scale_settings().restraints, truth.b, prior)


def make_series_problem(make_truth, of_b, of_c, of_a):
    """A scaler with parameters that are not the best, and its restraints"""
    truth = make_truth(n_stills=9, n_obs=60, n_voxels=40, panels=(2, 2), offset=0.5)
    rng = np.random.default_rng(2)
    p_order = rng.permutation(9) * 1.5
    offset = OffsetSeries(doubles(rng.uniform(0, 100, 30)), 0.5, 6, p_order)
    a = SensitivitySeries(
        doubles(rng.uniform(0.9, 1.1, 25 * 3)), (-0.5, 0.5, -0.5, 0.5), (5, 5), p_order
    )
    models = []
    for b in truth.b:
        model = DiffuseScalingModel.create(
            truth.grid.to_dict(),
            offset={"n_parameters": 6, "q_max": 0.5},
            n_panels=4,
            sensitivity={"extent": (-0.5, 0.5, -0.5, 0.5), "shape": (5, 5)},
        )
        model.components["scale"].set_values([b * rng.uniform(0.8, 1.2)])
        model.components["offset"].set_values(rng.uniform(0, 100, 6))
        if of_c:
            model.components["offset"] = offset
        if of_a:
            model.components["sensitivity"] = a
        models.append(model)
    models[0].components["panel"].set_values(rng.uniform(0.9, 1.1, 4))

    def prior(q):
        return 600 * np.exp(-3 * q**2)

    series = ScaleSeries(doubles(rng.uniform(0.7, 1.3, 5)), p_order) if of_b else None
    observations = observations_of(truth.experiments, truth.columns)
    scaler = DiffuseScaler(models, observations, prior, scale_settings().weighting, series=series)
    return scaler, Restraints(scaler, scale_settings().restraints, truth.b, prior)


def doubles(values):
    return flex.double(np.asarray(values, dtype=float).tolist())


def series_settings(
    intervals=None, p_order=None, offset_intervals=None, sensitivity_intervals=None
):
    return {
        "intervals": intervals,
        "p_order": p_order,
        "offset_intervals": offset_intervals,
        "sensitivity_intervals": sensitivity_intervals,
    }


def check_gradient(scaler, restraints, names):
    """Compare the gradient by the free parameters with finite differences.

    Returns:
        (functional with restraints, number of free parameters)
    """
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.compute_functional_gradients(scaler.data)
    set_units(scaler, target.reference, restraints, names)
    components = [manager.components for manager in scaler.data_managers]
    manager = multi_active_parameter_manager(
        target, components, [names] * len(components), active_parameter_manager
    )
    start = np.array(manager.get_param_vals())

    def evaluate(x):
        manager.set_param_vals(doubles(x))
        scaler.update_for_minimisation()
        f, g = manager.compute_functional_gradients(scaler.data)
        r = manager.compute_restraints_functional_gradients(manager)
        return f + r[0], np.array(g) + np.array(r[1])

    value, analytic = evaluate(start)
    assert len(analytic) == len(start) == manager.n_active_params
    steps = 1e-3 * np.eye(len(start))
    numeric = np.array([(evaluate(start + s)[0] - evaluate(start - s)[0]) / 2e-3 for s in steps])
    np.testing.assert_allclose(analytic, numeric, rtol=2e-5, atol=2e-5 * abs(analytic).max())
    evaluate(start)
    return value, len(start)
