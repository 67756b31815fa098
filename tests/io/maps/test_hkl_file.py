"""Text files of voxels, read by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from merged_maps import values_at

from dials_diffuse.io.maps.hkl_file import write_hkl


@pytest.mark.parametrize("full", [True, False])
def test_hkl_is_text(merged, tmp_path, full):
    write_hkl(tmp_path / "map.hkl", merged.expanded() if full else merged)
    lines = (tmp_path / "map.hkl").read_text().splitlines()
    assert lines[0].startswith("# Diffuse intensity")
    names = next(line for line in reversed(lines[:10]) if line.startswith("#"))[2:].split()
    assert names == ["h", "k", "l", "intensity", "sigma", "n_obs", "n_stills", "half_1"]
    table = np.loadtxt(tmp_path / "map.hkl")
    voxel = np.rint(table[:, :3] * merged.grid.subdivide).astype(int)
    assert table[:, 3] == pytest.approx(values_at(merged, voxel), rel=1e-6)
    assert table[:, 7] == pytest.approx(values_at(merged, voxel, "half_1"), rel=1e-6, nan_ok=True)
    expected = merged.grid.multiplicity(merged.voxel).sum() if full else len(merged.voxel)
    assert len(table) == expected == len(np.unique(voxel, axis=0))


def test_more_rows_than_are_written_at_once(merged, tmp_path, monkeypatch):
    write_hkl(tmp_path / "once.hkl", merged)
    monkeypatch.setattr("dials_diffuse.io.maps.hkl_file._ROWS_AT_ONCE", 7)
    write_hkl(tmp_path / "parts.hkl", merged)
    assert (tmp_path / "parts.hkl").read_bytes() == (tmp_path / "once.hkl").read_bytes()
    assert len(np.loadtxt(tmp_path / "parts.hkl")) == len(merged) > 7
