"""Pairs of files are read together, and the other files of a command by type."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_experiments import experiment_list, table_of

from dials_diffuse.adapters.inputs import DataPair, Inputs


@pytest.fixture
def pair(tmp_path):
    experiment_list(["a", "b", "c"]).as_file(str(tmp_path / "some.expt"))
    table_of(["a", "b", "c"], [(0, 1.0), (2, 3.0)]).as_file(str(tmp_path / "some.refl"))
    return DataPair(tmp_path / "some.expt", tmp_path / "some.refl")


def test_pair(pair):
    experiments, table = pair.load(check_format=False)
    assert [e.identifier for e in experiments] == ["a", "b", "c"]
    assert list(table["id"]) == [0, 2]
    # a still without rows keeps its identifier
    assert dict(table.experiment_identifiers()) == {0: "a", 1: "b", 2: "c"}
    assert DataPair(pair.experiments).load(check_format=False)[1] is None


def test_identifiers_are_made_where_there_are_none(tmp_path):
    experiment_list(["", ""]).as_file(str(tmp_path / "some.expt"))
    table_of([], [(1, 1.0)]).as_file(str(tmp_path / "some.refl"))
    experiments, table = DataPair(tmp_path / "some.expt", tmp_path / "some.refl").load(False)
    names = [e.identifier for e in experiments]
    assert all(names) and len(set(names)) == 2
    assert list(table.experiment_identifiers().values()) == names


def test_identifiers_are_made_also_without_a_table(tmp_path):
    experiments = experiment_list(["", "", ""])
    experiments.as_file(str(tmp_path / "x.expt"))
    loaded, _ = DataPair(tmp_path / "x.expt").load(check_format=False)
    assert len({e.identifier for e in loaded} - {""}) == 3


def test_a_pair_without_experiments_is_refused(tmp_path):
    (tmp_path / "some.expt").write_text("{ this is neither")
    with pytest.raises(ValueError, match="some.expt"):
        DataPair(tmp_path / "some.expt").load(False)


def test_other_files_by_type():
    inputs = Inputs([], [Path("a.json"), Path("b.refl"), Path("c.json")])
    assert inputs.model_copies() == [Path("a.json"), Path("c.json")]
    assert inputs.of_type(".refl") == [Path("b.refl")]
