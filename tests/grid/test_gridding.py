"""Observations put on the grid: coarser voxels, limits, stills left out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cctbx import uctbx

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    as_numpy,
    bool_column,
    double_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.grid.gridding import (
    OBSERVATION_COLUMNS,
    check_observations,
    coarsening,
    coarser_voxels,
    grid_table,
)
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid


def grid_with(subdivide, **limits):
    return VoxelGrid(
        subdivide, uctbx.unit_cell((40, 40, 60, 90, 90, 90)), laue_group_from_symbol("P 4"), **limits
    )


def observations(n=500, n_stills=4, reach=9, seed=1):
    """Distinct (still, panel, voxel, bragg) rows as extraction writes them."""
    rng = np.random.default_rng(seed)
    rows = np.unique(
        np.column_stack(
            [rng.integers(0, n_stills, n), rng.integers(0, 2, n), rng.integers(0, 2, n), rng.integers(-reach, reach + 1, (n, 3))]
        ),
        axis=0,
    )
    n = len(rows)
    table = flex.reflection_table()
    table["id"] = int_column(rows[:, 0])
    table["panel"] = size_t_column(rows[:, 1])
    table["bragg"] = bool_column(rows[:, 2] == 1)
    table["voxel"] = miller_index_column(rows[:, 3:])
    table["xyzobs.px.value"] = vec3_column(rng.uniform(0, 100, (n, 3)))
    table["num_pixels.valid"] = int_column(rng.integers(1, 60, n))
    table["counts"] = double_column(rng.poisson(30, n))
    table["background"] = double_column(rng.uniform(0, 5, n))
    table["background.variance"] = double_column(rng.uniform(0, 1, n))
    table["exposure"] = double_column(rng.uniform(0.1, 1, n))
    for number in range(n_stills):
        table.experiment_identifiers()[number] = f"still-{number}"
    return table


def as_arrays(table):
    return {name: as_numpy(table[name]) for name in OBSERVATION_COLUMNS}


@pytest.mark.parametrize("fine, coarse", [(3, 1), (5, 1), (9, 3), (9, 1), (15, 5), (15, 3), (2, 2), (6, 2)])
def test_coarse_voxels_are_where_the_point_would_have_gone(fine, coarse):
    """floor(h n' + 1/2) of every point of a fine voxel is the coarse voxel, its edges included"""
    factor = coarsening((fine,) * 3, (coarse,) * 3)
    assert factor.tolist() == [fine // coarse] * 3
    voxel = np.arange(-40, 41)
    # points inside of each fine voxel, at its lower end too, in whole units of 1/(200 n)
    for offset in (-100, -37, 0, 55, 99):
        direct = np.floor_divide((200 * voxel + offset) * coarse + 100 * fine, 200 * fine)
        assert np.array_equal(coarser_voxels(voxel, fine // coarse), direct)


def test_subdivisions_that_can_not_be_had():
    for extracted, wanted in (((3, 3, 3), (2, 2, 2)), ((4, 4, 4), (2, 2, 2)), ((3, 3, 3), (6, 6, 6)), ((6, 6, 3), (3, 3, 3))):
        with pytest.raises(ValueError, match="can't be made of the extracted"):
            coarsening(extracted, wanted)
    with pytest.raises(ValueError, match="a: 15 or 5 or 3 or 1, b: 6 or 2, c: 1"):
        coarsening((15, 6, 1), (15, 6, 2))


def test_coarse_rows_are_sums_of_fine_ones():
    table, fine, coarse = observations(), grid_with((3, 3, 3)), grid_with((1, 1, 1))
    columns = as_arrays(table)
    expected = {}
    for i in range(table.size()):
        # the same by another route: the nearest node
        node = tuple(np.round(columns["voxel"][i] / 3).astype(int))
        key = (columns["id"][i], columns["panel"][i], columns["bragg"][i], node)
        expected.setdefault(key, []).append(i)
    result = as_arrays(grid_table(table, fine, coarse))
    assert len(result["id"]) == len(expected) < table.size()
    for i in range(len(result["id"])):
        rows = expected[
            result["id"][i], result["panel"][i], result["bragg"][i], tuple(result["voxel"][i])
        ]
        for name in ("num_pixels.valid", "counts", "background", "background.variance", "exposure"):
            assert result[name][i] == pytest.approx(columns[name][rows].sum())
        assert result["xyzobs.px.value"][i] == pytest.approx(
            np.average(columns["xyzobs.px.value"][rows], axis=0, weights=columns["exposure"][rows])
        )


def test_asymmetric_unit_and_limits():
    table, grid = observations(), grid_with((3, 3, 3), d_min=16.0, d_max=60.0)
    voxel = as_numpy(table["voxel"])
    d = grid.d_of_voxel(voxel)
    inside = (d >= 16.0) & (d <= 60.0)
    assert 0 < inside.sum() < len(d)
    before = as_arrays(table)
    result = grid_table(table, grid_with((3, 3, 3)), grid)
    assert result.size() == inside.sum()
    for name, values in as_arrays(result).items():
        np.testing.assert_array_equal(values, before[name][inside])
    np.testing.assert_array_equal(as_numpy(result["asu_voxel"]), grid.to_asu(voxel[inside]))


def test_stills_left_out_keep_their_identifier():
    table, grid = observations(), grid_with((3, 3, 3))
    ids = as_numpy(table["id"]).copy()
    result = grid_table(table, grid, grid, excluded=[1, 3])
    assert set(as_numpy(result["id"])) == {0, 2}
    assert result.size() == np.isin(ids, [0, 2]).sum()
    assert dict(result.experiment_identifiers()) == {i: f"still-{i}" for i in range(4)}
    everything = grid_table(observations(), grid, grid, excluded=range(4))
    assert everything.size() == 0 and "asu_voxel" in everything


def test_tables_of_other_steps_are_refused():
    for name in OBSERVATION_COLUMNS:
        table = observations(20)
        check_observations(table, "x.refl")
        del table[name]
        with pytest.raises(ValueError, match=f"x.refl.*column {name} is missing"):
            check_observations(table, "x.refl")


def test_split_in_files_changes_nothing():
    """The rows of stills gridded apart are those of all together."""
    fine, coarse = grid_with((3, 3, 3)), grid_with((1, 1, 1))
    whole = as_arrays(grid_table(observations(), fine, coarse))
    parts = []
    for numbers in ([0, 1], [2], [3]):
        table = observations()
        table = table.select(bool_column(np.isin(as_numpy(table["id"]), numbers)))
        parts.append(as_arrays(grid_table(table, fine, coarse)))
    for name, values in whole.items():
        joined = np.array(list(itertools.chain.from_iterable(part[name] for part in parts)))
        np.testing.assert_array_equal(joined, values)
