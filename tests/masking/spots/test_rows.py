from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking.spots.rows import CollectedSpots, SpotRows, spots_table


def some_rows(n, seed):
    rng = np.random.default_rng(seed)
    return SpotRows(
        rng.integers(0, 4, n),
        rng.integers(-9, 10, (n, 3)).astype(np.int32),
        rng.uniform(0, 100, (n, 2)),
        rng.integers(0, 100, (n, 4)).astype(np.int32),
        rng.uniform(0, 1, (n, 3)),
        rng.uniform(0, 1, n),
        rng.normal(size=n),
        rng.normal(size=(n, 2, 2)),
    )


def test_joined_rows_are_all_rows_in_order():
    parts = [some_rows(3, 1), some_rows(0, 2), some_rows(5, 3)]
    joined = SpotRows.joined(parts)
    for field in dataclasses.fields(SpotRows):
        columns = [getattr(part, field.name) for part in parts]
        assert np.array_equal(getattr(joined, field.name), np.concatenate(columns))
    bare = SpotRows.joined([parts[0], parts[2].for_table()])
    assert bare.q is None and np.array_equal(bare.centre, joined.centre)
    assert len(SpotRows.joined([]).panel) == len(SpotRows.none().panel) == 0


def test_table_of_spots():
    rows = some_rows(4, 5)
    table = spots_table(rows, 7, 2.5)
    assert list(table["id"]) == [7] * 4 and set(table["flags"]) == {table.flags.predicted}
    assert np.array_equal(as_numpy(table["xyzcal.px"])[:, :2], rows.centre)
    assert set(as_numpy(table["xyzcal.px"])[:, 2]) == {2.5}
    assert as_numpy(table["bbox"])[:, 4:].tolist() == [[2, 3]] * 4
    assert np.array_equal(as_numpy(table["mask.ellipse"]), rows.ellipse)


@pytest.mark.parametrize("most_waiting", [5, 1000])
def test_collected_spots_are_the_same_as_a_table_and_in_a_file(tmp_path, monkeypatch, most_waiting):
    """Some stills together or one by one; what no lattice explains is strong and not predicted."""
    monkeypatch.setattr(CollectedSpots, "_MOST_WAITING", most_waiting)
    collected, expected = CollectedSpots(), flex.reflection_table()
    for number in range(3):
        rows = some_rows(4 + number, number)
        collected.add(rows, number, 0.5 + number, other=number == 1)
        expected.extend(spots_table(rows, number, 0.5 + number))
    assert len(collected) == expected.size() == 15
    collected.write(tmp_path / "spots.refl", {0: "a", 1: "b", 2: "c"})
    table = collected.into_table()
    assert set(table.keys()) == set(expected.keys())
    for name in ("id", "panel", "miller_index", "xyzcal.px", "bbox", "mask.ellipse"):
        assert list(table[name]) == list(expected[name]), name
    others = as_numpy(table["id"]) == 1
    assert np.array_equal(as_numpy(table.get_flags(table.flags.strong)), others)
    assert np.array_equal(as_numpy(table.get_flags(table.flags.predicted)), ~others)
    read = flex.reflection_table.from_file(str(tmp_path / "spots.refl"))
    assert dict(read.experiment_identifiers()) == {0: "a", 1: "b", 2: "c"}
    for name in table.keys():
        assert list(read[name]) == list(table[name]), name
