"""The grid of a run: its cell, symmetry and limits, and the stills that are left out."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import uctbx
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid
from dials_diffuse.gridding.coverage import VoxelAccumulator
from dials_diffuse.gridding.definition import (
    coarsening,
    define_grid,
    load_experiment_lists,
    with_index_range,
)
from dials_diffuse.gridding.settings import GridSettings, SharedGridSettings
from dials_diffuse.phil.defaults import default_settings

LENGTHS = [(40.0, 60.0), (40.2, 60.3), (39.9, 59.8), (40.1, 60.1), (42.0, 60.0)]


def still(name, a, c, space_group="P 4"):
    return Experiment(
        identifier=name,
        crystal=Crystal((a, 0, 0), (0, a, 0), (0, 0, c), space_group_symbol=space_group),
        beam=Beam((0, 0, 1), 1.0),
        detector=Detector(),
    )


def extracted_lists(space_group="P 4", subdivide=(6, 6, 3), **limits):
    """Two lists of three and two stills, with the cells of LENGTHS, as extraction leaves them."""
    stills = [still(f"still-{i}", *cell, space_group) for i, cell in enumerate(LENGTHS)]
    lists = [ExperimentList(stills[:3]), ExperimentList(stills[3:])]
    cell = uctbx.unit_cell((40, 40, 60, 90, 90, 90))
    grid = VoxelGrid(subdivide, cell, laue_group_from_symbol("P 1"), **limits)
    for experiments in lists:
        attach_grid(experiments, grid)
    return lists


def settings(shared=None, **changes):
    return default_settings(
        GridSettings, grid=default_settings(SharedGridSettings, **(shared or {})), **changes
    )


def test_subdivisions_that_can_not_be_had():
    for extracted, wanted in (
        ((3, 3, 3), (2, 2, 2)),
        ((4, 4, 4), (2, 2, 2)),
        ((3, 3, 3), (6, 6, 6)),
        ((6, 6, 3), (3, 3, 3)),
    ):
        with pytest.raises(ValueError, match="can't be made of the extracted"):
            coarsening(extracted, wanted)
    with pytest.raises(ValueError, match="a: 15 or 5 or 3 or 1, b: 6 or 2, c: 1"):
        coarsening((15, 6, 1), (15, 6, 2))


def test_the_grid_has_the_median_cell_and_the_symmetry_of_the_crystals():
    lists = extracted_lists(d_min=4.0)
    definition = define_grid(lists, settings())
    grid = definition.grid
    assert grid.unit_cell.parameters() == pytest.approx((40.1, 40.1, 60, 90, 90, 90))
    assert grid.laue_group == laue_group_from_symbol("P 4/m")
    assert grid.subdivide == definition.extracted.subdivide == (6, 6, 3)
    assert grid.d_min == 4.0 and grid.d_max is None and grid.index_range is None
    assert definition.extracted.laue_group == laue_group_from_symbol("P 1")
    assert definition.experiments is lists


def test_the_choices_of_the_user_come_first():
    cell = uctbx.unit_cell((41, 41, 61, 90, 90, 90))
    shared = {"laue_group": "P 4 2 2", "friedel": False, "reference_cell": cell}
    grid = define_grid(extracted_lists(), settings(shared, subdivide=(2, 2, 1))).grid
    assert grid.unit_cell.parameters() == pytest.approx(cell.parameters())
    assert grid.subdivide == (2, 2, 1)
    assert grid.laue_group.order_z() == 8 and not grid.friedel
    with pytest.raises(ValueError, match="can't be made of the extracted 6,6,3"):
        define_grid(extracted_lists(), settings(subdivide=(4, 4, 1)))
    with pytest.raises(ValueError, match="does not have the symmetry of Laue group"):
        define_grid(extracted_lists(subdivide=(3, 3, 3)), settings({"laue_group": "P 2 3"}))


@pytest.mark.parametrize(
    "extracted, given, expected",
    [
        ({"d_min": 4.0, "d_max": 30.0}, {}, (4.0, 30.0)),
        ({"d_min": 4.0, "d_max": 30.0}, {"d_min": 3.0, "d_max": 50.0}, (4.0, 30.0)),
        ({"d_min": 4.0, "d_max": 30.0}, {"d_min": 5.0, "d_max": 20.0}, (5.0, 20.0)),
        ({}, {"d_max": 20.0}, (None, 20.0)),
    ],
)
def test_the_narrower_limits_hold(extracted, given, expected):
    grid = define_grid(extracted_lists(**extracted), settings(**given)).grid
    assert (grid.d_min, grid.d_max) == expected


def test_limits_with_nothing_between():
    with pytest.raises(ValueError, match="Nothing lies between d_max=3 and d_min=4"):
        define_grid(extracted_lists(d_min=4.0), settings(d_max=3.0))


def test_stills_with_another_cell_are_left_out_by_file():
    # the last still, second of its file, is 4.7 % longer than the median of 40.1 A
    assert define_grid(extracted_lists(), settings()).excluded == [[], []]
    definition = define_grid(extracted_lists(), settings({"max_cell_deviation": 0.02}))
    assert definition.excluded == [[], [1]]
    assert definition.cell.deviation[4] == pytest.approx(42 / 40.1 - 1)
    # 40.2 A of the second still is 0.25 % more than the median, 60.3 A 0.5 %
    definition = define_grid(extracted_lists(), settings({"max_cell_deviation": 0.004}))
    assert definition.excluded == [[1, 2], [1]]
    far = {"max_cell_deviation": 0.01, "reference_cell": uctbx.unit_cell((50, 50, 60, 90, 90, 90))}
    with pytest.raises(ValueError, match="All stills deviate from the reference cell"):
        define_grid(extracted_lists(), settings(far))


def test_crystals_of_different_space_groups():
    lists = [extracted_lists()[0], extracted_lists("P 4 2 2")[1]]
    with pytest.raises(ValueError, match="different space groups"):
        define_grid(lists, settings())


def test_files_that_can_not_be_used(tmp_path):
    with pytest.raises(ValueError, match="No .expt file"):
        load_experiment_lists([], [])
    path = tmp_path / "extracted.expt"
    extracted_lists()[0].as_file(path)
    with pytest.raises(ValueError, match="No .refl file"):
        load_experiment_lists([DataPair(path)], [])
    pair = DataPair(path, tmp_path / "extracted.refl")
    (experiments,) = load_experiment_lists([pair], [])
    assert list(experiments.identifiers()) == ["still-0", "still-1", "still-2"]
    with pytest.raises(ValueError, match="still-0"):
        load_experiment_lists([pair, pair], [])


def test_range_of_the_voxels_that_were_seen():
    grid = define_grid(extracted_lists(), settings(d_max=30.0)).grid
    sums = VoxelAccumulator()
    with pytest.raises(ValueError, match="between d_max=30 and d_min=0 A"):
        with_index_range(grid, sums)
    voxel = np.array([[3, 0, -2], [-1, 4, 0], [9, 9, 9]], dtype=np.int32)
    sums.add(
        {
            "id": np.zeros(3, np.int32),
            "asu_voxel": voxel,
            "bragg": np.array([False, False, True]),
            "counts": np.ones(3),
            "background": np.zeros(3),
            "exposure": np.ones(3),
        }
    )
    # the voxel under a Bragg spot does not count
    assert with_index_range(grid, sums).index_range == ((-1, 3), (0, 4), (-2, 0))
