"""b as a smooth function of p_order"""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_scaling import scale_settings

from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.array_family import flex

from dials_diffuse.adapters.experiments import DataPair
from dials_diffuse.adapters.tables import as_numpy, double_column
from dials_diffuse.model.components import ScaleSeries
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.scaling.observations.source import ObservationSource, observations_of
from dials_diffuse.scaling.refinement.restraints import Restraints
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.units import set_units
from dials_diffuse.scaling.scale import scale


def in_series(truth, place, seed=5):
    """Counts drawn anew for scales that follow a wave of p_order"""
    rng = np.random.default_rng(seed)
    b = 1 + 0.5 * np.sin(place / place.max() * 4)
    b /= b.mean()
    still = as_numpy(truth.table["id"])
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    voxel = as_numpy(truth.table["asu_voxel"])
    intensity = np.array([known[tuple(v)] for v in voxel])
    signal = as_numpy(truth.table["exposure"]) * b[still] * intensity
    counts = rng.poisson(signal + as_numpy(truth.table["background"]))
    truth.table["counts"] = double_column(counts.astype(float))
    return b


@pytest.mark.parametrize("offset", [False, True])
def test_smooth_scales_come_back_and_are_kept(make_truth, tmp_path, offset):
    truth = make_truth(n_stills=24, n_obs=400, spread=0.0)
    place = np.random.default_rng(3).permutation(24) * 0.5
    b = in_series(truth, place)
    model = {"offset": offset, "panel": False, "sensitivity": False}
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    truth.table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")], keep=10**8)
    each = scale(source, scale_settings(model=model))
    smooth = scale(
        source, scale_settings(model=model, series={"intervals": 6, "p_order": tuple(place)})
    )
    found = smooth.merger.tables.b
    sigma = np.array([m.components["scale"].parameter_esds[0] for m in smooth.fit.models])
    error = np.std(found - b)
    assert error < 0.8 * np.std(each.merger.tables.b - b)
    assert 0.4 < np.sqrt(np.mean(((found - b) / sigma) ** 2)) < 2.5
    # back from a file: the curve passes through the scales of all stills
    for i in (0, 11):
        back = DiffuseScalingModel.from_dict(smooth.fit.models[i].to_dict())
        kept = back.configdict["series"]
        curve = back.plot_model_components()["diffuse_series"]["data"][0]
        assert kept["p_order"] == place[i]
        assert np.interp(place[i], curve["x"], curve["y"]) == pytest.approx(found[i], rel=1e-3)


@pytest.mark.parametrize("offset", [3, 8])
def test_errors_of_smooth_scales_beside_an_offset_of_each_still(make_truth, tmp_path, offset):
    """That b is known better than from each still alone leaves covariances and the zero of offsets numbers"""
    truth = make_truth(
        n_stills=30, n_obs=3000, n_voxels=100, mean_counts=50, spread=0.1, offset=offset, seed=3
    )
    truth.experiments.as_file(str(tmp_path / "g.expt"))
    truth.table.as_file(str(tmp_path / "g.refl"))
    source = ObservationSource([DataPair(tmp_path / "g.expt", tmp_path / "g.refl")], keep=10**8)
    model = {"offset": True, "panel": False, "sensitivity": False}
    scaled = scale(
        source, scale_settings(model=model, series={"intervals": 2, "p_order": tuple(range(30))})
    )
    assert np.isfinite(scaled.fit.lift).all()
    assert np.isfinite(scaled.merged.intensity).all()


def test_gradient_agrees_with_finite_differences(make_truth):
    truth = make_truth(n_stills=9, n_obs=60, n_voxels=40, panels=(2, 2), offset=0.5)
    rng = np.random.default_rng(2)
    models = []
    for _ in range(9):
        model = DiffuseScalingModel.create(
            truth.grid.to_dict(), offset={"n_parameters": 6, "q_max": 0.5}, n_panels=4
        )
        model.components["offset"].set_values(rng.uniform(0, 100, 6))
        models.append(model)

    def prior(q):
        return 600 * np.exp(-3 * q**2)

    series = ScaleSeries(flex.double(rng.uniform(0.7, 1.3, 6).tolist()), np.arange(9.0))
    observations = observations_of(truth.experiments, truth.columns)
    scaler = DiffuseScaler(models, observations, prior, scale_settings().weighting, series=series)
    restraints = Restraints(scaler, scale_settings().restraints, truth.b, prior)
    names = ["scale", "offset", "panel"]
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.compute_functional_gradients(scaler.data)
    set_units(scaler, target.reference, restraints, names)
    components = [manager.components for manager in scaler.data_managers]
    manager = multi_active_parameter_manager(
        target, components, [names] * len(components), active_parameter_manager
    )
    start = np.array(manager.get_param_vals())
    assert len(start) == manager.n_active_params == 9 * 6 + 6 + 4

    def evaluate(x):
        manager.set_param_vals(flex.double(x.tolist()))
        scaler.update_for_minimisation()
        f, g = manager.compute_functional_gradients(scaler.data)
        r = manager.compute_restraints_functional_gradients(manager)
        return f + r[0], np.array(g) + np.array(r[1])

    _, analytic = evaluate(start)
    numeric = np.array(
        [
            (evaluate(start + step)[0] - evaluate(start - step)[0]) / 2e-3
            for step in 1e-3 * np.eye(len(start))
        ]
    )
    np.testing.assert_allclose(analytic, numeric, rtol=2e-5, atol=2e-5 * abs(analytic).max())
