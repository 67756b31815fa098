"""Tables written and read column by column, against DIALS's own reading and writing."""

from __future__ import annotations

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_column, as_numpy
from dials_diffuse.io.table_file import ColumnWriter, read_columns


def rows(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "id": generator.integers(0, 20, n).astype(np.int32),
        "panel": generator.integers(0, 3, n).astype(np.uint64),
        "voxel": generator.integers(-500, 500, (n, 3)).astype(np.int32),
        "xyzobs.px.value": generator.random((n, 3)),
        "mean.px": generator.random((n, 2)),
        "bragg": generator.random(n) > 0.5,
        "counts": generator.random(n),
    }


NAMES = {i: f"a name of more than thirty-one letters {i}" for i in range(20)} | {
    200: "short",
    70000: "",
}


@pytest.mark.parametrize("in_memory", [10, 20_000, 10**9])
def test_dials_reads_what_was_appended(tmp_path, in_memory):
    parts = [rows(n, n) for n in (100, 0, 17, 300)]
    with ColumnWriter(tmp_path, in_memory) as writer:
        for part in parts:
            writer.append(part)
        writer.write(tmp_path / "table.refl", NAMES)
    table = flex.reflection_table.from_file(str(tmp_path / "table.refl"))
    assert table.size() == 417
    assert sorted(table.keys()) == sorted(parts[0])
    for name in parts[0]:
        assert np.array_equal(
            as_numpy(table[name]), np.concatenate([part[name] for part in parts])
        ), name
    found = dict(
        zip(table.experiment_identifiers().keys(), table.experiment_identifiers().values())
    )
    assert found == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["table.refl"]


def test_rows_that_are_all_alike(tmp_path):
    """They are written whole, though only one of them is kept"""
    n = 300_000
    parts = {
        "id": np.broadcast_to(np.int32(3), n),
        "xyzobs.px.value": np.broadcast_to(np.array([1.5, 2.5, 0.5]), (n, 3)),
        "counts": np.arange(n, dtype=float),
    }
    with ColumnWriter(tmp_path, in_memory=10) as writer:
        writer.append({name: values[:1] for name, values in parts.items()})
        writer.append(parts)
        writer.write(tmp_path / "table.refl", {})
    table = flex.reflection_table.from_file(str(tmp_path / "table.refl"))
    for name, values in parts.items():
        assert np.array_equal(as_numpy(table[name]), np.concatenate([values[:1], values])), name


def test_what_dials_wrote_is_read(tmp_path):
    expected = rows(1000)
    with ColumnWriter(tmp_path) as writer:
        writer.append(expected)
        writer.write(tmp_path / "first.refl", NAMES)
    # ... and written again by DIALS, in the version it likes
    flex.reflection_table.from_file(str(tmp_path / "first.refl")).as_file(
        str(tmp_path / "second.refl")
    )
    for name in ("first.refl", "second.refl"):
        found = read_columns(tmp_path / name, [*expected, "missing"])
        assert found.n_rows == 1000 and found.identifiers == NAMES
        assert list(found.columns) == list(expected)
        for column, values in expected.items():
            assert np.array_equal(found.columns[column], values)


def test_a_table_without_rows(tmp_path):
    with ColumnWriter(tmp_path) as writer:
        writer.append(rows(0))
        writer.write(tmp_path / "table.refl", {0: "one"})
    table = flex.reflection_table.from_file(str(tmp_path / "table.refl"))
    assert table.size() == 0 and list(table.experiment_identifiers().values()) == ["one"]
    found = read_columns(tmp_path / "table.refl", ["id"])
    assert found.n_rows == 0


def test_tables_of_other_columns_come_through_dials(tmp_path):
    table = flex.reflection_table()
    table["id"] = flex.int([1, 2])
    table["name"] = flex.std_string(["a", "b"])
    table.as_file(str(tmp_path / "table.refl"))
    found = read_columns(tmp_path / "table.refl", ["id"])
    assert found.columns["id"].tolist() == [1, 2]


@pytest.mark.parametrize("by_dials_alone", [False, True])
def test_rows_are_written_again_with_other_columns(tmp_path, by_dials_alone):
    old = rows(1000)
    table = flex.reflection_table()
    for name, values in old.items():
        table[name] = as_column(values)
    if by_dials_alone:
        table["name"] = flex.std_string(["a"] * 1000)
    table.as_file(str(tmp_path / "first.refl"))
    found = read_columns(tmp_path / "first.refl")
    assert (found.table is None) is not by_dials_alone
    more = rows(1000, seed=1)
    more = {
        "id": more["id"],
        "offset": more["counts"],
        "outlier": more["bragg"],
        "s1": more["xyzobs.px.value"],
        "panel": more["panel"],
        "asu_voxel": more["voxel"],
    }
    found.write(tmp_path / "second.refl", NAMES, more)
    again = flex.reflection_table.from_file(str(tmp_path / "second.refl"))
    expected = {**old, **more}
    assert set(again.keys()) == {*expected, *(["name"] if by_dials_alone else [])}
    for name, values in expected.items():
        assert np.array_equal(as_numpy(again[name]), values), name
    names = again.experiment_identifiers()
    assert dict(zip(names.keys(), names.values())) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.refl", "second.refl"]


@pytest.mark.parametrize("by_dials_alone", [False, True])
def test_ids_that_were_renumbered_are_written(tmp_path, by_dials_alone):
    table = flex.reflection_table()
    table["id"], table["counts"] = flex.int([0, 0, 1]), flex.double([1, 2, 3])
    if by_dials_alone:
        table["name"] = flex.std_string(["a", "b", "c"])
    table.experiment_identifiers()[0], table.experiment_identifiers()[1] = "b", "a"
    table.as_file(str(tmp_path / "first.refl"))
    found = read_columns(tmp_path / "first.refl")
    found.columns["id"] = 1 - found.columns["id"]
    found.write(tmp_path / "second.refl", {0: "a", 1: "b"}, {"offset": np.zeros(3)})
    again = flex.reflection_table.from_file(str(tmp_path / "second.refl"))
    assert list(again["id"]) == [1, 1, 0] and list(again["counts"]) == [1, 2, 3]
    assert dict(again.experiment_identifiers()) == {0: "a", 1: "b"}


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        read_columns(tmp_path / "none.refl", ["id"])
    (tmp_path / "bad.refl").write_bytes(b"\x93 not a table")
    with pytest.raises(ValueError, match="bad.refl"):
        read_columns(tmp_path / "bad.refl", ["id"])
    with ColumnWriter(tmp_path) as writer:
        writer.append(rows(1000))
        writer.write(tmp_path / "whole.refl", NAMES)
    whole = (tmp_path / "whole.refl").read_bytes()
    (tmp_path / "cut.refl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.refl"):
        read_columns(tmp_path / "cut.refl", ["id"])


def test_rows_that_do_not_belong_together():
    with ColumnWriter() as writer:
        writer.append(rows(5))
        with pytest.raises(ValueError, match="other columns"):
            writer.append({"id": np.zeros(3, dtype=np.int32)})
    with ColumnWriter() as writer, pytest.raises(ValueError, match="no type"):
        writer.append({"id": np.zeros(3, dtype=np.int16)})
    with ColumnWriter() as writer, pytest.raises(ValueError, match="different lengths"):
        writer.append({"id": np.zeros(3, dtype=np.int32), "counts": np.zeros(4)})
    many = np.broadcast_to(np.float64(1.0), (2**29, 1))[:, 0]
    with ColumnWriter() as writer, pytest.raises(ValueError, match="batch_size"):
        writer.append({"counts": many})
