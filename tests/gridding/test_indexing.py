"""Settings that a lattice can be indexed in."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, uctbx
from dxtbx.model import Crystal

from dials.array_family import flex

from dials_diffuse.grid.symmetry import laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.indexing import possible_settings, reindex_rows

HEXAGONAL = (40, 40, 60, 90, 90, 120)


def settings_of(symbol, cell, n=(2, 2, 2)):
    group = sgtbx.space_group_info(symbol).group()
    grid = VoxelGrid(n, uctbx.unit_cell(cell), laue_group_of(group))
    return possible_settings(grid, group, 2.0)


@pytest.mark.parametrize(
    "symbol, cell, number",
    [
        ("P 41", (40, 40, 60, 90, 90, 90), 2),
        ("I 4", (40, 40, 60, 90, 90, 90), 2),
        ("P 41 21 2", (40, 40, 60, 90, 90, 90), 1),
        ("P 31", HEXAGONAL, 4),
        ("P 3 2 1", HEXAGONAL, 2),
        ("P 6", HEXAGONAL, 2),
        ("P 61 2 2", HEXAGONAL, 1),
        ("R 3 :H", HEXAGONAL, 2),
        ("I 2 3", (40, 40, 40, 90, 90, 90), 2),
        ("P 21 21 21", (40, 40.1, 60, 90, 90, 90), 2),
        ("P 21 21 21", (40, 44, 60, 90, 90, 90), 1),
        ("P 1", (30, 40, 50, 80, 85, 95), 1),
    ],
)
def test_number_of_settings(symbol, cell, number):
    """The merohedral twin laws of the textbooks: lattice order over Laue order"""
    settings = settings_of(symbol, cell)
    assert len(settings) == number
    assert settings[0].name == "h,k,l"


def test_a_setting_that_the_subdivision_forbids_is_not_tried():
    assert len(settings_of("P 21 21 21", (40, 40.1, 60, 90, 90, 90), (2, 3, 2))) == 1


def test_operator_and_matrix_belong_together():
    for symbol, cell in (
        ("P 31", HEXAGONAL),
        ("P 4", (40, 40, 60, 90, 90, 90)),
        ("I 2 3", (40,) * 3 + (90,) * 3),
    ):
        axes = np.array(uctbx.unit_cell(cell).orthogonalization_matrix()).reshape(3, 3).T
        crystal = Crystal(*(tuple(axis) for axis in axes), sgtbx.space_group_info(symbol).group())
        h = np.array([1, 2, 3])
        for setting in settings_of(symbol, cell):
            moved = crystal.change_basis(setting.operator)
            before = np.array(crystal.get_A()).reshape(3, 3) @ h
            after = np.array(moved.get_A()).reshape(3, 3) @ (setting.matrix @ h)
            assert after == pytest.approx(before, abs=1e-12)
            assert moved.get_unit_cell().is_similar_to(crystal.get_unit_cell(), 0.001, 0.01)


def test_rows_follow_the_setting_of_their_still():
    settings = settings_of("P 4", (40, 40, 60, 90, 90, 90))
    columns = {"id": np.array([0, 1, 1]), "voxel": np.array([[1, 2, 3], [1, 2, 3], [4, 0, -2]])}
    reindex_rows(columns, np.array([0, 1]), settings)
    assert columns["voxel"][0].tolist() == [1, 2, 3]
    expected = settings[1].operator.apply(flex.miller_index([(1, 2, 3), (4, 0, -2)]))
    assert [tuple(row) for row in columns["voxel"][1:]] == list(expected)
