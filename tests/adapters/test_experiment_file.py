"""Experiments of a file are opened a few at a time."""

from __future__ import annotations

import json

import pytest
from simulations import simulate, simulation_settings

from dials_diffuse.adapters.experiment_file import ExperimentFile
from dials_diffuse.adapters.experiments import load_experiments


def test_experiments_a_few_at_a_time_are_the_same(tmp_path):
    simulate(
        simulation_settings(
            **{
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
