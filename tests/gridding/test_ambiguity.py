"""Stills indexed in one of several settings of their lattice."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, uctbx
from dxtbx.model import Crystal

from dials_diffuse.adapters.experiments import DataPair
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.symmetry import laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.ambiguity import (
    possible_settings,
    reindex_experiments,
    reindex_rows,
    resolve_files,
)
from dials_diffuse.gridding.gridding import GridSettings, define_grid
from dials_diffuse.phil.grid import phil_scope

HEXAGONAL = (40, 40, 60, 90, 90, 120)


def settings_of(symbol, cell, n=(2, 2, 2)):
    group = sgtbx.space_group_info(symbol).group()
    grid = VoxelGrid(n, uctbx.unit_cell(cell), laue_group_of(group))
    return possible_settings(grid, group)


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


def run(folder, names, **parameters):
    params = phil_scope.extract().ambiguity
    for name, value in parameters.items():
        setattr(params, name, value)
    pairs = [DataPair(folder / e, folder / r) for e, r in zip(names[::2], names[1::2])]
    definition = define_grid(pairs, [], GridSettings())
    return pairs, definition, resolve_files(pairs, definition, params)


def test_half_of_the_stills_swapped(make_extracted, tmp_path):
    n = 100
    swapped = set(np.random.default_rng(4).permutation(n)[: n // 2].tolist())
    names, _, _, _ = make_extracted(
        tmp_path, n, 2, subdivide=(2, 2, 2), swapped=("k,h,-l", swapped), exposure=0.1
    )
    # fewer reference stills than stills: both ways of choosing are used
    pairs, definition, found = run(tmp_path, names, n_reference=40)
    truth = np.array([still in swapped for still in range(n)], dtype=int)
    right = max((found.chosen == truth).mean(), (found.chosen != truth).mean())
    assert right >= 0.99
    assert found.significance > 5
    # and the crystals and voxels agree with the truth again
    expected, actual = [], []
    for number, pair in enumerate(pairs):
        experiments, table = pair.load(check_format=False)
        before = [np.array(e.crystal.get_A()).reshape(3, 3) for e in experiments]
        old = as_numpy(table["voxel"]).copy()
        reindex_experiments(experiments, found.files[number], found.settings)
        ids = as_numpy(table["id"])
        columns = {"id": ids, "voxel": old}
        reindex_rows(columns, found.files[number], found.settings)
        for i, experiment in enumerate(experiments):
            rows = ids == i
            expected.append(old[rows] @ before[i].T)
            actual.append(
                columns["voxel"][rows] @ np.array(experiment.crystal.get_A()).reshape(3, 3).T
            )
            assert experiment.crystal.get_space_group().info().symbol_and_number() == "P 4 (No. 75)"
    assert np.concatenate(actual) == pytest.approx(np.concatenate(expected), abs=1e-9)


def test_four_settings(make_extracted, tmp_path):
    n = 32
    swapped = set(range(1, n, 3))
    names, _, _, _ = make_extracted(
        tmp_path,
        n,
        space_group="P 3",
        cell=HEXAGONAL,
        subdivide=(2, 2, 2),
        d_min=4.5,
        swapped=("k,h,-l", swapped),
        exposure=0.3,
    )
    _, _, found = run(tmp_path, names)
    assert len(found.settings) == 4
    changed = found.chosen > 0
    assert set(np.flatnonzero(changed)) == swapped
    assert len(set(found.chosen[changed])) == 1


def test_stills_in_one_setting_stay(make_extracted, tmp_path):
    names, _, _, _ = make_extracted(tmp_path, 12, subdivide=(2, 2, 2))
    _, _, found = run(tmp_path, names)
    assert not found.chosen.any()


def test_without_signal_all_stays(make_extracted, tmp_path):
    names, _, _, _ = make_extracted(tmp_path, 12, subdivide=(2, 2, 2), exposure=1e-5)
    _, _, found = run(tmp_path, names)
    assert not found.chosen.any()
    assert not found.significance > 5


def test_no_ambiguity_no_search(make_extracted, tmp_path):
    names, _, _, _ = make_extracted(tmp_path, 3, space_group="P 41 21 2", subdivide=(1, 1, 1))
    assert run(tmp_path, names)[2] is None
