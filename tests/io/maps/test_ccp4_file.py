"""CCP4 maps, read by iotbx, gemmi and mrcfile."""

from __future__ import annotations

import numpy as np
import pytest
from merged_maps import values_at

import iotbx.ccp4_map

from dials_diffuse.io.maps.ccp4_file import write_ccp4


@pytest.mark.parametrize("full", [True, False])
def test_ccp4_by_iotbx(merged, tmp_path, full):
    path = str(tmp_path / "map.ccp4")
    write_ccp4(path, merged, full=full)
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
    if not full:
        listed = set(map(tuple, merged.voxel))
        expected[[tuple(v) not in listed for v in voxel]] = np.nan
    np.testing.assert_allclose(values.reshape(-1), expected, rtol=1e-6)
    finite = expected[np.isfinite(expected)]
    assert read.header_min == pytest.approx(finite.min(), rel=1e-6)
    assert read.header_max == pytest.approx(finite.max(), rel=1e-6)
    assert read.header_mean == pytest.approx(finite.mean(), rel=1e-6)


@pytest.mark.parametrize("full", [True, False])
def test_ccp4_by_gemmi(merged, tmp_path, full):
    gemmi = pytest.importorskip("gemmi")
    path = str(tmp_path / "map.ccp4")
    write_ccp4(path, merged, full=full)
    read = iotbx.ccp4_map.map_reader(file_name=path)
    values, first = read.data.as_numpy_array(), read.data.origin()
    other = gemmi.read_ccp4_map(path)
    np.testing.assert_array_equal(np.array(other.grid), values.astype(np.float32))
    assert [other.header_i32(word) for word in (5, 6, 7)] == list(first)
    # distances and angles between grid points are those of reciprocal space
    ijk = gemmi.Fractional(*(np.array([2, -1, 3]) / values.shape))
    length = other.grid.unit_cell.orthogonalize(ijk).length() * 0.001
    assert length == pytest.approx(1 / merged.grid.d_of_voxel(np.array([[2, -1, 3]]))[0], rel=1e-5)


def test_ccp4_is_valid_mrc(merged, tmp_path):
    mrcfile = pytest.importorskip("mrcfile")
    write_ccp4(tmp_path / "map.ccp4", merged, column="sigma")
    with mrcfile.open(tmp_path / "map.ccp4") as handle:
        assert np.nanmax(handle.data) == pytest.approx(merged.columns["sigma"].max(), rel=1e-6)
        labels = b" ".join(handle.header.label.tolist()).decode()
    assert (
        "sigma" in labels and "0.001/A" in labels and str(merged.grid.laue_group.info()) in labels
    )


def test_an_own_value_where_nothing_was_measured(merged, tmp_path):
    path = str(tmp_path / "map.ccp4")
    write_ccp4(path, merged, unmeasured=-1.0)
    read = iotbx.ccp4_map.map_reader(file_name=path)
    values = read.data.as_numpy_array()
    assert np.isfinite(values).all()
    n_voxels = merged.grid.multiplicity(merged.voxel).sum()
    assert (values == -1.0).sum() == values.size - n_voxels > 0
    # the statistics of the header are those of the measured voxels
    assert read.header_min == pytest.approx(merged.columns["intensity"].min(), rel=1e-6)


def test_no_such_column(merged, tmp_path):
    with pytest.raises(ValueError, match="no column phase: it has intensity, sigma"):
        write_ccp4(tmp_path / "map.ccp4", merged, "phase")
    assert not list(tmp_path.iterdir())
