"""Sums by voxel against plain loops, completeness against cctbx."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cctbx import miller, uctbx

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    as_numpy,
    bool_column,
    double_column,
    int_column,
    miller_index_column,
)
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.coverage import VoxelAccumulator, coverage


def gridded_table(seed: int, n: int = 400, n_stills: int = 5):
    """Rows on few voxels, some under Bragg spots, some without exposure."""
    rng = np.random.default_rng(seed)
    exposure = np.where(rng.random(n) < 0.1, 0.0, rng.uniform(0.1, 2.0, n))
    table = flex.reflection_table()
    table["id"] = int_column(rng.integers(0, n_stills, n))
    table["asu_voxel"] = miller_index_column(rng.integers(-2, 3, (n, 3)))
    table["bragg"] = bool_column(rng.random(n) < 0.2)
    table["counts"] = double_column(rng.poisson(20 * exposure))
    table["background"] = double_column(rng.uniform(0, 3, n))
    table["exposure"] = double_column(exposure)
    return table


def sums_of(*tables) -> VoxelAccumulator:
    sums = VoxelAccumulator()
    for table in tables:
        sums.add({name: as_numpy(table[name]) for name in table.keys()})
    return sums


def by_loops(tables):
    """voxel -> (n_obs, n_stills, photons, exposure), row by row"""
    rows = {}
    for number, table in enumerate(tables):
        for row in table.rows():
            if not row["bragg"] and row["exposure"] > 0:
                photons = row["counts"] - row["background"]
                rows.setdefault(tuple(row["asu_voxel"]), []).append(
                    ((number, row["id"]), photons, row["exposure"])
                )
    result = {}
    for voxel, parts in rows.items():
        photons, exposure = np.array([p[1] for p in parts]), np.array([p[2] for p in parts])
        stills = len({p[0] for p in parts})
        result[voxel] = (len(parts), stills, photons.sum(), exposure.sum())
    return result


NAMES = ("n_obs", "n_stills", "photons", "exposure")


def check_equal(sums, expected):
    assert [tuple(v) for v in sums.voxel] == sorted(expected)
    columns = np.column_stack([getattr(sums, name) for name in NAMES])
    for found, voxel in zip(columns, sums.voxel):
        assert found == pytest.approx(expected[tuple(voxel)], rel=1e-9, abs=1e-9)


def test_one_table_is_what_loops_give():
    table = gridded_table(1)
    sums = sums_of(table)
    check_equal(sums, by_loops([table]))
    assert sums.intensity == pytest.approx(sums.photons / sums.exposure)


def test_any_order_of_files():
    tables = [gridded_table(seed, n) for seed, n in ((1, 300), (2, 20), (3, 150), (4, 1))]
    expected = by_loops(tables)
    for order in itertools.permutations(tables):
        check_equal(sums_of(*order), expected)


def test_more_voxels_than_there_is_room_for_at_first():
    rng = np.random.default_rng(7)
    table = gridded_table(6, n=60_000)
    table["asu_voxel"] = miller_index_column(rng.integers(-40, 40, (60_000, 3)))
    sums = sums_of(table, table)
    use = ~as_numpy(table["bragg"]) & (as_numpy(table["exposure"]) > 0)
    voxel, inverse, n = np.unique(
        as_numpy(table["asu_voxel"])[use], axis=0, return_inverse=True, return_counts=True
    )
    assert len(voxel) > 30_000
    assert np.array_equal(sums.voxel, voxel) and np.array_equal(sums.n_obs, 2 * n)
    exposure = np.bincount(inverse.ravel(), as_numpy(table["exposure"])[use])
    assert np.allclose(sums.exposure, 2 * exposure)


def test_nothing_adds_nothing():
    empty = gridded_table(1)
    empty = empty.select(flex.bool(empty.size(), False))
    table = gridded_table(2)
    expected = by_loops([table])
    for tables in ((empty, table), (table, empty)):
        check_equal(sums_of(*tables), expected)
    all_bragg = gridded_table(3)
    all_bragg["bragg"] = flex.bool(all_bragg.size(), True)
    assert len(sums_of(all_bragg).voxel) == 0


@pytest.mark.parametrize(
    "symbol, friedel", [("P 4", True), ("P 4", False), ("P 3 2 1", True), ("P 1", True)]
)
def test_completeness_is_that_of_cctbx(symbol, friedel):
    cell = (20, 20, 30, 90, 90, 120 if "3" in symbol else 90)
    grid = VoxelGrid(
        (2, 2, 3),
        uctbx.unit_cell(cell),
        laue_group_from_symbol(symbol, friedel),
        d_min=4.0,
        d_max=15.0,
    )
    complete = miller.build_set(grid.supercell_symmetry(), anomalous_flag=not friedel, d_min=3.0)
    rng = np.random.default_rng(6)
    chosen = complete.select(bool_column(rng.random(complete.size()) < 0.4))
    voxel = np.array(list(chosen.indices()))
    voxel = voxel[grid.contains(voxel)]
    # the outermost voxel there is, so that both mean the same range
    within = np.array(list(complete.indices()))
    within = within[grid.contains(within)]
    voxel = np.unique(np.concatenate([voxel, within[[np.argmin(grid.d_of_voxel(within))]]]), axis=0)
    n = len(voxel)
    table = flex.reflection_table()
    table["id"] = int_column(np.arange(n) % 3)
    table["asu_voxel"] = miller_index_column(voxel)
    table["bragg"] = bool_column(np.zeros(n, bool))
    for name in ("counts", "exposure"):
        table[name] = double_column(np.ones(n))
    table["background"] = double_column(np.zeros(n))
    rows = coverage(sums_of(table), grid, n_shells=4)
    assert rows[-1].possible == len(within) and rows[-1].seen == n
    assert sum(row.seen for row in rows[:-1]) == n
    assert sum(row.possible for row in rows[:-1]) == len(within)
    assert rows[-1].multiplicity == 1 and rows[-1].three_stills == 0
    # the same in each shell
    found = miller.set(
        grid.supercell_symmetry(), miller_index_column(voxel), anomalous_flag=not friedel
    )
    for row in rows[:-1]:
        low, high = (float(part.replace("inf", "15.0001")) for part in row.label.split(" - "))
        in_shell = found.resolution_filter(d_max=low, d_min=high).size()
        assert row.seen == pytest.approx(in_shell, abs=0.02 * n)  # labels are rounded


def test_stills_and_observations_a_voxel():
    table = gridded_table(5, n=2000)
    grid = VoxelGrid(
        (1, 1, 1), uctbx.unit_cell((30, 30, 30, 90, 90, 90)), laue_group_from_symbol("P 1")
    )
    voxel = np.array(list(table["asu_voxel"]))
    table["asu_voxel"] = miller_index_column(grid.to_asu(voxel))
    expected = by_loops([table])
    expected.pop((0, 0, 0))
    table = table.select(table["asu_voxel"] != flex.miller_index(table.size(), (0, 0, 0)))
    row = coverage(sums_of(table), grid)[-1]
    assert row.seen == len(expected)
    assert row.n_obs == sum(value[0] for value in expected.values())
    assert row.mean_stills == pytest.approx(np.mean([value[1] for value in expected.values()]))
    assert row.three_stills == sum(value[1] >= 3 for value in expected.values())


def test_nothing_seen():
    grid = VoxelGrid(
        (1, 1, 1), uctbx.unit_cell((30, 30, 30, 90, 90, 90)), laue_group_from_symbol("P 1")
    )
    with pytest.raises(ValueError, match="No voxel was seen"):
        coverage(VoxelAccumulator(), grid)
