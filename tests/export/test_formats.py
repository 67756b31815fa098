"""Every format is read back by a program that did not write it."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest

import iotbx.ccp4_map
import iotbx.mtz
from cctbx import sgtbx, uctbx

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy, double_column, int_column, miller_index_column
from dials_diffuse.export.formats import write_format
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.maps.merged_map import MergedMap

CRYSTALS = {
    "P-1": ("P 1", (31, 37, 43, 82, 97, 105), (2, 3, 1)),
    "monoclinic, unique axis c": ("P 1 1 2", (30, 35, 40, 90, 90, 110), (3, 3, 2)),
    "4/mmm": ("P 43 21 2", (33, 33, 50, 90, 90, 90), (3, 3, 1)),
    "-3m1": ("P 3 2 1", (30, 30, 45, 90, 90, 120), (2, 2, 3)),
    "-31m": ("P 3 1 2", (30, 30, 45, 90, 90, 120), (2, 2, 3)),
    "rhombohedral axes": ("R 3 :R", (30, 30, 30, 80, 80, 80), (2, 2, 2)),
    "m-3": ("I 2 3", (36, 36, 36, 90, 90, 90), (3, 3, 3)),
}


@pytest.fixture(params=CRYSTALS, ids=str)
def merged(request):
    symbol, cell, n = CRYSTALS[request.param]
    grid = VoxelGrid(n, uctbx.unit_cell(cell), laue_group_from_symbol(symbol), d_min=9.0)
    voxel = np.indices((41, 41, 41)).reshape(3, -1).T - 20
    voxel = np.unique(grid.to_asu(voxel[grid.contains(voxel)]), axis=0)
    rng = np.random.default_rng(3)
    voxel = voxel[rng.random(len(voxel)) < 0.6]
    n_voxels = len(voxel)
    table = flex.reflection_table()
    table["voxel"] = miller_index_column(voxel)
    table["intensity"] = double_column(rng.normal(100, 20, n_voxels))
    table["variance"] = double_column(rng.uniform(1, 9, n_voxels))
    table["n_obs"] = int_column(rng.integers(1, 20, n_voxels))
    table["n_stills"] = int_column(rng.integers(1, 9, n_voxels))
    table["half_1"] = double_column(
        np.where(rng.random(n_voxels) < 0.3, np.nan, rng.normal(100, 20, n_voxels))
    )
    return MergedMap.from_table(table, grid)


def values_at(merged, voxel, name="intensity"):
    """The map at any voxels, through the asymmetric unit; NaN where unmeasured"""
    value_of = dict(zip(map(tuple, merged.voxel), merged.columns[name]))
    return np.array([value_of.get(tuple(v), np.nan) for v in merged.grid.to_asu(voxel)])


def test_mtz_by_iotbx(merged, tmp_path):
    write_format("mtz", tmp_path / "map.mtz", dataclasses.replace(merged, wavelength=0.97))
    mtz = iotbx.mtz.object(str(tmp_path / "map.mtz"))
    arrays = {array.info().labels[0]: array for array in mtz.as_miller_arrays()}
    assert set(arrays) == {"IDIFF", "NOBS", "NSTILLS", "IHALF1"}
    found = arrays["IDIFF"]
    assert found.is_xray_intensity_array()
    assert found.info().wavelength == pytest.approx(0.97)
    assert found.unit_cell().is_similar_to(merged.grid.supercell(), 1e-5, 1e-4)
    # with Friedel's law it is the symmetry of the grid, in the setting of the grid
    group = found.space_group()
    assert not group.is_centric()
    assert group.build_derived_laue_group() == merged.grid.laue_group
    voxel = as_numpy(found.indices())
    assert len(voxel) == len(merged.voxel)
    assert found.data().as_numpy_array() == pytest.approx(values_at(merged, voxel), rel=1e-6)
    assert found.sigmas().as_numpy_array() == pytest.approx(
        values_at(merged, voxel, "sigma"), rel=1e-6
    )
    d = merged.grid.d_of_voxel(voxel)
    q = np.sqrt(found.d_star_sq().data().as_numpy_array())
    assert q == pytest.approx(1 / d, rel=1e-5)
    half = arrays["IHALF1"]
    assert half.size() == np.isfinite(merged.columns["half_1"]).sum()
    assert half.data().as_numpy_array() == pytest.approx(
        values_at(merged, as_numpy(half.indices()), "half_1"), rel=1e-6
    )
    numbers = arrays["NOBS"]
    assert np.array_equal(
        np.array(numbers.data()), values_at(merged, as_numpy(numbers.indices()), "n_obs")
    )
    n = ",".join(map(str, merged.grid.subdivide))
    assert f"n={n} cell={merged.grid.unit_cell.parameters()[0]:.2f}" in mtz.title()
    assert any(
        "True cell: {:.4f}".format(merged.grid.unit_cell.parameters()[0]) in line
        for line in mtz.history()
    )


def test_mtz_by_gemmi(merged, tmp_path):
    gemmi = pytest.importorskip("gemmi")
    write_format("mtz", tmp_path / "map.mtz", merged)
    mtz = gemmi.read_mtz_file(str(tmp_path / "map.mtz"))
    # made-up operators would not have a name in gemmi's own table
    assert mtz.spacegroup is not None
    assert mtz.cell.parameters == pytest.approx(merged.grid.supercell().parameters(), rel=1e-5)
    data = np.array(mtz, copy=True)
    columns = {column.label: data[:, i] for i, column in enumerate(mtz.columns)}
    types = {column.label: column.type for column in mtz.columns}
    assert types["IDIFF"] == types["IHALF1"] == "J" and types["SIGIDIFF"] == "Q"
    assert types["NOBS"] == "I"
    voxel = data[:, :3].astype(int)
    assert columns["IDIFF"] == pytest.approx(values_at(merged, voxel), rel=1e-6)
    assert columns["IHALF1"] == pytest.approx(
        values_at(merged, voxel, "half_1"), rel=1e-6, nan_ok=True
    )
    # gemmi's reciprocal asymmetric unit holds each voxel once, whatever its choice of it
    mtz.ensure_asu()
    again = np.array(mtz, copy=True)[:, :3].astype(int)
    assert len(np.unique(again, axis=0)) == len(voxel)


def test_full_mtz_is_half_a_sphere_in_p1(merged, tmp_path):
    write_format("mtz", tmp_path / "map.mtz", merged, "full")
    mtz = iotbx.mtz.object(str(tmp_path / "map.mtz"))
    array = mtz.as_miller_arrays()[0]
    assert array.space_group().order_z() == 1
    voxel = as_numpy(array.indices())
    both = np.unique(np.concatenate([voxel, -voxel]), axis=0)
    assert len(both) == 2 * len(voxel) - np.all(voxel == 0, axis=1).sum()
    assert len(both) == merged.grid.multiplicity(merged.voxel).sum()
    assert array.data().as_numpy_array() == pytest.approx(values_at(merged, voxel), rel=1e-6)


@pytest.mark.parametrize("extent", ["full", "asymmetric"])
def test_ccp4_by_iotbx_and_gemmi(merged, tmp_path, extent):
    path = str(tmp_path / "map.ccp4")
    write_format("ccp4", path, merged, extent)
    read = iotbx.ccp4_map.map_reader(file_name=path)
    values = read.data.as_numpy_array()
    first = np.array(read.data.origin())
    edges = merged.grid.unit_cell.reciprocal_parameters()
    step = np.array(read.unit_cell().parameters()[:3]) / read.unit_cell_grid
    # 1 A for 0.001/A
    assert step * 0.001 == pytest.approx(np.array(edges[:3]) / merged.grid.subdivide, rel=1e-5)
    assert read.unit_cell().parameters()[3:] == pytest.approx(edges[3:], rel=1e-5)
    assert read.space_group_number == 1
    voxel = np.indices(values.shape).reshape(3, -1).T + first
    expected = values_at(merged, voxel)
    if extent == "asymmetric":
        listed = set(map(tuple, merged.voxel))
        expected[[tuple(v) not in listed for v in voxel]] = np.nan
    np.testing.assert_allclose(values.reshape(-1), expected, rtol=1e-6)
    finite = expected[np.isfinite(expected)]
    assert read.header_min == pytest.approx(finite.min(), rel=1e-6)
    assert read.header_max == pytest.approx(finite.max(), rel=1e-6)
    assert read.header_mean == pytest.approx(finite.mean(), rel=1e-6)

    gemmi = pytest.importorskip("gemmi")
    other = gemmi.read_ccp4_map(path)
    np.testing.assert_array_equal(np.array(other.grid), values.astype(np.float32))
    assert [other.header_i32(word) for word in (5, 6, 7)] == list(first)
    # distances and angles between grid points are those of reciprocal space
    ijk = gemmi.Fractional(*(np.array([2, -1, 3]) / values.shape))
    length = other.grid.unit_cell.orthogonalize(ijk).length() * 0.001
    assert length == pytest.approx(1 / merged.grid.d_of_voxel(np.array([[2, -1, 3]]))[0], rel=1e-5)


def test_ccp4_is_valid_mrc(merged, tmp_path):
    mrcfile = pytest.importorskip("mrcfile")
    write_format("ccp4", tmp_path / "map.ccp4", merged, column="sigma")
    with mrcfile.open(tmp_path / "map.ccp4") as handle:
        assert np.nanmax(handle.data) == pytest.approx(merged.columns["sigma"].max(), rel=1e-6)
        labels = b" ".join(handle.header.label.tolist()).decode()
    assert (
        "sigma" in labels and "0.001/A" in labels and str(merged.grid.laue_group.info()) in labels
    )


@pytest.mark.parametrize("extent", ["full", "asymmetric"])
def test_h5_and_npz_hold_the_same(merged, tmp_path, extent):
    write_format("h5", tmp_path / "map.h5", merged, extent)
    write_format("npz", tmp_path / "map.npz", merged, extent)
    arrays = np.load(tmp_path / "map.npz")
    with h5py.File(tmp_path / "map.h5") as handle:
        data = handle["entry/map"]
        np.testing.assert_array_equal(data["intensity"][()], arrays["intensity"])
        np.testing.assert_array_equal(data["intensity_errors"][()], arrays["sigma"])
        np.testing.assert_array_equal(data["n_obs"][()], arrays["n_obs"])
        for name in "hkl":
            np.testing.assert_array_equal(data[name][()], arrays[name])
    assert VoxelGrid.from_dict(json.loads(str(arrays["grid"]))).to_dict() == merged.grid.to_dict()
    hkl = np.stack(np.meshgrid(*(arrays[name] for name in "hkl"), indexing="ij"), axis=-1)
    voxel = np.rint(hkl * merged.grid.subdivide).astype(int).reshape(-1, 3)
    measured = np.isfinite(arrays["intensity"]).reshape(-1)
    assert arrays["intensity"].reshape(-1)[measured] == pytest.approx(
        values_at(merged, voxel)[measured], rel=1e-6
    )
    expected = (
        merged.grid.multiplicity(merged.voxel).sum() if extent == "full" else len(merged.voxel)
    )
    assert measured.sum() == expected


def test_h5_by_nexusformat(merged, tmp_path):
    nexus = pytest.importorskip("nexusformat.nexus")
    write_format("h5", tmp_path / "map.h5", merged)
    data = nexus.nxload(str(tmp_path / "map.h5")).get_default()
    assert [axis.nxname for axis in data.nxaxes] == ["h", "k", "l"]
    assert data.nxsignal.nxname == "intensity"
    assert data.nxerrors is not None
    assert data.nxsignal.shape == tuple(len(axis) for axis in data.nxaxes)


@pytest.mark.parametrize("extent", ["full", "asymmetric"])
def test_hkl_is_text(merged, tmp_path, extent):
    write_format("hkl", tmp_path / "map.hkl", merged, extent)
    lines = (tmp_path / "map.hkl").read_text().splitlines()
    assert lines[0].startswith("# Diffuse intensity")
    names = next(line for line in reversed(lines[:10]) if line.startswith("#"))[2:].split()
    assert names == ["h", "k", "l", "intensity", "sigma", "n_obs", "n_stills", "half_1"]
    table = np.loadtxt(tmp_path / "map.hkl")
    voxel = np.rint(table[:, :3] * merged.grid.subdivide).astype(int)
    assert table[:, 3] == pytest.approx(values_at(merged, voxel), rel=1e-6)
    assert table[:, 7] == pytest.approx(values_at(merged, voxel, "half_1"), rel=1e-6, nan_ok=True)
    expected = (
        merged.grid.multiplicity(merged.voxel).sum() if extent == "full" else len(merged.voxel)
    )
    assert len(table) == expected == len(np.unique(voxel, axis=0))


def test_without_friedels_law_mates_stay_apart(tmp_path):
    group = sgtbx.space_group_info("P 4").group()
    grid = VoxelGrid((2, 2, 1), uctbx.unit_cell((33, 33, 50, 90, 90, 90)), group, d_min=12.0)
    voxel = np.indices((21, 21, 21)).reshape(3, -1).T - 10
    voxel = voxel[grid.contains(voxel)]
    asu = np.unique(grid.to_asu(voxel), axis=0)
    assert grid.multiplicity(asu).sum() == len(voxel)
    columns = {"intensity": 100 + 1.0 * np.arange(len(asu)), "sigma": np.ones(len(asu))}
    merged = MergedMap(asu, columns, grid)
    write_format("mtz", tmp_path / "map.mtz", merged)
    (array,) = iotbx.mtz.object(str(tmp_path / "map.mtz")).as_miller_arrays()
    assert array.anomalous_flag() and array.size() == len(asu)
    assert array.data().as_numpy_array() == pytest.approx(
        values_at(merged, as_numpy(array.indices())), rel=1e-6
    )


def test_anisotropic_part_and_limits(merged):
    part = merged.within(12.0, 30.0)
    d = merged.grid.d_of_voxel(part.voxel)
    assert d.min() >= 12 and d.max() <= 30 and len(d) > 10
    assert part.grid.d_min == 12 and part.grid.d_max == 30
    flat = MergedMap(
        merged.voxel, {**merged.columns, "intensity": np.full(len(merged.voxel), 7.0)}, merged.grid
    )
    assert flat.anisotropic().columns["intensity"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="No voxel lies between"):
        merged.within(3.0, 5.0)


def test_not_a_merged_table(tmp_path):
    table = flex.reflection_table()
    table["voxel"] = flex.miller_index([(1, 2, 3)])
    grid = VoxelGrid(
        (1, 1, 1), uctbx.unit_cell((10, 10, 10, 90, 90, 90)), laue_group_from_symbol("P1")
    )
    with pytest.raises(ValueError, match="column intensity is missing"):
        MergedMap.from_table(table, grid)
