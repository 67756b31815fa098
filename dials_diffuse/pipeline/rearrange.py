"""Pairs of files joined into one, and split into batches."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.command import handle_errors
from dials_diffuse.adapters.experiments import DataPair
from dials_diffuse.adapters.tables import as_numpy, int_column, size_t_column
from dials_diffuse.io.atomic import replacing
from dials_diffuse.stills import group_by_image, stills_of


def batches_of(experiments: ExperimentList, size: int) -> list[list[int]]:
    """Indices of the experiments of each batch: at most size of them, but never the lattices of one
    image apart, since each must know the others' spots."""
    batches: list[list[int]] = [[]]
    for group in group_by_image(stills_of(experiments)):
        if batches[-1] and len(batches[-1]) + len(group) > size:
            batches.append([])
        batches[-1] += [still.index for still in group]
    return batches


def subset(contents: dict, indices: Sequence[int]) -> dict:
    """Some experiments of a .expt file, with the models that they refer to.

    Done on its JSON because dxtbx, which keeps a crystal as the inverse of what it writes, changes
    the last bits of crystals whenever it reads and writes them.

    Args:
        contents: of the file
        indices: of the experiments
    """
    experiments = [dict(contents["experiment"][i]) for i in indices]
    models: dict[str, dict[int, int]] = {}
    for experiment in experiments:
        for name, number in experiment.items():
            if isinstance(number, int) and isinstance(contents.get(name), list):
                new = models.setdefault(name, {})
                experiment[name] = new.setdefault(number, len(new))
    kept = {name: value for name, value in contents.items() if not isinstance(value, list) or name == "history"}
    for name, value in contents.items():
        if name not in kept and name != "experiment":
            kept[name] = [value[number] for number in models.get(name, {})]
    return {**kept, "experiment": experiments}


def split(pair: DataPair, size: int, names: Sequence[tuple[Path, Path]]) -> None:
    """Write the batches of a pair.

    Args:
        names: .expt and .refl of each batch

    Raises:
        ValueError: unreadable input, or another number of batches than names.
    """
    experiments, reflections = pair.load(check_format=False)
    if reflections is None:
        raise ValueError(f"There is no .refl file for {pair.experiments}")
    batches = batches_of(experiments, size)
    if len(batches) != len(names):
        raise ValueError(f"{pair.experiments} makes {len(batches)} batches, {len(names)} were asked for")
    contents = json.loads(Path(pair.experiments).read_text())
    ids = as_numpy(reflections["id"])
    order = np.argsort(ids, kind="stable")
    edges = np.searchsorted(ids[order], np.arange(len(experiments) + 1))
    for indices, name in zip(batches, names):
        rows = np.concatenate([order[edges[i] : edges[i + 1]] for i in indices])
        batch = reflections.select(size_t_column(rows))
        for number in list(batch.experiment_identifiers().keys()):
            del batch.experiment_identifiers()[number]
        counts = [edges[i + 1] - edges[i] for i in indices]
        batch["id"] = int_column(np.repeat(np.arange(len(indices)), counts))
        for new, i in enumerate(indices):
            batch.experiment_identifiers()[new] = experiments[i].identifier
        with replacing(name[0]) as expt, replacing(name[1]) as refl:
            part = subset(contents, indices)
            for experiment, i in zip(part["experiment"], indices):
                experiment["identifier"] = experiments[i].identifier
            Path(expt).write_text(json.dumps(part))
            batch.as_file(refl)


def join(pairs: Sequence[DataPair], names: tuple[Path, Path]) -> None:
    """Write several pairs as one.

    Raises:
        ValueError: unreadable input, tables with different columns, or one experiment twice.
    """
    everything = ExperimentList()
    table = None
    seen: dict[str, Path] = {}
    for pair in pairs:
        experiments, reflections = pair.load(check_format=False)
        if reflections is None:
            raise ValueError(f"There is no .refl file for {pair.experiments}")
        for experiment in experiments:
            if experiment.identifier in seen:
                raise ValueError(
                    f"{pair.experiments} holds an experiment that {seen[experiment.identifier]} holds too "
                    f"({experiment.identifier}): give each still once"
                )
            seen[experiment.identifier] = pair.experiments
        for number in list(reflections.experiment_identifiers().keys()):
            del reflections.experiment_identifiers()[number]
        reflections["id"] += flex.int(reflections.size(), len(everything))
        everything.extend(experiments)
        if table is None:
            table = reflections
            continue
        # Tables of different programs or versions: what all of them have
        for one, other in ((table, reflections), (reflections, table)):
            for name in [name for name in one.keys() if name not in other]:
                del one[name]
        table.extend(reflections)
    for index, experiment in enumerate(everything):
        table.experiment_identifiers()[index] = experiment.identifier
    with replacing(names[0]) as expt, replacing(names[1]) as refl:
        everything.as_file(expt)
        table.as_file(refl)


@handle_errors()
def run(args: list[str]) -> None:
    """Join .expt and .refl files; with --size, write them in batches.

    Args:
        args: files alternating .expt, .refl; --output the same, one pair or one for each batch
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", nargs="+", type=Path, required=True)
    parser.add_argument("--size", type=int)
    options = parser.parse_args(args)
    pairs = [DataPair(*files) for files in zip(options.files[::2], options.files[1::2])]
    names = list(zip(options.output[::2], options.output[1::2]))
    if options.size is None:
        join(pairs, names[0])
    else:
        split(pairs[0], options.size, names)
