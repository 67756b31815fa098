"""Extents, names and content of exported files; what is in each format is tested in tests/io/maps."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from merged_maps import CRYSTALS, merged_map

import iotbx.ccp4_map
import iotbx.mtz

from dials_diffuse.export.formats import stem_of_content, write_format


def n_measured(kind: str, path) -> int:
    """Number of voxels with an intensity in a file of any format."""
    if kind == "mtz":
        return iotbx.mtz.object(str(path)).as_miller_arrays()[0].size()
    if kind == "ccp4":
        reader = iotbx.ccp4_map.map_reader(file_name=str(path))
        return int(np.isfinite(reader.data.as_numpy_array()).sum())
    if kind == "h5":
        with h5py.File(path) as handle:
            return int(np.isfinite(handle["entry/map/intensity"][()]).sum())
    if kind == "npz":
        return int(np.isfinite(np.load(path)["intensity"]).sum())
    return len(np.loadtxt(path))


@pytest.mark.parametrize("kind", ["mtz", "ccp4", "h5", "npz", "hkl"])
def test_extents(kind, tmp_path):
    merged = merged_map("4/mmm")
    asymmetric, sphere = len(merged), int(merged.grid.multiplicity(merged.voxel).sum())
    # a full mtz holds one of each Friedel pair; the origin is its own mate
    full = (sphere + (merged.voxel == 0).all(axis=1).sum()) // 2 if kind == "mtz" else sphere
    assert asymmetric < full
    expected = {
        "asymmetric": asymmetric,
        "full": full,
        "auto": asymmetric if kind in ("mtz", "hkl") else full,
    }
    for extent, number in expected.items():
        path = tmp_path / f"{extent}.{kind}"
        write_format(kind, path, merged, extent)
        assert n_measured(kind, path) == number


def test_a_column_in_a_ccp4_map(tmp_path):
    merged = merged_map("4/mmm")
    write_format("ccp4", tmp_path / "map.ccp4", merged, column="sigma")
    reader = iotbx.ccp4_map.map_reader(file_name=str(tmp_path / "map.ccp4"))
    assert reader.header_max == pytest.approx(merged.columns["sigma"].max(), rel=1e-6)


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="Unknown format 'pdb'"):
        write_format("pdb", tmp_path / "map.pdb", merged_map("4/mmm"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, name",
    [
        (("mtz",), "map"),
        (("mtz", True), "map_anisotropic"),
        (("mtz", False, True), "map_limited"),
        (("h5", True, True, "asymmetric"), "map_anisotropic_limited_asymmetric"),
        (("h5", False, False, "full"), "map"),
        # an asymmetric list is what mtz files hold anyway
        (("mtz", False, False, "asymmetric"), "map"),
    ],
)
def test_names_tell_what_was_changed(arguments, name):
    assert stem_of_content("map", *arguments) == name


@pytest.mark.parametrize("crystal", CRYSTALS)
@pytest.mark.parametrize("extent", ["full", "asymmetric"])
def test_h5_and_npz_hold_the_same(crystal, tmp_path, extent):
    merged = merged_map(crystal)
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
