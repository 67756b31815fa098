from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from cctbx import miller, uctbx

from dials_diffuse.adapters.tables import as_numpy, double_column, miller_index_column
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.maps.map_file import read_map, write_map


@pytest.fixture
def table():
    """A third of the asymmetric unit of a trigonal grid, n different along c."""
    grid = VoxelGrid(
        (3, 3, 2),
        uctbx.unit_cell((40, 40, 60, 90, 90, 120)),
        laue_group_from_symbol("P 31 2 1"),
        d_min=9.0,
    )
    voxel = np.indices((61, 61, 61)).reshape(3, -1).T - 30
    voxel = np.unique(grid.to_asu(voxel[grid.contains(voxel)]), axis=0)
    rng = np.random.default_rng(5)
    voxel = voxel[rng.permutation(len(voxel))[: len(voxel) // 3]]
    columns = {
        "intensity": rng.normal(100, 30, len(voxel)),
        "variance": rng.uniform(1, 4, len(voxel)),
        "n_obs": rng.integers(1, 9, len(voxel)),
        "half_1": np.where(rng.random(len(voxel)) < 0.2, np.nan, 90.0),
    }
    return grid, voxel, columns


def test_nexus_layout_and_axes(table, tmp_path):
    grid, voxel, columns = table
    write_map(tmp_path / "map.h5", voxel, columns, grid, "a map", units="electrons^2")
    with h5py.File(tmp_path / "map.h5") as handle:
        data = handle[handle.attrs["default"]]
        data = data[data.attrs["default"]]
        assert data.attrs["NX_class"] == "NXdata"
        assert list(data.attrs["axes"]) == ["h", "k", "l"]
        signal = data[data.attrs["signal"]]
        assert signal.attrs["units"] == "electrons^2"
        for i, name in enumerate("hkl"):
            axis = data[name][()]
            assert axis.shape == (signal.shape[i],)
            assert np.diff(axis) == pytest.approx(1 / grid.subdivide[i])
            assert axis[len(axis) // 2] == 0 == axis[0] + axis[-1]
        # the very element that the axes say
        row = 11
        h, k, l = voxel[row] / np.array(grid.subdivide)
        at = tuple(np.argmin(abs(data[n][()] - x)) for n, x in zip("hkl", (h, k, l)))
        assert signal[at] == pytest.approx(columns["intensity"][row], rel=1e-6)
        sigma = data[data.attrs["signal"] + "_errors"][at]
        assert sigma == pytest.approx(columns["variance"][row] ** 0.5, rel=1e-6)
        cell = [
            *handle["entry/sample/unit_cell_abc"],
            *handle["entry/sample/unit_cell_alphabetagamma"],
        ]
        assert cell == pytest.approx(grid.unit_cell.parameters())
        assert json.loads(handle["entry/grid"].attrs["definition"]) == grid.to_dict()


def test_expansion_is_that_of_cctbx(table, tmp_path):
    grid, voxel, columns = table
    write_map(tmp_path / "map.h5", voxel, columns, grid, "a map")
    found, values = read_map(tmp_path / "map.h5").measured()
    array = miller.array(
        miller.set(grid.supercell_symmetry(), miller_index_column(voxel), anomalous_flag=False),
        data=double_column(columns["intensity"]),
    )
    expected = array.expand_to_p1().generate_bijvoet_mates()
    indices = as_numpy(expected.indices())
    assert len(found) == len(indices)
    order, order_found = np.lexsort(indices.T), np.lexsort(found.T)
    assert np.array_equal(indices[order], found[order_found])
    assert values["intensity"][order_found] == pytest.approx(
        np.array(expected.data())[order], rel=1e-6
    )


@pytest.mark.parametrize("expand", [True, False])
def test_read_back(table, tmp_path, expand):
    grid, voxel, columns = table
    write_map(tmp_path / "map.h5", voxel, columns, grid, "a map", expand=expand)
    read = read_map(tmp_path / "map.h5")
    assert read.grid.to_dict() == grid.to_dict()
    assert read.expanded is expand
    assert read.title == "a map"
    found, values = read.measured()
    assert len(found) == (grid.multiplicity(voxel).sum() if expand else len(voxel))
    row_of = {tuple(v): i for i, v in enumerate(voxel)}
    rows = np.array([row_of[tuple(v)] for v in grid.to_asu(found)])
    assert values["intensity"] == pytest.approx(columns["intensity"][rows], rel=1e-6)
    assert values["sigma"] == pytest.approx(np.sqrt(columns["variance"])[rows], rel=1e-6)
    assert np.array_equal(values["n_obs"], columns["n_obs"][rows])
    np.testing.assert_array_equal(np.isnan(values["half_1"]), np.isnan(columns["half_1"][rows]))
    assert np.isnan(read.columns["intensity"]).sum() + len(found) == read.columns["intensity"].size


def test_only_the_wanted_columns(table, tmp_path):
    grid, voxel, columns = table
    write_map(tmp_path / "map.h5", voxel, columns, grid, "a map")
    assert set(read_map(tmp_path / "map.h5", ["n_obs"]).columns) == {"intensity", "n_obs"}


def test_unmerged_table_is_refused_and_leaves_no_file(table, tmp_path):
    grid, voxel, columns = table
    twice = {name: np.append(values, values[:1]) for name, values in columns.items()}
    with pytest.raises(ValueError, match="equivalent voxels twice"):
        write_map(tmp_path / "map.h5", np.append(voxel, -voxel[:1], axis=0), twice, grid, "a map")
    with pytest.raises(ValueError, match="no voxel"):
        write_map(tmp_path / "map.h5", voxel[:0], {"intensity": np.zeros(0)}, grid, "a map")
    assert list(tmp_path.iterdir()) == []


def test_not_a_map(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        read_map(tmp_path / "absent.h5")
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["entry/data"] = 1
    with pytest.raises(ValueError, match="not a map"):
        read_map(tmp_path / "other.h5")


def test_h5_by_nexusformat(merged, tmp_path):
    nexus = pytest.importorskip("nexusformat.nexus")
    write_map(
        tmp_path / "map.h5", merged.voxel, merged.columns, merged.grid, merged.title, merged.units
    )
    data = nexus.nxload(str(tmp_path / "map.h5")).get_default()
    assert [axis.nxname for axis in data.nxaxes] == ["h", "k", "l"]
    assert data.nxsignal.nxname == "intensity"
    assert data.nxerrors is not None
    assert data.nxsignal.shape == tuple(len(axis) for axis in data.nxaxes)
