from __future__ import annotations

import copy

import numpy as np
import pytest
import synthetic_crystal

from cctbx import sgtbx, uctbx

from dials.array_family import flex

from dials_diffuse.absolute.integrated import ExposureTimes, compare_with_grid, merge_integrated
from dials_diffuse.absolute.wilson import Nodes
from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.adapters.tables import (
    as_numpy,
    bool_column,
    double_column,
    int_column,
    miller_index_column,
)
from dials_diffuse.grid.reindexing import note_reindexing
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid

# exposure times of the stills over their mean
TIMES = np.array([0.4, 1.6, 0.8, 1.2])


def merge(data, table, min_partiality=0.0, times=TIMES):
    return merge_integrated(
        table, "integrated.refl", data.experiments, data.grid, times, min_partiality
    )


@pytest.fixture(scope="module")
def data():
    return synthetic_crystal.SyntheticCrystal(rows=500, n_stills=4)


@pytest.fixture
def integrated(data):
    """(reflections of all stills with known |F|^2, indices and |F|^2 of the asymmetric unit)"""
    rng = np.random.default_rng(8)
    index = rng.integers(-8, 9, (4000, 3))
    index = index[(index != 0).any(axis=1)]
    asu = data.grid.to_asu(index)
    unique, inverse = np.unique(asu, axis=0, return_inverse=True)
    truth = rng.exponential(1000, len(unique))
    ids = rng.integers(0, 4, len(index))
    b = np.array([e.scaling_model.components["scale"].parameters[0] for e in data.experiments])
    partiality, lp = rng.uniform(0.05, 1, len(index)), rng.uniform(1, 2, len(index))
    exposure = TIMES[ids] * b[ids] * partiality / lp
    table = flex.reflection_table()
    table["id"] = int_column(ids)
    table["miller_index"] = miller_index_column(index)
    table["intensity.sum.value"] = double_column(truth[inverse.ravel()] * exposure)
    table["intensity.sum.variance"] = double_column(np.full(len(index), 4.0))
    table["partiality"] = double_column(partiality)
    table["lp"] = double_column(lp)
    for i, experiment in enumerate(data.experiments):
        table.experiment_identifiers()[i] = experiment.identifier
    return table, unique, truth


def test_merged_intensity_over_partiality(data, integrated):
    table, unique, truth = integrated
    nodes, what = merge(data, table)
    assert what == "used"
    assert (nodes.miller_index == unique).all()
    assert nodes.intensity == pytest.approx(truth)


def test_low_partiality_is_left_out(data, integrated):
    table, _, _ = integrated
    nodes, _ = merge(data, table, 0.5)
    kept = (np.array(table["partiality"]) >= 0.5).sum()
    assert nodes.weight.sum() == kept


def test_stills_that_were_not_scaled_are_left_out(data, integrated):
    table, _, truth = integrated
    nodes, _ = merge(data, table, times=np.where(np.arange(4) == 2, np.nan, TIMES))
    assert nodes.weight.sum() == (np.array(table["id"]) != 2).sum()


def test_exposure_times_from_the_observations(data):
    table = data.table.copy()
    ids, exposure = as_numpy(table["id"]), np.random.default_rng(4).uniform(1, 3, table.size())
    # the times of three stills are those of TIMES, under the mask and the last one's are not
    bragg = as_numpy(table["bragg"])
    table["exposure"] = double_column(np.where(bragg, 7.0, TIMES[ids]) * exposure)
    table["excluded"] = bool_column(ids == 3)
    times = ExposureTimes()
    stills = stills_of(data.experiments)
    for start in range(0, table.size(), 700):
        times.add(stills, table[start : start + 700])
    found = times.relative(data.experiments)
    assert found[:3] == pytest.approx(TIMES[:3] / TIMES[:3].mean(), rel=0.1)
    assert np.isnan(found[3])


def test_indices_of_stills_that_were_reindexed(integrated, data):
    """P3, where k,h,-l are other reflections."""
    table, _, _ = integrated
    group = laue_group_from_symbol("P 3")
    grid = VoxelGrid((2, 2, 2), uctbx.unit_cell((21, 21, 26, 90, 90, 120)), group, d_min=1.25)
    index = as_numpy(table["miller_index"])
    indices, inverse = np.unique(grid.to_asu(index), axis=0, return_inverse=True)
    truth = np.random.default_rng(5).exponential(1000, len(indices))
    table["intensity.sum.value"] = double_column(truth[inverse.ravel()])
    for name in ("partiality", "lp"):
        table[name] = double_column(np.ones(table.size()))
    swap = sgtbx.change_of_basis_op("k,h,-l")
    experiments = copy.deepcopy(data.experiments)
    for number in (1, 2):
        mine = table["id"] == number
        table["miller_index"].set_selected(
            mine, swap.inverse().apply(table["miller_index"].select(mine))
        )
        note_reindexing(experiments[number], swap)
    for experiment in experiments:
        experiment.scaling_model.components["scale"].parameters[0] = 1.0
    nodes, _ = merge_integrated(table, "integrated.refl", experiments, grid, np.ones(4), 0.0)
    assert (nodes.miller_index == indices).all()
    assert nodes.intensity == pytest.approx(truth)


def test_unit_of_the_map(data, integrated):
    table, unique, truth = integrated
    nodes, what = merge(data, table)
    half = np.arange(len(unique)) % 2 == 0
    in_grid = Nodes(unique[half], 0.01 * truth[half], truth[half], truth[half], nodes.q[half])
    found = compare_with_grid(nodes, in_grid, what, 0.0)
    assert found.factor == pytest.approx(0.01)
    assert found.correlation == pytest.approx(1.0)
    assert found.common == half.sum()
    assert found.nodes.intensity == pytest.approx(0.01 * truth)
    few = Nodes(
        *(
            getattr(in_grid, name)[:5]
            for name in ("miller_index", "intensity", "variance", "weight", "q")
        )
    )
    with pytest.raises(ValueError, match="Only 5 integrated reflections"):
        compare_with_grid(nodes, few, what, 0.0)


def test_reflections_of_other_stills(data, integrated):
    table, _, _ = integrated
    for i in range(4):
        table.experiment_identifiers()[i] = f"other{i}"
    with pytest.raises(ValueError, match="does not match the experiments"):
        merge(data, table)


def test_partiality_of_ones_is_reported(data, integrated):
    table, _, _ = integrated
    table["partiality"] = flex.double(table.size(), 1.0)
    assert merge(data, table, 0.5)[1] == "all 1"
    del table["partiality"]
    assert merge(data, table, 0.5)[1] == "absent"


def test_centring_counts(data, integrated):
    """A body-centred cell: half of the reflections are left, and their mean is twice that of all nodes."""
    table, _, _ = integrated
    experiments = copy.deepcopy(data.experiments)
    for experiment in experiments:
        experiment.crystal.set_space_group(sgtbx.space_group_info("I 4").group())
    nodes, _ = merge_integrated(table, "x", experiments, data.grid, TIMES, 0.0)
    assert nodes.lattice_points == 2
    assert (nodes.miller_index.sum(axis=1) % 2 == 0).all() and len(nodes.q) > 50
    assert merge(data, table)[0].lattice_points == 1
