"""Columns that processes leave for one of them to write."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest

from dials_diffuse.adapters.system import map_in_processes
from dials_diffuse.io.scratch import ColumnScratch
from dials_diffuse.io.table_file import ColumnWriter, read_columns

KINDS = {"id": (np.int32, ()), "voxel": (np.int32, (3,)), "counts": (np.float64, ())}


def rows(number: int) -> dict[str, np.ndarray]:
    n = 7 * number % 11
    return {
        "id": np.full(n, number, dtype=np.int32),
        "voxel": np.arange(3 * n, dtype=np.int32).reshape(n, 3) + number,
        "counts": np.random.default_rng(number).random(n),
    }


def store(task) -> int:
    scratch, slot, number = task
    return scratch.store(slot, rows(number))


@pytest.mark.parametrize("nproc", [1, 2])
def test_rows_that_others_stored_are_written(tmp_path, nproc):
    with ColumnScratch(tmp_path, KINDS, 11) as scratch, ColumnWriter(tmp_path) as writer:
        # not in the order of the slots
        tasks = [(scratch, scratch.reserve(), 19 - number) for number in range(20)]
        for (_, slot, _), n_rows in zip(tasks, map_in_processes(store, tasks, nproc)):
            writer.append(scratch.stored(slot, n_rows))
        writer.write(tmp_path / "table.refl", {})
    assert [path.name for path in tmp_path.iterdir()] == ["table.refl"]
    found = read_columns(tmp_path / "table.refl", list(KINDS))
    for name in KINDS:
        expected = np.concatenate([rows(19 - number)[name] for number in range(20)])
        assert np.array_equal(found.columns[name], expected)


def test_columns_that_are_left_out(tmp_path):
    with ColumnScratch(tmp_path, KINDS, 11) as scratch, ColumnWriter(tmp_path) as writer:
        n_rows = scratch.store(0, rows(3), repeated=["counts"])
        writer.append(scratch.stored(0, n_rows, {"counts": 2.5}))
        writer.write(tmp_path / "table.refl", {})
    found = read_columns(tmp_path / "table.refl").columns
    assert np.array_equal(found["counts"], np.full(n_rows, 2.5))
    assert np.array_equal(found["voxel"], rows(3)["voxel"])


def test_slots_are_used_again(tmp_path):
    with ColumnScratch(tmp_path, KINDS, 11) as scratch:
        first, second = scratch.reserve(), scratch.reserve()
        assert first != second
        scratch.free(first)
        assert scratch.reserve() == first
        assert scratch.reserve() not in (first, second)


def test_files_without_names_where_the_system_has_them(tmp_path):
    with ColumnScratch(tmp_path, KINDS, 11) as scratch:
        assert not list(tmp_path.iterdir())
        again = pickle.loads(pickle.dumps(scratch))
        assert again.store(0, rows(1)) == 7
        assert scratch.stored(0, 7)["counts"].nbytes == 56


def test_files_with_names_elsewhere(tmp_path, monkeypatch):
    # no /proc
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with ColumnScratch(tmp_path, KINDS, 11) as scratch, ColumnWriter(tmp_path) as writer:
        assert len(list(tmp_path.iterdir())) == len(KINDS)
        again = pickle.loads(pickle.dumps(scratch))
        writer.append(scratch.stored(3, again.store(3, rows(2))))
        writer.write(tmp_path / "table.refl", {})
    assert [path.name for path in tmp_path.iterdir()] == ["table.refl"]


def test_rows_that_do_not_fit(tmp_path):
    with ColumnScratch(tmp_path, KINDS, 5) as scratch:
        with pytest.raises(ValueError, match="does not fit"):
            scratch.store(0, rows(1))
        with pytest.raises(ValueError, match="does not fit"):
            scratch.store(0, rows(11) | {"counts": np.zeros((0, 2))})


@pytest.mark.skipif(sys.platform != "linux", reason="other systems can't")
def test_what_is_copied_takes_no_room_any_more(tmp_path):
    n = 1_000_000
    with ColumnScratch(tmp_path, {"counts": (np.float64, ())}, n) as scratch:
        slot = scratch.reserve()
        scratch.store(slot, {"counts": np.ones(n)})
        column = scratch.stored(slot, n)["counts"]
        before = os.stat(column.file.fileno()).st_blocks * 512
        with open(tmp_path / "out", "wb", buffering=0) as out:
            column.copy_to(out)
        after = os.stat(column.file.fileno()).st_blocks * 512
    assert before >= 8 * n
    assert after < 0.01 * before
    assert np.array_equal(np.fromfile(tmp_path / "out"), np.ones(n))
