"""Rows sorted by voxel, against numpy's sorting."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import in_memory, random_rows

from dials_diffuse.scaling.observations import sorted_rows as module
from dials_diffuse.scaling.observations.sorted_rows import RowCollector

N_STILLS = 12


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    # many temporary files
    monkeypatch.setattr(module, "CHUNK", 100)


def random_table(n=2000, seed=0):
    """(rows sorted by still, packed voxels)"""
    voxels = np.random.default_rng(seed).integers(0, 150, n) * ((1 << 42) + 3)
    return random_rows(n, N_STILLS, seed), voxels


def collected(rows, voxels, keep, folder):
    collector = RowCollector(len(rows), keep, str(folder))
    for part in np.split(np.arange(len(rows)), [0, 300, 301, 1500]):
        collector.add(rows[part], voxels[part])
    return collector.finish()


def everything(found):
    return found.rows(slice(0, len(found.voxels)))


@pytest.mark.parametrize("keep", [10**6, 500, 1])
def test_rows_of_each_voxel(keep, tmp_path):
    rows, voxels = random_table()
    found = collected(rows, voxels, keep, tmp_path)
    assert len(found) == len(rows)
    assert sorted(found.voxels) == sorted(set(voxels.tolist()))
    for place, voxel in enumerate(found.voxels):
        of_voxel = found.rows(slice(place, place + 1))
        assert (of_voxel["voxel"] == place).all()
        expected = rows[voxels == voxel]
        for name in set(rows.dtype.names) - {"voxel"}:
            np.testing.assert_array_equal(of_voxel[name], expected[name])
    assert not any(tmp_path.iterdir())


def test_in_memory_the_voxels_are_sorted(tmp_path):
    found = collected(*random_table(), 10**6, tmp_path)
    assert (np.diff(found.voxels) > 0).all()


@pytest.mark.parametrize("keep", [10**6, 500])
def test_stills_that_come_in_disorder(keep, tmp_path):
    rows, voxels = random_table()
    order = np.random.default_rng(1).permutation(300)
    rows[:300], voxels[:300] = rows[order], voxels[order]
    found = collected(rows, voxels, keep, tmp_path)
    still, voxel = everything(found)["still"].astype(int), everything(found)["voxel"]
    assert (np.diff(voxel * N_STILLS + still) >= 0).all()
    np.testing.assert_array_equal(np.sort(everything(found)["row"]), np.arange(2000))


@pytest.mark.parametrize("keep", [10**6, 500])
@pytest.mark.parametrize("size", [1, 130, 10**6])
def test_chunks_cover_all_voxels_once(keep, size, tmp_path):
    found = collected(*random_table(), keep, tmp_path)
    chunks = found.chunks(size)
    assert [c.start for c in chunks] == [0, *(c.stop for c in chunks[:-1])]
    assert chunks[-1].stop == len(found.voxels)
    most = np.diff(found.start).max()
    numbers = [len(found.rows(chunk)) for chunk in chunks]
    assert sum(numbers) == 2000 and max(numbers) <= size + most
    together = np.concatenate([found.rows(chunk) for chunk in chunks])
    np.testing.assert_array_equal(together, everything(found))


@pytest.mark.parametrize("keep", [10**6, 500])
def test_places_of_voxels(keep, tmp_path):
    found = collected(*random_table(), keep, tmp_path)
    np.testing.assert_array_equal(found.places(found.voxels), np.arange(len(found.voxels)))
    assert found.places(found.voxels + 1).tolist() == [-1] * len(found.voxels)
    both = np.array([7, found.voxels[3], -2, found.voxels[0]])
    assert found.places(both).tolist() == [-1, 3, -1, 0]


def test_a_file_that_gets_no_rows(tmp_path):
    rows, _ = random_table(500)
    found = collected(rows, np.full(500, 9), 1, tmp_path)
    assert found.voxels.tolist() == [9] and found.start.tolist() == [0, 500]
    np.testing.assert_array_equal(everything(found)["row"], rows["row"])


@pytest.mark.parametrize("keep", [10, 0])
def test_no_rows(keep, tmp_path):
    collector = RowCollector(1, keep, str(tmp_path))
    rows, voxels = random_table(0)
    collector.add(rows, voxels)
    found = collector.finish()
    assert len(found) == len(found.voxels) == 0 and found.start.tolist() == [0]
    assert found.chunks() == []


def test_rows_of_one_voxel_are_all_there():
    rows, _ = random_table(40)
    found = in_memory(rows, np.zeros(40, dtype=np.int64))
    np.testing.assert_array_equal(everything(found), rows)
