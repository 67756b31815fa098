"""JSON copies of grid and scaling models, which restore a .expt file that has lost them."""

from __future__ import annotations

import json
import os

from dials_diffuse.adapters.experiments import scaling_model_from_dict


def models_to_json(experiments) -> dict:
    """The scaling models by experiment identifier, as plain JSON."""
    return {
        experiment.identifier: experiment.scaling_model.to_dict()
        for experiment in experiments
        if experiment.scaling_model is not None
    }


def restore_models(experiments, path: str | os.PathLike) -> int:
    """Restore missing scaling models, by experiment identifier, from the "models" of a JSON file that a
    dials.diffuse_* command wrote. Returns the number of models restored.

    Raises:
        ValueError: not such a file.
    """
    try:
        with open(path) as handle:
            models = json.load(handle)["models"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a JSON file with the models of a dials.diffuse_* command"
        ) from error
    restored = 0
    for experiment in experiments:
        if experiment.scaling_model is None and experiment.identifier in models:
            experiment.scaling_model = scaling_model_from_dict(models[experiment.identifier])
            restored += 1
    return restored
