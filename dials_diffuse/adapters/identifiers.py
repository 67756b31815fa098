"""Experiment identifiers tie the rows of a reflection table to the experiments of a .expt file."""

from __future__ import annotations

import numpy as np

from dials.array_family import flex
from dials.util.multi_dataset_handling import generate_experiment_identifiers

from dials_diffuse.adapters.tables import as_numpy, int_column


def match_to_experiments(
    reflections, experiments, refl_name="reflections", expt_name="experiments"
):
    """The table with ids that are the indices of the experiments.

    Tables with identifiers are sorted to the order of the experiments; without
    identifiers the ids must be indices already.

    Raises:
        ValueError: the table belongs to other experiments.
    """
    mismatch = f"{refl_name} does not match {expt_name}"
    known = reflections.experiment_identifiers()
    # an empty one names nothing: the ids are indices then
    identifiers = {number: name for number, name in zip(known.keys(), known.values()) if name}
    if identifiers:
        position = {e.identifier: i for i, e in enumerate(experiments)}
        unknown = [name for name in identifiers.values() if name not in position]
        if unknown:
            raise ValueError(
                f"{mismatch}: its experiment {unknown[0]} is not among the experiments"
            )
        if any(position[name] != number for number, name in identifiers.items()):
            renumbered = flex.int(reflections.size(), -1)
            for number, name in identifiers.items():
                renumbered.set_selected(reflections["id"] == number, position[name])
            reflections["id"] = renumbered
            for number in identifiers:
                del reflections.experiment_identifiers()[number]
    if reflections.size():
        if "id" not in reflections:
            raise ValueError(f"{mismatch}: it has no column id")
        last = flex.max(reflections["id"])
        if last >= len(experiments):
            raise ValueError(
                f"{mismatch}: it has reflections of experiment {last}, there are only {len(experiments)}"
            )
    for index, experiment in enumerate(experiments):
        if experiment.identifier:
            reflections.experiment_identifiers()[index] = experiment.identifier
    return reflections


def matched_ids(ids, identifiers, experiments, refl_name: str, expt_name: str) -> np.ndarray:
    """Ids that are the indices of the experiments, as match_to_experiments makes them.

    Args:
        ids: (N,) int32; identifiers: experiment identifiers by id

    Raises:
        ValueError: they belong to other experiments.
    """
    numbers = np.unique(ids[np.append(True, ids[1:] != ids[:-1])]) if len(ids) else ids[:0]
    table = flex.reflection_table()
    table["id"] = int_column(numbers)
    for number, name in identifiers.items():
        table.experiment_identifiers()[number] = name
    matched = as_numpy(match_to_experiments(table, experiments, refl_name, expt_name)["id"])
    if np.array_equal(matched, numbers):
        return ids
    return matched[np.searchsorted(numbers, ids)].astype(np.int32)


def name_experiments(experiments) -> None:
    """Give identifiers to all experiments if any has none."""
    if any(not experiment.identifier for experiment in experiments):
        generate_experiment_identifiers(experiments)


def ensure_identifiers(experiments, reflections) -> None:
    """Give identifiers to experiments that have none, and tell the table."""
    name_experiments(experiments)
    for index, experiment in enumerate(experiments):
        reflections.experiment_identifiers()[index] = experiment.identifier
