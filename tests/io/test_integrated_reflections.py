"""Integrated reflections: which are used, and what their counts are divided by."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, uctbx
from dxtbx.model import Crystal, Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import double_column, int_column, miller_index_column
from dials_diffuse.grid.reindexing import note_reindexing
from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid
from dials_diffuse.io.integrated_reflections import read_integrated, relative_times

GRID = VoxelGrid(
    (2, 2, 2), uctbx.unit_cell((40, 40, 60, 90, 90, 90)), laue_group_from_symbol("P 4", False)
)
TIMES = np.array([0.5, 1.5])


@pytest.fixture
def experiments():
    group = sgtbx.space_group_info("P 4").group()
    crystal = Crystal((40, 0, 0), (0, 40, 0), (0, 0, 60), group)
    stills = ExperimentList([Experiment(identifier=name, crystal=crystal) for name in "ab"])
    attach_grid(stills, GRID)
    return stills


def reflections():
    """Eight reflections; those of id 2 are of a still that is not among the experiments."""
    table = flex.reflection_table()
    table["id"] = int_column([0, 0, 1, 1, 2, -1, 0, 1])
    index = [
        (1, 2, 3),
        (-2, 1, -3),
        (3, 2, 1),
        (0, 0, 0),
        (1, 1, 1),
        (1, 1, 1),
        (4, 1, 0),
        (1, 5, 2),
    ]
    table["miller_index"] = miller_index_column(np.array(index))
    table["intensity.sum.value"] = double_column([10.0, 20, 30, 40, 50, 60, np.nan, 80])
    table["intensity.sum.variance"] = double_column([1.0, 2, 3, 4, 5, 6, 7, 0])
    table["partiality"] = double_column([0.5, 0.25, 1.0, 1, 1, 1, 1, 1])
    # the order of ids is not that of the experiments
    for number, name in ((0, "b"), (1, "a"), (2, "other")):
        table.experiment_identifiers()[number] = name
    return table


def read(table, experiments, times=TIMES, min_partiality=0.0):
    return read_integrated(table, "x.refl", experiments, GRID, times, min_partiality)


def test_rows_of_these_stills_that_can_be_used(experiments):
    found = read(reflections(), experiments)
    # left out: h = 0, unknown stills, id -1, counts that are no number, no variance
    assert found.rows.tolist() == [0, 1, 2]
    assert found.still.tolist() == [1, 1, 0]
    assert found.counts.tolist() == [10, 20, 30] and found.variance.tolist() == [1, 2, 3]
    assert found.exposure == pytest.approx([0.5 * 1.5, 0.25 * 1.5, 1.0 * 0.5])
    assert found.partiality == "used"


def test_friedel_mates_are_one_reflection(experiments):
    found = read(reflections(), experiments)
    # (-2, 1, -3) is (1, 2, 3) turned about the fourfold axis, and its mate
    assert found.miller_index[0].tolist() == found.miller_index[1].tolist()
    assert found.miller_index[0].tolist() != found.miller_index[2].tolist()


def test_polarisation_and_efficiency_are_in_the_exposure(experiments):
    table = reflections()
    table["lp"] = double_column(np.full(8, 1.25))
    table["qe"] = double_column(np.full(8, 0.8))
    ratio = read(table, experiments).exposure / read(reflections(), experiments).exposure
    assert ratio == pytest.approx(0.8 / 1.25)


def test_partiality(experiments):
    table = reflections()
    assert read(table, experiments, min_partiality=0.5).rows.tolist() == [0, 2]
    table["partiality"] = flex.double(8, 1.0)
    assert read(table, experiments).partiality == "all 1"
    del table["partiality"]
    found = read(table, experiments)
    assert found.partiality == "absent"
    assert found.exposure == pytest.approx([1.5, 1.5, 0.5])


def test_stills_without_a_time_are_left_out(experiments):
    found = read(reflections(), experiments, np.array([np.nan, 1.0]))
    assert found.rows.tolist() == [0, 1]


def test_profile_fitted_intensities_where_there_are_no_sums(experiments):
    table = reflections()
    table["intensity.prf.value"] = table["intensity.sum.value"] * 2
    table["intensity.prf.variance"] = table["intensity.sum.variance"]
    assert read(table, experiments).counts.tolist() == [10, 20, 30]
    del table["intensity.sum.variance"]
    assert read(table, experiments).counts.tolist() == [20, 40, 60]


def test_indices_follow_the_reindexing_of_their_still(experiments):
    before = read(reflections(), experiments).miller_index
    note_reindexing(experiments[0], sgtbx.change_of_basis_op("k,h,-l"))
    found = read(reflections(), experiments).miller_index
    np.testing.assert_array_equal(found[:2], before[:2])
    # the third row is of the first experiment: (3, 2, 1), which becomes (2, 3, -1)
    h, k, l = 2, 3, -1
    rotated = np.array([(h, k, l), (-k, h, l), (-h, -k, l), (k, -h, l)])
    equivalent = np.concatenate([rotated, -rotated]).tolist()
    assert found[2].tolist() in equivalent
    assert before[2].tolist() not in equivalent


@pytest.mark.parametrize(
    "column, message",
    [
        ("id", "no column id"),
        ("miller_index", "no column miller_index"),
        ("intensity.sum.value", "holds no integrated intensities"),
    ],
)
def test_tables_of_other_steps_are_refused(experiments, column, message):
    table = reflections()
    del table[column]
    with pytest.raises(ValueError, match=f"x.refl.* {message}|x.refl {message}"):
        read(table, experiments)


def test_reflections_of_other_stills_are_refused(experiments):
    for experiment, name in zip(experiments, "cd"):
        experiment.identifier = name
    with pytest.raises(ValueError, match="does not match the experiments"):
        read(reflections(), experiments)


def test_times_are_relative_to_their_mean():
    exposure, n_pixels = np.array([2.0, 0.0, 12.0]), np.array([10, 0, 20])
    times = relative_times(exposure, n_pixels)
    assert times[[0, 2]] == pytest.approx([0.5, 1.5]) and np.isnan(times[1])
