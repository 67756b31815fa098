"""The grid under all Laue groups, also in settings that are not the usual ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cctbx import crystal, miller, sgtbx, uctbx

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import dense_rows, expand_to_p1, pack_voxels, unpack_voxels
from dials_diffuse.grid.symmetry import group_from_hall, laue_group_of, symbol_of
from dials_diffuse.grid.voxel_grid import VoxelGrid

RHOMBOHEDRAL = (25, 25, 25, 78, 78, 78)
HEXAGONAL = (22, 22, 30, 90, 90, 120)
# space group, cell, n; the first eleven are one of each Laue class in the usual setting
CASES = {
    "-1": ("P 1", (20, 24, 28, 80, 95, 103), (2, 3, 4)),
    "2/m": ("P 1 21 1", (20, 24, 28, 90, 101, 90), (2, 3, 4)),
    "mmm": ("P 21 21 2", (20, 24, 28, 90, 90, 90), (2, 3, 4)),
    "4/m": ("I 4", (22, 22, 30, 90, 90, 90), (3, 3, 2)),
    "4/mmm": ("P 43 21 2", (22, 22, 30, 90, 90, 90), (3, 3, 2)),
    "-3": ("P 31", HEXAGONAL, (3, 3, 2)),
    "-3m1": ("P 32 2 1", HEXAGONAL, (3, 3, 2)),
    "6/m": ("P 63", HEXAGONAL, (3, 3, 2)),
    "6/mmm": ("P 61 2 2", HEXAGONAL, (3, 3, 2)),
    "m-3": ("I 21 3", (26, 26, 26, 90, 90, 90), (2, 2, 2)),
    "m-3m": ("F 4 3 2", (26, 26, 26, 90, 90, 90), (2, 2, 2)),
    "-31m": ("P 31 1 2", HEXAGONAL, (3, 3, 2)),
    "R hexagonal": ("R 3 2 :H", HEXAGONAL, (3, 3, 2)),
    "R rhombohedral": ("R 3 :R", RHOMBOHEDRAL, (2, 2, 2)),
    "2/m unique c": ("P 1 1 21", (20, 24, 28, 90, 90, 101), (2, 3, 4)),
    "2/m unique a": ("P 21 1 1", (20, 24, 28, 101, 90, 90), (2, 3, 4)),
    "2/m body-centred": ("I 1 2 1", (20, 24, 28, 90, 95, 90), (3, 1, 2)),
    "4/m unique a": ("hall: -P 4x", (30, 22, 22, 90, 90, 90), (2, 3, 3)),
    "6/m unique b": ("hall: -P 6y", (22, 30, 22, 90, 120, 90), (3, 2, 3)),
}


def grid_of_case(name, **limits):
    symbol, cell, n = CASES[name]
    unit_cell = uctbx.unit_cell(cell)
    group = sgtbx.space_group_info(symbol).group()
    assert group.is_compatible_unit_cell(unit_cell)
    return VoxelGrid(n, unit_cell, laue_group_of(group), **limits)


def whole_grid(grid):
    """All voxels of the sphere, from a box that surely holds it"""
    reach = [
        int(np.ceil(p * n / grid.d_min)) + 1
        for p, n in zip(grid.unit_cell.parameters(), grid.subdivide)
    ]
    box = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    return box[grid.contains(box)]


def test_eleven_laue_classes_are_there():
    classes = {
        laue_group_of(sgtbx.space_group_info(CASES[name][0]).group()).laue_group_type()
        for name in list(CASES)[:11]
    }
    assert classes == {
        "-1",
        "2/m",
        "mmm",
        "4/m",
        "4/mmm",
        "-3",
        "-3m",
        "6/m",
        "6/mmm",
        "m-3",
        "m-3m",
    }


@pytest.mark.parametrize("name", CASES)
def test_centres_nodes_and_metric(name):
    grid = grid_of_case(name, d_min=4.0)
    voxel = whole_grid(grid)
    assert len(voxel) > 1000
    hkl = grid.hkl_of_voxel(voxel)
    assert np.array_equal(hkl * grid.subdivide, voxel)
    # a node is nearest to all voxels up to, and not on, the faces of its cell
    node = grid.node_of_voxel(voxel)
    assert np.all(np.abs(hkl - node) <= 0.5) and not np.any(hkl - node == 0.5)
    # the metric is that of cctbx
    d = grid.d_of_voxel(voxel)
    supercell = grid.supercell()
    some = np.flatnonzero(np.isfinite(d))[::97]
    expected = [supercell.d(tuple(int(i) for i in voxel[row])) for row in some]
    assert d[some] == pytest.approx(expected, rel=1e-9)


def brute_force_orbits(grid, voxel):
    """Smallest and largest packed key of each voxel's orbit, from the operators as text"""
    keys = []
    for operator in grid.laue_group.all_ops():
        # x' = R x as text, such as -y,x-y,z; indices transform as rows: h' = h R
        rotation = np.zeros((3, 3), dtype=int)
        for row, text in enumerate(operator.r().as_xyz().split(",")):
            sign = 1
            for character in text:
                if character in "+-":
                    sign = -1 if character == "-" else 1
                else:
                    rotation[row, "xyz".index(character)] = sign
                    sign = 1
        keys.append(pack_voxels(voxel @ rotation))
    keys = np.array(keys)
    assert len(keys) == grid.laue_group.order_z()
    return keys


@pytest.mark.parametrize("name", CASES)
def test_asymmetric_unit_is_that_of_brute_force(name):
    grid = grid_of_case(name, d_min=5.0)
    voxel = whole_grid(grid)
    asu = pack_voxels(grid.to_asu(voxel))
    orbit = brute_force_orbits(grid, voxel)
    # each voxel is taken to a member of its own orbit ...
    assert np.all((orbit == asu).any(axis=0))
    # ... one and the same for all members, and another one for each other orbit
    representative = orbit.min(axis=0)
    pairs = np.unique(np.stack([representative, asu]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    # multiplicity counts the orbit's different members
    ordered = np.sort(orbit, axis=0)
    count = 1 + (np.diff(ordered, axis=0) > 0).sum(axis=0)
    assert np.array_equal(grid.multiplicity(voxel), count)
    # |q| is the same all over an orbit: the operators fit the cell
    d = grid.d_of_voxel(unpack_voxels(asu))
    finite = np.isfinite(d)
    assert d[finite] == pytest.approx(grid.d_of_voxel(voxel)[finite], rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_expansion_gives_the_whole_grid_back(name):
    grid = grid_of_case(name, d_min=5.0)
    voxel = whole_grid(grid)
    asu = np.unique(grid.to_asu(voxel), axis=0)
    expanded, rows = expand_to_p1(asu, grid)
    assert np.array_equal(np.sort(pack_voxels(expanded)), np.sort(pack_voxels(voxel)))
    assert np.array_equal(grid.to_asu(expanded), asu[rows])
    dense, first = dense_rows(asu, grid)
    assert np.array_equal(dense.shape, 1 - 2 * first)
    assert (dense >= 0).sum() == len(voxel)
    assert np.array_equal(dense[tuple((expanded - first).T)], rows)
    # as many as cctbx says a complete data set of the supercell has, and the origin
    complete = miller.build_set(grid.supercell_symmetry(), anomalous_flag=False, d_min=grid.d_min)
    assert abs(complete.size() + 1 - len(asu)) <= 0.002 * len(asu)  # rounding on the limit


def test_truth_of_the_symmetry_merges_with_chi_squared_of_one():
    """Observations scattered over the sphere, drawn with the variance they claim from a
    truth that has the symmetry, agree within voxels exactly as their variances say."""
    rng = np.random.default_rng(11)
    for name in CASES:
        grid = grid_of_case(name, d_min=6.0)
        voxel = whole_grid(grid)
        q2 = grid.d_of_voxel(voxel) ** -2.0
        # a function of the invariants of an orbit: the mean of a cosine over the operators
        keys = brute_force_orbits(grid, voxel)
        waves = [np.cos(unpack_voxels(key) @ np.array([0.9, 0.4, 0.7])) for key in keys]
        truth = 100 * np.exp(-3 * q2) * (1 + 0.5 * np.mean(waves, axis=0))
        sigma = rng.uniform(1, 4, len(voxel))
        observed = truth + sigma * rng.standard_normal(len(voxel))
        _, index = np.unique(pack_voxels(grid.to_asu(voxel)), return_inverse=True)
        weight = 1 / sigma**2
        total = np.bincount(index, weight)
        mean = np.bincount(index, weight * observed) / total
        freedom = len(voxel) - len(total)
        chi2 = (weight * (observed - mean[index]) ** 2).sum() / freedom
        assert chi2 == pytest.approx(1, abs=4 * np.sqrt(2 / freedom)), name


@pytest.mark.parametrize("name", CASES)
def test_grid_survives_json(name):
    grid = grid_of_case(name, d_min=4.0, d_max=30.0).replace(index_range=((-1, 2), (0, 4), (-3, 0)))
    copy = VoxelGrid.from_dict(grid.to_dict())
    assert copy.laue_group == grid.laue_group == group_from_hall(symbol_of(grid.laue_group))
    assert copy.to_dict() == grid.to_dict()
    assert copy.index_range == ((-1, 2), (0, 4), (-3, 0))


def test_against_cctbx_map_to_asu_of_a_data_set():
    grid = grid_of_case("-31m", d_min=5.0)
    voxel = whole_grid(grid)
    data = miller.array(
        miller.set(
            crystal.symmetry(grid.supercell(), space_group=grid.laue_group),
            flex.miller_index([tuple(int(i) for i in v) for v in voxel]),
            anomalous_flag=False,
        ),
        data=flex.double(len(voxel), 1),
    ).map_to_asu()
    assert np.array_equal(grid.to_asu(voxel), as_numpy(data.indices()))


def test_without_friedels_law():
    rotations = sgtbx.space_group_info("P 4").group()
    grid = VoxelGrid((2, 2, 1), uctbx.unit_cell((22, 22, 30, 90, 90, 90)), rotations)
    assert not grid.friedel and grid_of_case("4/m").friedel
    plus, minus = grid.to_asu(np.array([[1, 2, 3], [-1, -2, -3]]))
    assert not np.array_equal(plus, minus)
    assert np.array_equal(*grid.to_asu(np.array([[1, 2, 3], [-2, 1, 3]])))
    assert list(grid.multiplicity(np.array([[1, 2, 3], [0, 0, 3]]))) == [4, 1]
