"""MTZ files, read by iotbx and gemmi."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from merged_maps import values_at

import iotbx.mtz
from cctbx import sgtbx, uctbx

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.maps.merged_map import MergedMap
from dials_diffuse.io.maps.mtz_file import acentric_group, write_mtz


def test_mtz_by_iotbx(merged, tmp_path):
    write_mtz(tmp_path / "map.mtz", dataclasses.replace(merged, wavelength=0.97))
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


def test_share_under_the_mask(merged, tmp_path):
    share = np.linspace(0, 1, len(merged))
    columns = {**merged.columns, "masked_fraction": share}
    write_mtz(tmp_path / "map.mtz", dataclasses.replace(merged, columns=columns))
    arrays = iotbx.mtz.object(str(tmp_path / "map.mtz")).as_miller_arrays_dict()
    found = next(array for labels, array in arrays.items() if labels[-1] == "FMASKED")
    of_voxel = dict(zip(map(tuple, merged.voxel.tolist()), share))
    expected = [of_voxel[tuple(h)] for h in found.indices()]
    np.testing.assert_allclose(found.data().as_numpy_array(), expected, atol=1e-6)


def test_mtz_by_gemmi(merged, tmp_path):
    gemmi = pytest.importorskip("gemmi")
    write_mtz(tmp_path / "map.mtz", merged)
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
    write_mtz(tmp_path / "map.mtz", merged, full=True)
    mtz = iotbx.mtz.object(str(tmp_path / "map.mtz"))
    array = mtz.as_miller_arrays()[0]
    assert array.space_group().order_z() == 1
    voxel = as_numpy(array.indices())
    both = np.unique(np.concatenate([voxel, -voxel]), axis=0)
    assert len(both) == 2 * len(voxel) - np.all(voxel == 0, axis=1).sum()
    assert len(both) == merged.grid.multiplicity(merged.voxel).sum()
    assert array.data().as_numpy_array() == pytest.approx(values_at(merged, voxel), rel=1e-6)


def test_without_friedels_law_mates_stay_apart(tmp_path):
    group = sgtbx.space_group_info("P 4").group()
    grid = VoxelGrid((2, 2, 1), uctbx.unit_cell((33, 33, 50, 90, 90, 90)), group, d_min=12.0)
    voxel = np.indices((21, 21, 21)).reshape(3, -1).T - 10
    voxel = voxel[grid.contains(voxel)]
    asu = np.unique(grid.to_asu(voxel), axis=0)
    assert grid.multiplicity(asu).sum() == len(voxel)
    columns = {"intensity": 100 + 1.0 * np.arange(len(asu)), "sigma": np.ones(len(asu))}
    merged = MergedMap(asu, columns, grid)
    write_mtz(tmp_path / "map.mtz", merged)
    (array,) = iotbx.mtz.object(str(tmp_path / "map.mtz")).as_miller_arrays()
    assert array.anomalous_flag() and array.size() == len(asu)
    assert array.data().as_numpy_array() == pytest.approx(
        values_at(merged, as_numpy(array.indices())), rel=1e-6
    )


@pytest.mark.parametrize(
    "laue_group, expected",
    [("-P 1", "P 1"), ("-P 4 2", "P 4 2 2"), ("-P 3", "P 3"), ("-P 2 2 3", "P 2 3")],
)
def test_rotations_of_a_laue_group(laue_group, expected):
    group = acentric_group(sgtbx.space_group(laue_group))
    assert not group.is_centric()
    assert group == sgtbx.space_group_info(expected).group()


def test_absent_and_empty_columns_are_left_out(merged, tmp_path):
    columns = {name: merged.columns[name] for name in ("intensity", "sigma")}
    columns["half_2"] = np.full(len(merged), np.nan)
    write_mtz(tmp_path / "map.mtz", dataclasses.replace(merged, columns=columns))
    labels = iotbx.mtz.object(str(tmp_path / "map.mtz")).column_labels()
    assert list(labels) == ["H", "K", "L", "IDIFF", "SIGIDIFF"]
