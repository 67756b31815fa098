from __future__ import annotations

import pathlib
import runpy

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.absolute.integrated import compare_with_grid, merge_integrated
from dials_diffuse.absolute.wilson import Nodes
from dials_diffuse.adapters.tables import (
    double_column,
    int_column,
    miller_index_column,
)

synthetic = runpy.run_path(str(pathlib.Path(__file__).with_name("synthetic.py")))


@pytest.fixture(scope="module")
def data():
    return synthetic["SyntheticCrystal"](rows=500, n_stills=4)


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
    table = flex.reflection_table()
    table["id"] = int_column(ids)
    table["miller_index"] = miller_index_column(index)
    table["intensity.sum.value"] = double_column(truth[inverse.ravel()] * b[ids] * partiality / lp)
    table["intensity.sum.variance"] = double_column(np.full(len(index), 4.0))
    table["partiality"] = double_column(partiality)
    table["lp"] = double_column(lp)
    for i, experiment in enumerate(data.experiments):
        table.experiment_identifiers()[i] = experiment.identifier
    return table, unique, truth


def test_merged_intensity_over_partiality(data, integrated):
    table, unique, truth = integrated
    nodes, what = merge_integrated(table, data.experiments, data.grid, 0.0)
    assert what == "used"
    assert (nodes.miller_index == unique).all()
    assert nodes.intensity == pytest.approx(truth)


def test_low_partiality_is_left_out(data, integrated):
    table, _, _ = integrated
    nodes, _ = merge_integrated(table, data.experiments, data.grid, 0.5)
    kept = (np.array(table["partiality"]) >= 0.5).sum()
    assert nodes.weight.sum() == kept


def test_unit_of_the_map(data, integrated):
    table, unique, truth = integrated
    nodes, what = merge_integrated(table, data.experiments, data.grid, 0.0)
    half = np.arange(len(unique)) % 2 == 0
    in_grid = Nodes(unique[half], 0.01 * truth[half], truth[half], truth[half], nodes.q[half])
    found = compare_with_grid(nodes, in_grid, what, 0.0)
    assert found.factor == pytest.approx(0.01)
    assert found.correlation == pytest.approx(1.0)
    assert found.common == half.sum()
    assert found.nodes.intensity == pytest.approx(0.01 * truth)
    few = Nodes(*(getattr(in_grid, name)[:5] for name in ("miller_index", "intensity", "variance", "weight", "q")))
    with pytest.raises(ValueError, match="Only 5 integrated reflections"):
        compare_with_grid(nodes, few, what, 0.0)


def test_reflections_of_other_stills(data, integrated):
    table, _, _ = integrated
    for i in range(4):
        table.experiment_identifiers()[i] = f"other{i}"
    with pytest.raises(ValueError, match="None of the integrated reflections"):
        merge_integrated(table, data.experiments, data.grid, 0.0)


def test_partiality_of_ones_is_told(data, integrated):
    table, _, _ = integrated
    table["partiality"] = flex.double(table.size(), 1.0)
    assert merge_integrated(table, data.experiments, data.grid, 0.5)[1] == "all 1"
    del table["partiality"]
    assert merge_integrated(table, data.experiments, data.grid, 0.5)[1] == "absent"
