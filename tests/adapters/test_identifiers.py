"""Tables and experiments are tied by experiment identifiers."""

from __future__ import annotations

import numpy as np
import pytest
from small_experiments import experiment_list, table_of

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.identifiers import match_to_experiments, matched_ids


def test_tables_are_sorted_to_the_experiments():
    experiments = experiment_list(["a", "b", "c"])
    table = table_of(["c", "a"], [(0, 3.0), (1, 1.0), (0, 4.0)])
    matched = match_to_experiments(table, experiments)
    assert sorted(zip(matched["id"], matched["counts"])) == [(0, 1.0), (2, 3.0), (2, 4.0)]
    assert dict(matched.experiment_identifiers()) == {0: "a", 1: "b", 2: "c"}


def test_table_of_other_experiments_is_refused():
    experiments = experiment_list(["a", "b"])
    with pytest.raises(ValueError, match="refl does not match expt.*experiment x is not among"):
        match_to_experiments(table_of(["a", "x"], [(0, 1.0)]), experiments, "refl", "expt")
    with pytest.raises(ValueError, match="reflections of experiment 5, there are only 2"):
        match_to_experiments(table_of([], [(5, 1.0)]), experiments)


def test_table_without_ids_is_refused():
    table = flex.reflection_table()
    table["d"] = flex.double(3, 1.0)
    with pytest.raises(ValueError, match="has no column id"):
        match_to_experiments(table, ExperimentList())


def test_empty_identifiers_name_nothing():
    matched = match_to_experiments(
        table_of(["", "", ""], [(0, 1.0), (2, 3.0)]), experiment_list(["a", "b", "c"])
    )
    assert list(matched["id"]) == [0, 2]
    assert list(matched.experiment_identifiers().values()) == ["a", "b", "c"]


def test_ids_alone_are_renumbered_as_the_ids_of_a_table():
    experiments = experiment_list(["a", "b", "c"])
    ids = np.array([0, 0, 1, 0], dtype=np.int32)
    matched = matched_ids(ids, {0: "c", 1: "a"}, experiments, "refl", "expt")
    assert matched.tolist() == [2, 2, 0, 2] and matched.dtype == np.int32
    assert matched_ids(ids, {0: "a", 1: "b"}, experiments, "refl", "expt") is ids
    with pytest.raises(ValueError, match="refl does not match expt"):
        matched_ids(ids, {0: "x", 1: "a"}, experiments, "refl", "expt")
