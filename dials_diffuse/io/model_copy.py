"""The JSON copy of grid and scaling models, for when a .expt has lost them."""

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
    """Give experiments without a scaling model the one of their identifier in a JSON
    written by a dials.diffuse_* command (its part "models"). Returns how many were given.

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
