"""Departures of observations from radial means, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, uctbx

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    as_numpy,
    bool_column,
    double_column,
    int_column,
    miller_index_column,
)
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.departures import CommonPart, Departures, departures
from dials_diffuse.gridding.indexing import possible_settings

GRID = VoxelGrid(
    (2, 2, 2), uctbx.unit_cell((40, 40, 60, 90, 90, 90)), laue_group_from_symbol("P 4")
)
SETTINGS = possible_settings(GRID, sgtbx.space_group_info("P 4").group(), 2.0)


def observations(n=600, n_stills=3, seed=2):
    """Random rows, some under Bragg spots, some without exposure."""
    rng = np.random.default_rng(seed)
    voxel = rng.integers(-8, 9, (n, 3))
    voxel = voxel[np.any(voxel != 0, axis=1)]
    n = len(voxel)
    exposure = np.where(rng.random(n) < 0.1, 0.0, rng.uniform(0.5, 2, n))
    table = flex.reflection_table()
    table["id"] = int_column(rng.integers(0, n_stills, n))
    table["voxel"] = miller_index_column(voxel)
    table["bragg"] = bool_column(rng.random(n) < 0.2)
    table["counts"] = double_column(rng.poisson(30 * exposure + 2))
    table["background"] = double_column(np.full(n, 2.0))
    table["background.variance"] = double_column(np.full(n, 0.1))
    table["exposure"] = double_column(exposure)
    return table


def test_departures_are_those_of_plain_numpy():
    table = observations()
    found = departures(table, GRID, SETTINGS)
    columns = {name: as_numpy(table[name]) for name in table.keys()}
    use = ~columns["bragg"] & (columns["exposure"] > 0)
    assert 0 < use.sum() < len(use)
    # |q| of an orthogonal cell, in thirty rings of equal width
    q = np.sqrt(((columns["voxel"] / 2 / np.array([40, 40, 60])) ** 2).sum(axis=1))
    ring = np.minimum((30 * q / q[use].max()).astype(int), 29)
    rows = np.flatnonzero(use)
    assert found.still.tolist() == columns["id"][rows].tolist()
    for i, row in enumerate(rows):
        same = use & (columns["id"] == columns["id"][row]) & (ring == ring[row])
        net = columns["counts"] - columns["background"]
        expected = net[same].sum() / columns["exposure"][same].sum() * columns["exposure"][row]
        sigma = np.sqrt(max(expected, 0) + 2.0 + 0.1)
        assert found.z[i] == pytest.approx((net[row] - expected) / sigma)
        assert found.strength[i] == pytest.approx(expected / sigma)


def test_keys_are_the_voxels_in_each_setting():
    table = observations()
    found = departures(table, GRID, SETTINGS)
    use = ~as_numpy(table["bragg"]) & (as_numpy(table["exposure"]) > 0)
    voxel = as_numpy(table["voxel"])[use]
    assert len(SETTINGS) == len(found.keys) == 2
    np.testing.assert_array_equal(found.keys[0], pack_voxels(GRID.to_asu(voxel)))
    # the other setting of P 4 exchanges h and k
    exchanged = voxel[:, [1, 0, 2]] * [1, 1, -1]
    np.testing.assert_array_equal(found.keys[1], pack_voxels(GRID.to_asu(exchanged)))


def test_an_orbit_is_one_voxel_in_all_settings_and_checks_or_not():
    table = observations(4000)
    found = departures(table, GRID, SETTINGS)
    use = ~as_numpy(table["bragg"]) & (as_numpy(table["exposure"]) > 0)
    # 4/mmm has all settings: its asymmetric unit has a voxel for each orbit
    lattice = VoxelGrid((2, 2, 2), GRID.unit_cell, laue_group_from_symbol("P 4 2 2"))
    expected = pack_voxels(lattice.to_asu(as_numpy(table["voxel"])[use]))
    pairs = np.unique(np.column_stack([expected, found.orbit]), axis=0)
    assert len(pairs) == len(np.unique(expected)) == len(np.unique(found.orbit))
    checks = np.unique(np.column_stack([found.orbit, found.check]), axis=0)
    assert len(checks) == len(pairs)
    assert 0.3 < checks[:, 1].mean() < 0.7


def test_only_some_orbits_of_large_stills(monkeypatch):
    table = observations(4000)
    everything = departures(table, GRID, SETTINGS)
    monkeypatch.setattr("dials_diffuse.gridding.departures._OBSERVATIONS_A_STILL", 300)
    part = departures(table, GRID, SETTINGS)
    assert 0.5 < len(part.z) / (3 * 300) < 1.5
    # whole orbits, so that stills still have voxels in common, and the same departures
    rows = np.isin(everything.orbit, part.orbit)
    np.testing.assert_array_equal(everything.select(rows).z, part.z)
    np.testing.assert_array_equal(everything.select(rows).keys, part.keys)


def test_nothing_to_compare():
    table = observations()
    table["bragg"] = flex.bool(table.size(), True)
    found = departures(table, GRID, SETTINGS)
    assert found.keys.shape == (2, 0)
    assert len(found.z) == len(found.still) == len(found.orbit) == 0


def departures_of(orbit, z, strength):
    n = len(orbit)
    return Departures(
        np.zeros(n, int),
        np.zeros((2, n), int),
        np.array(z, float),
        np.array(strength, float),
        np.zeros(n, bool),
        np.array(orbit),
    )


def test_common_part_is_the_least_squares_mean():
    first = departures_of([5, 5, 9], [1.0, 2.0, -3.0], [1.0, 3.0, 2.0])
    second = departures_of([5, 7], [4.0, 1.0], [2.0, 0.0])
    common = CommonPart.from_parts([first, second])
    assert common.orbits.tolist() == [5, 7, 9]
    slope = np.linalg.lstsq(np.array([[1.0], [3.0], [2.0]]), [1.0, 2.0, 4.0], rcond=None)[0][0]
    # an orbit without strength tells nothing
    assert common.mean == pytest.approx([slope, 0.0, -1.5])


def test_the_common_part_is_removed_in_place():
    part = departures_of([5, 6, 9, 10], [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 4.0, 1.0])
    CommonPart(np.array([5, 9]), np.array([0.5, -1.0])).remove_from(part)
    # orbits that the reference stills did not see stay
    assert part.z.tolist() == [0.0, 2.0, 7.0, 4.0]
