"""Experiment lists and their tables: what belongs together and what does not."""

from __future__ import annotations

import json

import pytest

from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.experiments import (
    DataPair,
    ExperimentFile,
    load_experiments,
    load_reflections,
    match_to_experiments,
    scaling_model_from_dict,
)
from dials_diffuse.simulation.settings import Settings
from dials_diffuse.simulation.simulate import simulate


def experiment_list(names):
    return ExperimentList(
        [
            Experiment(
                identifier=name,
                beam=BeamFactory.simple(1.0),
                detector=DetectorFactory.simple(
                    "PAD", 100.0, (5.0, 5.0), "+x", "-y", (0.1, 0.1), (100, 100), (0, 1e6)
                ),
                crystal=Crystal((30 + i, 0, 0), (0, 40, 0), (0, 0, 50), space_group_symbol="P1"),
            )
            for i, name in enumerate(names)
        ]
    )


def table_of(names, rows):
    table = flex.reflection_table()
    table["id"] = flex.int([row for row, _ in rows])
    table["counts"] = flex.double([value for _, value in rows])
    for number, name in enumerate(names):
        table.experiment_identifiers()[number] = name
    return table


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


def test_empty_identifiers_name_nothing():
    matched = match_to_experiments(
        table_of(["", "", ""], [(0, 1.0), (2, 3.0)]), experiment_list(["a", "b", "c"])
    )
    assert list(matched["id"]) == [0, 2]
    assert list(matched.experiment_identifiers().values()) == ["a", "b", "c"]


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        load_experiments(tmp_path / "absent.expt")
    with pytest.raises(ValueError, match="No such file"):
        load_reflections(tmp_path / "absent.refl")
    for load, name in ((load_experiments, "broken.expt"), (load_reflections, "broken.refl")):
        (tmp_path / name).write_text("{ this is neither")
        with pytest.raises(ValueError, match=name) as caught:
            load(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
    ExperimentList().as_file(str(tmp_path / "empty.expt"))
    with pytest.raises(ValueError, match="empty.expt"):
        DataPair(tmp_path / "empty.expt").load(False)


def test_other_scaling_models_are_refused():
    with pytest.raises(ValueError, match="Not a diffuse scaling model: physical"):
        scaling_model_from_dict({"__id__": "physical"})


def test_experiments_a_few_at_a_time_are_the_same(tmp_path):
    simulate(
        Settings.from_dict(
            {
                "stills": 4,
                "detector": {"image_size": [50, 50], "pixel_size": 2.0, "distance_jitter": 1.0},
                "bragg": {"enabled": False},
            }
        ),
        tmp_path,
    )
    whole = load_experiments(tmp_path / "simulated.expt")
    part = ExperimentFile(tmp_path / "simulated.expt").load([3, 1])
    assert [e.identifier for e in part] == [whole[3].identifier, whole[1].identifier]
    for found, number in zip(part, (3, 1)):
        expected = whole[number]
        assert found.crystal == expected.crystal and found.beam == expected.beam
        assert found.detector == expected.detector
        assert found.imageset.paths() == expected.imageset.paths()
        assert list(found.imageset.get_raw_data(0)[0]) == list(expected.imageset.get_raw_data(0)[0])
    missing = tmp_path / "images"
    missing.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="Can't read experiments"):
        ExperimentFile(tmp_path / "simulated.expt").load([0])


def test_experiment_file_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="Can't read experiments"):
        ExperimentFile(tmp_path / "absent.expt")
    for content in ("not json", json.dumps({"experiment": []}), "[]"):
        (tmp_path / "bad.expt").write_text(content)
        with pytest.raises(ValueError, match="holds no experiments"):
            ExperimentFile(tmp_path / "bad.expt")
