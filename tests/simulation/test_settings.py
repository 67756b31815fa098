from __future__ import annotations

import json

import pytest
from simulations import simulation_settings

from dials_diffuse.simulation.settings import SimulationSettings


def test_settings_come_back_from_json():
    settings = simulation_settings(stills=7, nproc=None, scale={"values": [1.0, 2.0]})
    record = json.loads(json.dumps(settings.to_dict()))
    assert record["scale"]["values"] == [1.0, 2.0] and record["beam"]["wavelength"] == 1.0
    assert SimulationSettings.from_dict(record) == settings


def test_a_missing_setting_is_named():
    record = simulation_settings().to_dict()
    del record["beam"]["bandwidth"]
    with pytest.raises(ValueError, match="bandwidth"):
        SimulationSettings.from_dict(record)
