"""Simulated stills and their observations, for tests of the extraction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from simulations import simulate, simulation_settings

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.extraction.processes import extract_pair
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.masking.masker import RowMasker
from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.simulation.settings import SimulationSettings

UNIFORM = {
    "truth": {"envelope": "constant", "anisotropy": 0.0, "solvent": 0.0, "compton": False},
    "bragg": {"enabled": False},
    "scale": {"spread": 0.0},
    "detector": {"type": "tilted", "image_size": [400, 400], "pixel_size": 0.3},
    "exposure": {"mean_photons": 5.0},
}


def settings_of(*changes, **groups) -> SimulationSettings:
    values = {"stills": 2}
    for change in (*changes, groups):
        for name, value in change.items():
            values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return simulation_settings(**values)


def bragg_rows(experiments, rows=()) -> flex.reflection_table:
    """A table as dials.diffuse_mask writes it: discs of (id, panel, fast, slow, radius)."""
    table = flex.reflection_table()
    table["id"] = flex.int([row[0] for row in rows])
    table["panel"] = flex.size_t([row[1] for row in rows])
    table["miller_index"] = flex.miller_index([(1, 2, 3)] * len(rows))
    table["xyzcal.px"] = flex.vec3_double([(row[2], row[3], 0.5) for row in rows])
    boxes = [
        (int(x - r) - 1, int(x + r) + 2, int(y - r) - 1, int(y + r) + 2, 0, 1)
        for _, _, x, y, r in rows
    ]
    table["bbox"] = flex.int6(*(flex.int(list(v)) for v in zip(*boxes))) if rows else flex.int6()
    table["mask.ellipse"] = flex.vec3_double([(r**-2, 0, r**-2) for *_, r in rows])
    for index, experiment in enumerate(experiments):
        table.experiment_identifiers()[index] = experiment.identifier
    return table


def simulated(folder: Path, settings: SimulationSettings, rows=()):
    """Make the stills; returns the simulator and the pair of files."""
    simulator = simulate(settings, folder).simulator
    experiments = load_experiments(folder / "simulated.expt")
    bragg_rows(experiments, rows).as_file(str(folder / "masked.refl"))
    return simulator, DataPair(folder / "simulated.expt", folder / "masked.refl")


def true_intensity(simulator) -> float:
    """photons/(s sr) of a uniform cross-section."""
    electrons2 = simulator.truth.total(np.array([[1.3, 2.4, 3.1]]))
    return simulator.photons_per_electron2 * float(np.ravel(electrons2)[0])


def extracted(pair, background=None, nproc=1, keep_pixels=False, **changes):
    """(experiment, ExtractedStill) of all stills; changes are those of the settings."""
    settings = default_settings(ExtractionSettings, **changes)
    for experiment, still in extract_pair(
        pair, settings, RowMasker(), background, nproc=nproc, keep_pixels=keep_pixels
    ):
        assert not still.summary.error, still.summary.error
        yield experiment, still


def columns_of(pair, background=None, nproc=1, **changes):
    """All observations, with the column "id"."""
    parts = []
    for number, (_, still) in enumerate(extracted(pair, background, nproc, **changes)):
        columns = dict(still.observations.columns)
        columns["id"] = np.full(len(columns["counts"]), number)
        parts.append(columns)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
