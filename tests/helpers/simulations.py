"""Simulated sets for tests: settings by difference from the defaults, files by their usual names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.phil.simulate import phil_scope
from dials_diffuse.simulation import simulate as library
from dials_diffuse.simulation.settings import SimulationSettings
from dials_diffuse.simulation.workflow import save


def simulation_settings(**changes) -> SimulationSettings:
    """The default settings in one process, but for some.

    Args:
        changes: a field of the settings with its value, or one of its scopes with a dictionary of
            the fields that change: stills=3, detector={"type": "tilted"}
    """
    settings = default_settings(SimulationSettings, nproc=1)
    for name, value in changes.items():
        if isinstance(value, dict):
            value = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            value = dataclasses.replace(getattr(settings, name), **value)
        settings = dataclasses.replace(settings, **{name: value})
    return settings


def simulate(settings: SimulationSettings, folder: Path) -> library.SimulatedSet:
    """Simulate into a folder: images/, simulated.expt, simulated.refl, truth.json and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    result = library.simulate(settings, folder / "images")
    output = phil_scope.extract().output
    names = ("experiments", "reflections", "truth", "background", "sequence")
    for name in (*names, "sequence_reflections"):
        setattr(output, name, str(folder / getattr(output, name)))
    save(result, output)
    return result


def few_stills(**groups) -> SimulationSettings:
    """Three stills of a small crystal on few pixels; groups as of simulation_settings."""
    values = {
        "stills": 3,
        "detector": {"image_size": [100, 100], "pixel_size": 1.2},
        "crystal": {"unit_cell": [40, 40, 60, 90, 90, 90], "mosaicity": 0.3},
    }
    for name, value in groups.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return simulation_settings(**values)


def read_simulated(folder: Path) -> tuple[ExperimentList, flex.reflection_table]:
    """Experiments and reflections that `simulate` wrote, which must belong together."""
    experiments = ExperimentList.from_file(str(folder / "simulated.expt"))
    reflections = flex.reflection_table.from_file(str(folder / "simulated.refl"))
    reflections.assert_experiment_identifiers_are_consistent(experiments)
    return experiments, reflections
