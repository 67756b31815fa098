"""numpy archives, read by numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from merged_maps import values_at

from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.maps.npz_file import write_npz


@pytest.mark.parametrize("full", [True, False])
def test_npz_by_numpy(merged, tmp_path, full):
    write_npz(tmp_path / "map.npz", merged, full)
    arrays = np.load(tmp_path / "map.npz")
    assert VoxelGrid.from_dict(json.loads(str(arrays["grid"]))).to_dict() == merged.grid.to_dict()
    hkl = np.stack(np.meshgrid(*(arrays[name] for name in "hkl"), indexing="ij"), axis=-1)
    voxel = np.rint(hkl * merged.grid.subdivide).astype(int).reshape(-1, 3)
    measured = np.isfinite(arrays["intensity"]).reshape(-1)
    for name in ("intensity", "sigma", "n_obs", "n_stills", "half_1"):
        assert arrays[name].reshape(-1)[measured] == pytest.approx(
            values_at(merged, voxel, name)[measured], rel=1e-6, nan_ok=name == "half_1"
        )
    expected = merged.grid.multiplicity(merged.voxel).sum() if full else len(merged.voxel)
    assert measured.sum() == expected


def test_types_empty_voxels_and_header(merged, tmp_path):
    write_npz(tmp_path / "map.npz", merged)
    arrays = np.load(tmp_path / "map.npz")
    empty = np.isnan(arrays["intensity"])
    assert empty.any() and not arrays["n_obs"][empty].any()
    assert arrays["intensity"].dtype == arrays["half_1"].dtype == np.float32
    assert arrays["n_obs"].dtype == arrays["n_stills"].dtype == np.int32
    first = arrays["first_voxel"] / merged.grid.subdivide
    assert first == pytest.approx([arrays[name][0] for name in "hkl"])
    assert arrays["unit_cell"] == pytest.approx(merged.grid.unit_cell.parameters())
    assert arrays["subdivide"].tolist() == list(merged.grid.subdivide)
    assert str(arrays["units"]) == "photons/(s sr)"
