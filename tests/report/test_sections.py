from __future__ import annotations

import json

import numpy as np
import pytest

from cctbx import uctbx

from dials_diffuse.grid.shells import isotropic_part
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.report.sections import (
    map_section,
    map_sections,
    parse_section,
    section_plots,
    write_section_pngs,
)


@pytest.fixture(scope="module")
def map_():
    grid = VoxelGrid(
        (2, 2, 3),
        uctbx.unit_cell((30, 30, 50, 90, 90, 120)),
        laue_group_from_symbol("P 3"),
        d_min=6.0,
    )
    voxel = np.indices((41, 41, 81)).reshape(3, -1).T - (20, 20, 40)
    voxel = np.unique(grid.to_asu(voxel[grid.contains(voxel)]), axis=0)
    return grid, voxel, np.random.default_rng(1).normal(10, 2, len(voxel))


@pytest.mark.parametrize(
    "name, expected",
    [("hk0", (2, 0)), ("h0l", (1, 0)), ("0kl", (0, 0)), ("hk-1", (2, -1)), ("h1.5l", (1, 1.5))],
)
def test_names(name, expected):
    assert parse_section(name) == expected


@pytest.mark.parametrize("name", ["hkl", "h00", "kh0", "hk", "", "hk1/3"])
def test_bad_names(name):
    with pytest.raises(ValueError, match="Unknown section"):
        parse_section(name)


@pytest.mark.parametrize("name", ["hk0", "h0l", "0kl", "hk1.333", "h-0.5l"])
def test_every_element_is_its_voxel(map_, name):
    grid, voxel, values = map_
    section = map_section(voxel, values, grid, name)
    fixed, level = parse_section(name)
    value_of = {tuple(v): x for v, x in zip(voxel, values)}
    layer = round(level * grid.subdivide[fixed])
    expected = np.full_like(section.image, np.nan)
    axes = [i for i in range(3) if i != fixed]
    for iy, y in enumerate(section.y):
        for ix, x in enumerate(section.x):
            full = np.zeros(3, dtype=int)
            full[fixed] = layer
            full[axes] = round(x * grid.subdivide[axes[0]]), round(y * grid.subdivide[axes[1]])
            expected[iy, ix] = value_of.get(tuple(grid.to_asu(full[None])[0]), np.nan)
    np.testing.assert_array_equal(section.image, expected)
    assert section.level == pytest.approx(layer / grid.subdivide[fixed])


def test_plots_are_plain_json(map_):
    grid, voxel, values = map_
    plots = section_plots(voxel, {"intensity": values}, grid, ["hk0", "hk300"])
    assert list(plots) == ["section_intensity_hk0"]  # no voxel that far out
    plot = json.loads(json.dumps(plots, allow_nan=False))["section_intensity_hk0"]
    z = np.array(plot["data"][0]["z"], dtype=float)
    section = map_section(voxel, values, grid, "hk0")
    np.testing.assert_allclose(z, section.image, rtol=1e-3)
    assert plot["layout"]["xaxis"]["title"]["text"] == "h (r.l.u.)"
    assert plot["layout"]["yaxis"]["title"]["text"] == "k (r.l.u.)"
    assert "60.0 degrees" in plot["help"]


def test_averaging_down_keeps_the_mean(map_, monkeypatch):
    import dials_diffuse.report.sections as sections

    grid, voxel, _ = map_
    full = section_plots(voxel, {"intensity": voxel[:, 2] * 1.0 + 7}, grid, ["hk0"])
    monkeypatch.setattr(sections, "_MAX_SIDE", 7)
    small = section_plots(voxel, {"intensity": voxel[:, 2] * 1.0 + 7}, grid, ["hk0"])
    z = np.array(small["section_intensity_hk0"]["data"][0]["z"], dtype=float)
    assert max(z.shape) <= 7 < max(np.shape(full["section_intensity_hk0"]["data"][0]["z"]))
    assert np.nanmin(z) == np.nanmax(z) == 7


def test_isotropic_part(map_):
    grid, voxel, _ = map_
    q = np.linalg.norm(grid.q_of_voxel(voxel), axis=1)
    # a linear function of |q| survives binning by mean |q| and linear interpolation
    inner = (q > 0.02) & (q < 0.15)
    found = isotropic_part(voxel, 5 + 30 * q, grid, 20)
    assert found[inner] == pytest.approx((5 + 30 * q)[inner], rel=1e-9)
    # and an anisotropic part of zero mean at each |q| is not taken for isotropic
    rng = np.random.default_rng(2)
    signal = 5 + 30 * q
    signal[rng.random(len(q)) < 0.1] = np.nan
    plots = section_plots(voxel, {"intensity": signal}, grid, ["h0l"], remove_isotropic=True)
    z = np.array(plots["section_intensity_h0l_anisotropic"]["data"][0]["z"], dtype=float)
    assert np.nanpercentile(abs(z), 95) < 0.3


def test_pngs(map_, tmp_path):
    grid, voxel, values = map_
    sections = map_sections(voxel, values, grid, ["hk0", "0kl", "hk300"])
    paths = write_section_pngs(tmp_path, sections)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["section_0kl.png", "section_hk0.png"]
    for path in paths:
        with open(path, "rb") as handle:
            assert handle.read(8) == b"\x89PNG\r\n\x1a\n"
