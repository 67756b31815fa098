"""Stills indexed in one of several settings of their lattice."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.gridding.ambiguity import resolve_files
from dials_diffuse.gridding.definition import define_grid, load_experiment_lists
from dials_diffuse.gridding.indexing import reindex_experiments, reindex_rows
from dials_diffuse.gridding.settings import AmbiguitySettings, GridSettings
from dials_diffuse.phil.defaults import default_settings

HEXAGONAL = (40, 40, 60, 90, 90, 120)


def run(folder, names, **parameters):
    pairs = [DataPair(folder / e, folder / r) for e, r in zip(names[::2], names[1::2])]
    definition = define_grid(load_experiment_lists(pairs, []), default_settings(GridSettings))
    settings = default_settings(AmbiguitySettings, **parameters)
    return pairs, definition, resolve_files(pairs, definition, settings)


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
