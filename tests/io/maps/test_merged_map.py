"""Merged maps from tables and files, and parts of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from merged_maps import merged_map, values_at

from cctbx import sgtbx, uctbx
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import double_column, miller_index_column, vec3_column
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid
from dials_diffuse.io.maps.merged_map import MergedMap, check_grid, is_merged, read_merged_map

CELL = (40, 40, 60, 90, 90, 90)


def small_table():
    table = flex.reflection_table()
    table["voxel"] = miller_index_column(np.array([[1, 2, 3], [2, 0, 5]]))
    table["intensity"] = double_column([8.0, 9.0])
    table["variance"] = double_column([4.0, 16.0])
    return table


def small_grid(subdivide=(2, 2, 2), cell=CELL):
    return VoxelGrid(subdivide, uctbx.unit_cell(cell), laue_group_from_symbol("P 4"))


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


def test_not_a_merged_table():
    table = flex.reflection_table()
    table["voxel"] = flex.miller_index([(1, 2, 3)])
    grid = VoxelGrid(
        (1, 1, 1), uctbx.unit_cell((10, 10, 10, 90, 90, 90)), laue_group_from_symbol("P1")
    )
    with pytest.raises(ValueError, match="column intensity is missing"):
        MergedMap.from_table(table, grid)
    with pytest.raises(ValueError, match="empty"):
        MergedMap.from_table(small_table().select(flex.bool([False, False])), grid)


def test_columns_and_units_of_a_table():
    table = small_table()
    table["other"] = double_column([1.0, 2.0])
    merged = MergedMap.from_table(table, small_grid(), 0.9)
    assert list(merged.columns) == ["intensity", "sigma"] and len(merged) == 2
    assert merged.columns["sigma"].tolist() == [2.0, 4.0]
    assert merged.units == "photons/(s sr)" and merged.wavelength == 0.9
    table["incoherent"] = double_column([1.0, 1.0])
    absolute = MergedMap.from_table(table, small_grid())
    assert absolute.units_of("sigma") == "electrons^2 per unit cell"
    assert absolute.units_of("n_obs") == "" and absolute.units_of("exposure") == "s sr"


def test_description_fits_into_headers(merged):
    lines = merged.describe()
    assert max(map(len, lines)) <= 80
    a = merged.grid.unit_cell.parameters()[0]
    assert lines[1].startswith(f"True cell: {a:.4f}") and "with Friedel's law" in lines[2]
    assert "n = {}, {}, {};".format(*merged.grid.subdivide) in lines[3]


def test_half_sets_lose_the_same_mean():
    merged = merged_map("m-3")
    rest = merged.anisotropic()
    mean = merged.columns["intensity"] - rest.columns["intensity"]
    half = merged.columns["half_1"] - rest.columns["half_1"]
    measured = np.isfinite(half)
    assert half[measured] == pytest.approx(mean[measured]) and mean.std() > 0
    np.testing.assert_array_equal(rest.columns["sigma"], merged.columns["sigma"])
    assert rest.title.endswith("isotropic part removed")


def test_expanded_map_has_all_equivalent_voxels(merged):
    whole = merged.expanded()
    assert len(whole) == merged.grid.multiplicity(merged.voxel).sum()
    assert len(np.unique(whole.voxel, axis=0)) == len(whole)
    for name in merged.columns:
        np.testing.assert_array_equal(
            whole.columns[name], values_at(merged, whole.voxel, name).astype(float)
        )


def test_observations_are_no_merged_map():
    table = small_table()
    assert is_merged(table)
    table["counts"] = double_column([1.0, 2.0])
    assert not is_merged(table)
    del table["intensity"], table["counts"]
    assert not is_merged(table)


@pytest.mark.parametrize("column", ["hkl", "d"])
def test_a_table_of_another_grid_is_refused(column):
    table = small_table()
    voxel = np.array([[1, 2, 3], [2, 0, 5]])
    hkl = voxel / 2
    if column == "hkl":
        table["hkl"] = vec3_column(hkl)
        other = small_grid((3, 3, 3))
    else:
        table["d"] = double_column(1 / np.linalg.norm(hkl / [40, 40, 60], axis=1))
        other = small_grid(cell=(41, 41, 60, 90, 90, 90))
    check_grid(table, small_grid())
    with pytest.raises(ValueError, match="made on another grid"):
        check_grid(table, other)


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder with one.expt and two.expt of two wavelengths, merged.refl and observations.refl."""
    group = sgtbx.space_group_info("P 4").group()
    for name, wavelength in (("one", 1.0), ("two", 1.4)):
        experiment = Experiment(
            identifier=name,
            crystal=Crystal((40, 0, 0), (0, 40, 0), (0, 0, 60), group),
            beam=Beam((0, 0, 1), wavelength),
            detector=Detector(),
        )
        experiments = ExperimentList([experiment])
        attach_grid(experiments, small_grid())
        experiments.as_file(tmp_path / f"{name}.expt")
    small_table().as_file(tmp_path / "merged.refl")
    observations = small_table()
    observations["counts"] = double_column([1.0, 2.0])
    observations.as_file(tmp_path / "observations.refl")
    return tmp_path


def test_read_the_one_merged_table(files):
    expts = [files / "one.expt", files / "two.expt"]
    merged, path = read_merged_map(expts, [files / "observations.refl", files / "merged.refl"])
    assert path == files / "merged.refl"
    assert merged.voxel.tolist() == [[1, 2, 3], [2, 0, 5]]
    assert merged.wavelength == pytest.approx(1.2)
    assert merged.grid.to_dict() == small_grid().to_dict()


@pytest.mark.parametrize(
    "expts, refls, message",
    [
        ([], ["merged"], "No .expt file"),
        (["one"], [], "No .refl file"),
        (["one"], ["observations"], "None of the .refl files is a merged map"),
        (["one"], ["merged", "merged"], "Several .refl files are merged maps"),
    ],
)
def test_files_that_can_not_be_used(files, expts, refls, message):
    with pytest.raises(ValueError, match=message):
        read_merged_map(
            [files / f"{name}.expt" for name in expts], [files / f"{name}.refl" for name in refls]
        )


def test_voxels_far_from_nodes(merged):
    with pytest.raises(ValueError, match="no column masked_fraction"):
        merged.masked_up_to(0.5)
    share = np.linspace(0.1, 1, len(merged))
    map_ = dataclasses.replace(merged, columns={**merged.columns, "masked_fraction": share})
    assert map_.units_of("masked_fraction") == ""
    assert map_.masked_up_to(None) is map_
    part = map_.masked_up_to(0.5)
    np.testing.assert_array_equal(part.voxel, merged.voxel[share <= 0.5])
    with pytest.raises(ValueError, match="No voxel is left with max_masked_fraction=0.05"):
        map_.masked_up_to(0.05)
