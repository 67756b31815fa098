"""Observations put on the grid: coarser voxels, limits, stills left out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cctbx import uctbx
from dxtbx.model import Experiment, ExperimentList

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
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.coverage import VoxelAccumulator
from dials_diffuse.gridding.definition import GridDefinition, coarsening
from dials_diffuse.gridding.rows import (
    OBSERVATION_COLUMNS,
    check_observations,
    coarser_voxels,
    grid_file,
    grid_rows,
    whole_stills,
)
from dials_diffuse.io.table_file import ColumnWriter


def grid_with(subdivide, **limits):
    return VoxelGrid(
        subdivide,
        uctbx.unit_cell((40, 40, 60, 90, 90, 90)),
        laue_group_from_symbol("P 4"),
        **limits,
    )


def observations(n=500, n_stills=4, reach=9, seed=1):
    """Distinct (still, panel, voxel, bragg) rows as extraction writes them."""
    rng = np.random.default_rng(seed)
    rows = np.unique(
        np.column_stack(
            [
                rng.integers(0, n_stills, n),
                rng.integers(0, 2, n),
                rng.integers(0, 2, n),
                rng.integers(-reach, reach + 1, (n, 3)),
            ]
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


@pytest.mark.parametrize(
    "fine, coarse", [(3, 1), (5, 1), (9, 3), (9, 1), (15, 5), (15, 3), (2, 2), (6, 2)]
)
def test_coarse_voxels_are_where_the_point_would_have_gone(fine, coarse):
    """floor(h n' + 1/2) of every point of a fine voxel is the coarse voxel, its edges included"""
    factor = coarsening((fine,) * 3, (coarse,) * 3)
    assert factor.tolist() == [fine // coarse] * 3
    voxel = np.arange(-40, 41)
    # points inside of each fine voxel, at its lower end too, in whole units of 1/(200 n)
    for offset in (-100, -37, 0, 55, 99):
        direct = np.floor_divide((200 * voxel + offset) * coarse + 100 * fine, 200 * fine)
        assert np.array_equal(coarser_voxels(voxel, fine // coarse), direct)


def test_coarse_rows_are_sums_of_fine_ones():
    table, fine, coarse = observations(), grid_with((3, 3, 3)), grid_with((1, 1, 1))
    columns = as_arrays(table)
    expected = {}
    for i in range(table.size()):
        # the same by another route: the nearest node
        node = tuple(np.round(columns["voxel"][i] / 3).astype(int))
        key = (columns["id"][i], columns["panel"][i], columns["bragg"][i], node)
        expected.setdefault(key, []).append(i)
    result = grid_rows(as_arrays(table), fine, coarse)
    assert len(result["id"]) == len(expected) < table.size()
    for i in range(len(result["id"])):
        rows = expected[
            result["id"][i], result["panel"][i], result["bragg"][i], tuple(result["voxel"][i])
        ]
        for name in ("num_pixels.valid", "counts", "background", "exposure"):
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
    result = grid_rows(before, grid_with((3, 3, 3)), grid)
    assert len(result["id"]) == inside.sum()
    for name, values in before.items():
        np.testing.assert_array_equal(result[name], values[inside])
    np.testing.assert_array_equal(result["asu_voxel"], grid.to_asu(voxel[inside]))


def test_stills_left_out():
    columns, grid = as_arrays(observations()), grid_with((3, 3, 3))
    result = grid_rows(columns, grid, grid, excluded=[1, 3])
    assert set(result["id"]) == {0, 2}
    assert len(result["id"]) == np.isin(columns["id"], [0, 2]).sum()
    everything = grid_rows(columns, grid, grid, excluded=range(4))
    assert len(everything["id"]) == 0 and everything["asu_voxel"].shape == (0, 3)


@pytest.mark.parametrize("most", [1, 3, 7, 10, 100])
@pytest.mark.parametrize("ids", [[], [5], [0, 0, 0, 2, 2, 3, 3, 3, 3, 7], [3, 0, 3, 1, 0, 0, 3, 1]])
def test_stills_stay_whole(ids, most):
    ids = np.array(ids, dtype=np.int32)
    parts = [ids[rows] for rows in whole_stills(ids, most)]
    assert all(len(part) <= most or len(set(part)) == 1 for part in parts)
    assert sorted(np.concatenate([ids[:0], *parts])) == sorted(ids)
    stills = [number for part in parts for number in set(part.tolist())]
    assert len(stills) == len(set(stills))
    if most > len(ids) > 0:
        assert len(parts) == 1


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_file_in_parts_is_the_file_at_once(tmp_path, n_threads):
    table, fine, coarse = observations(), grid_with((3, 3, 3)), grid_with((1, 1, 1), d_min=12.0)
    experiments = ExperimentList([Experiment(identifier=f"still-{i}") for i in range(4)])
    table.as_file(str(tmp_path / "table.refl"))
    expected = grid_rows(as_arrays(table), fine, coarse)
    wanted = GridDefinition(coarse, fine, None, [experiments], [[]])
    sums = VoxelAccumulator()
    with ColumnWriter(tmp_path, in_memory=1000) as out:
        grid_file(
            tmp_path / "table.refl", wanted, 0, out, sums, n_threads=n_threads, rows_at_once=50
        )
        out.write(tmp_path / "gridded.refl", {i: f"still-{i}" for i in range(4)})
    result = flex.reflection_table.from_file(str(tmp_path / "gridded.refl"))
    for name, values in expected.items():
        np.testing.assert_array_equal(as_numpy(result[name]), values)
    assert dict(result.experiment_identifiers()) == {i: f"still-{i}" for i in range(4)}
    assert sums.n_obs.sum() == (~expected["bragg"]).sum()
    # ids are the places of the experiments, whatever they were in the file
    reversed_ = ExperimentList(list(experiments)[::-1])
    wanted.experiments = [reversed_]
    with ColumnWriter(tmp_path) as out:
        grid_file(tmp_path / "table.refl", wanted, 0, out, VoxelAccumulator())
        out.write(tmp_path / "gridded.refl", {i: f"still-{3 - i}" for i in range(4)})
    result = flex.reflection_table.from_file(str(tmp_path / "gridded.refl"))
    for i in range(4):
        ours, before = as_numpy(result["id"]) == 3 - i, expected["id"] == i
        np.testing.assert_array_equal(as_numpy(result["counts"])[ours], expected["counts"][before])
    wanted.experiments = [experiments[:2]]
    with pytest.raises(ValueError, match="does not match"), ColumnWriter(tmp_path) as out:
        grid_file(tmp_path / "table.refl", wanted, 0, out, sums)


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
    whole = grid_rows(as_arrays(observations()), fine, coarse)
    parts = []
    for numbers in ([0, 1], [2], [3]):
        table = observations()
        table = table.select(bool_column(np.isin(as_numpy(table["id"]), numbers)))
        parts.append(grid_rows(as_arrays(table), fine, coarse))
    for name, values in whole.items():
        joined = np.array(list(itertools.chain.from_iterable(part[name] for part in parts)))
        np.testing.assert_array_equal(joined, values)
