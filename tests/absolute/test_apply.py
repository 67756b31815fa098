from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic_crystal
import unit_cells
from synthetic_scaling import model_factors

from cctbx import crystal

from dials_diffuse.absolute.apply import (
    AbsoluteScale,
    absolute_factors,
    absolute_map,
    fold_into_models,
    incoherent_of_voxels,
)
from dials_diffuse.adapters.tables import as_numpy


@pytest.fixture(scope="module")
def inventory():
    symmetry = crystal.symmetry(synthetic_crystal.CELL, "P41212")
    return unit_cells.inventory(
        symmetry, formula=synthetic_crystal.FORMULA, copies=synthetic_crystal.COPIES
    )


@pytest.fixture
def data():
    return synthetic_crystal.SyntheticCrystal(rows=2000, n_stills=3)


@pytest.fixture
def absolute(inventory):
    return AbsoluteScale.from_inventory(5.0, 0.1, "fit", inventory, unit_cells.tables(), 0.8)


def test_table_of_incoherent_scattering(inventory, absolute):
    q = np.linspace(0.02, 0.81, 1000)
    assert absolute.incoherent_at(q) == pytest.approx(
        inventory.incoherent(q, unit_cells.tables()), rel=2e-4
    )
    again = AbsoluteScale.from_dict(json.loads(json.dumps(absolute.to_dict())))
    assert (again.incoherent_at(q) == absolute.incoherent_at(q)).all()
    assert (again.scale, again.error, again.method) == (5.0, 0.1, "fit")


def test_scale_by_hand_has_no_error(inventory):
    absolute = AbsoluteScale.from_inventory(
        2.0, float("nan"), "by hand", inventory, unit_cells.tables(), 0.5
    )
    # plain JSON has no nan
    again = AbsoluteScale.from_dict(json.loads(json.dumps(absolute.to_dict(), allow_nan=False)))
    assert np.isnan(again.error)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_scale(inventory, scale):
    with pytest.raises(ValueError, match="must be positive"):
        AbsoluteScale.from_inventory(scale, 0.1, "fit", inventory, unit_cells.tables(), 0.5)


def test_map(data, absolute):
    table = absolute_map(data.merged, data.grid, absolute)
    # the coherent part of the truth comes from xraylib's tables
    assert as_numpy(table["intensity"]) == pytest.approx(
        data.truth, rel=0.02, abs=0.005 * data.truth.max()
    )
    for name in ("variance", "variance_scatter"):
        before, after = (as_numpy(t[name]) for t in (data.merged, table))
        assert after == pytest.approx(25 * before, nan_ok=True)
    half = as_numpy(table["half_1"])
    assert (np.isnan(half) == np.isnan(as_numpy(data.merged["half_1"]))).all()
    good = ~np.isnan(half)
    assert half[good] == pytest.approx(as_numpy(table["intensity"])[good])
    total = as_numpy(table["intensity"]) + as_numpy(table["incoherent"])
    assert total / 5.0 == pytest.approx(as_numpy(data.merged["intensity"]))


def test_not_a_merged_table(data, absolute):
    with pytest.raises(ValueError, match="lacks the columns intensity, variance"):
        absolute_map(data.table, data.grid, absolute)


def test_models_reproduce_the_map_from_the_observations(data, absolute):
    """Merging with g' and h' is scale * (merging with g and h) - incoherent, to rounding."""
    table = data.table
    ids, voxel = as_numpy(table["id"]), as_numpy(table["voxel"])
    exposure = as_numpy(table["exposure"])
    observed = (as_numpy(table["counts"]) - as_numpy(table["background"])) / exposure
    incoherent = incoherent_of_voxels(voxel, data.grid, absolute)

    def merge(g, h):
        # weights of an ordinary merge: exposure g^2
        keys, inverse = np.unique(data.grid.to_asu(voxel), axis=0, return_inverse=True)
        inverse = inverse.ravel()
        top = np.bincount(inverse, exposure * g * (observed - h), len(keys))
        return keys, top / np.bincount(inverse, exposure * g**2, len(keys))

    def factors():
        g, h = np.ones(len(ids)), np.zeros(len(ids))
        for i, experiment in enumerate(data.experiments):
            model = experiment.scaling_model
            rows = ids == i
            n = int(rows.sum())
            zeros = np.zeros(n)
            own, offset = model_factors(model, np.zeros(n, dtype=int), zeros, zeros, zeros)
            offset = offset + as_numpy(table["offset"])[rows]
            g[rows], h[rows] = absolute_factors(model, own, offset, incoherent[rows])
        return g, h

    keys, relative = merge(*factors())
    expected = absolute.scale * relative - incoherent_of_voxels(keys, data.grid, absolute)
    fold_into_models(data.experiments, absolute)
    _, found = merge(*factors())
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10 * np.abs(expected).max())


def test_folding_twice(data, absolute):
    fold_into_models(data.experiments, absolute)
    with pytest.raises(ValueError, match="absolute scale already"):
        fold_into_models(data.experiments, absolute)


def test_models_survive_the_file(data, absolute, tmp_path):
    from dxtbx.model.experiment_list import ExperimentListFactory

    fold_into_models(data.experiments, absolute)
    data.experiments.as_file(tmp_path / "a.expt")
    again = ExperimentListFactory.from_json_file(str(tmp_path / "a.expt"), check_format=False)
    for before, after in zip(data.experiments, again):
        config = after.scaling_model.configdict["absolute"]
        assert AbsoluteScale.from_dict(config).scale == 5.0
        assert list(after.scaling_model.components["scale"].parameters) == list(
            before.scaling_model.components["scale"].parameters
        )


def test_no_model(data, absolute):
    data.experiments[1].scaling_model = None
    with pytest.raises(ValueError, match="Experiment 1 has no diffuse scaling model"):
        fold_into_models(data.experiments, absolute)
