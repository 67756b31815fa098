"""Experiment lists and their tables: loading, matching, scaling models."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dxtbx.format.image import ImageBool
from dxtbx.model.crystal import CrystalFactory
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory
from dxtbx.serialize.filename import resolve_path

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy, int_column


def scaling_model_from_dict(obj: dict):
    """A scaling model from its dictionary, as dxtbx does when it reads a .expt."""
    from dials_diffuse.model.scaling_model import DiffuseScalingModel

    if obj.get("__id__") != DiffuseScalingModel.id_:
        raise ValueError(f"Not a diffuse scaling model: {obj.get('__id__')}")
    return DiffuseScalingModel.from_dict(obj)


def load_experiments(path: str | os.PathLike, check_format: bool = True) -> ExperimentList:
    """Read a .expt file.

    Raises:
        ValueError: missing or unreadable, or an image it names is missing.
    """
    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path}")
    try:
        return ExperimentList.from_file(os.fspath(path), check_format=check_format)
    except Exception as error:
        raise ValueError(f"Can't read experiments from {path}: {_first_line(error)}") from error


class ExperimentFile:
    """A .expt file whose experiments are read with their images a few at a time.

    To read thousands with their images at once takes memory for as many masks, and time to
    open every image before the first is used.

    Args:
        path: of the file

    Raises:
        ValueError: missing or not an experiment list.
    """

    _MODELS = (
        "beam",
        "detector",
        "goniometer",
        "scan",
        "crystal",
        "profile",
        "scaling_model",
        "imageset",
    )

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._masks: dict[str, object] = {}
        try:
            self._content = json.loads(self.path.read_text())
            self._content["experiment"][0]
        except OSError as error:
            raise ValueError(f"Can't read experiments from {path}: {error.strerror}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{path} holds no experiments") from error

    def __len__(self) -> int:
        return len(self._content["experiment"])

    def load(self, indices: Sequence[int]) -> ExperimentList:
        """Some of the experiments, in this order, with their images.

        Raises:
            ValueError: an image or mask is missing or can't be read.
        """
        part = {"__id__": "ExperimentList", "experiment": [], **{name: [] for name in self._MODELS}}
        places: dict[tuple, int] = {}
        for index in indices:
            experiment = dict(self._content["experiment"][index])
            for name in self._MODELS:
                number = experiment.get(name)
                if isinstance(number, int):
                    if (name, number) not in places:
                        places[name, number] = len(part[name])
                        part[name].append(self._content[name][number])
                    experiment[name] = places[name, number]
            part["experiment"].append(experiment)
        # To read the mask file of every imageset anew takes longer than its image does
        folder = str(self.path.resolve().parent)
        part["imageset"] = [dict(imageset) for imageset in part["imageset"]]
        masks = [imageset.pop("mask", None) for imageset in part["imageset"]]
        try:
            experiments = ExperimentListFactory.from_dict(part, check_format=True, directory=folder)
            for index, experiment in zip(indices, experiments):
                number = self._content["experiment"][index].get("imageset")
                mask = masks[places["imageset", number]] if isinstance(number, int) else None
                if mask:
                    self._set_mask(experiment.imageset, resolve_path(mask, directory=folder))
            return experiments
        except Exception as error:
            raise ValueError(
                f"Can't read experiments from {self.path}: {_first_line(error)}"
            ) from error

    def _set_mask(self, imageset, filename: str) -> None:
        if filename not in self._masks:
            with open(filename, "rb") as handle:
                self._masks = {filename: pickle.load(handle, encoding="bytes")}
        lookup = imageset.external_lookup.mask
        mask = self._masks[filename]
        if lookup.filename != filename:
            if not lookup.data.empty():
                # a mask that the image format brings counts too
                mask = tuple(m & lookup.data.tile(i).data() for i, m in enumerate(mask))
            lookup.data = ImageBool(mask)
            lookup.filename = filename


def as_read_from_file(crystal):
    """The crystal as it is after it was written to a .expt file and read.

    dxtbx writes the axes of the real cell, so that the last bits of the setting matrix A change.
    """
    return CrystalFactory.from_dict(crystal.to_dict())


def load_reflections(path: str | os.PathLike):
    """Read a .refl file.

    Raises:
        ValueError: missing or unreadable.
    """
    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path}")
    try:
        return flex.reflection_table.from_file(os.fspath(path))
    except Exception as error:
        raise ValueError(
            f"Can't read reflections from {path}: it is no .refl file, or not a whole one ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
    from dials.util.multi_dataset_handling import generate_experiment_identifiers

    if any(not experiment.identifier for experiment in experiments):
        generate_experiment_identifiers(experiments)


def ensure_identifiers(experiments, reflections) -> None:
    """Give identifiers to experiments that have none, and tell the table."""
    name_experiments(experiments)
    for index, experiment in enumerate(experiments):
        reflections.experiment_identifiers()[index] = experiment.identifier


@dataclass(frozen=True)
class DataPair:
    """A .expt file and the .refl file that belongs to it."""

    experiments: Path
    reflections: Path | None = None

    def load(self, check_format: bool = True):
        """Read both and check that they match.

        Returns:
            (ExperimentList, reflection_table); the table is None where there is no file

        Raises:
            ValueError: unreadable, empty, or not belonging together.
        """
        experiments = load_experiments(self.experiments, check_format)
        if len(experiments) == 0:
            raise ValueError(f"{self.experiments} holds no experiments")
        if self.reflections is None:
            name_experiments(experiments)
            return experiments, None
        reflections = load_reflections(self.reflections)
        reflections = match_to_experiments(
            reflections, experiments, str(self.reflections), str(self.experiments)
        )
        ensure_identifiers(experiments, reflections)
        return experiments, reflections

    def load_images(self):
        """Read both, with the images; stills whose image can't be opened are left out.

        Returns:
            (ExperimentList, reflection_table or None, path of an image -> why it can't be opened)

        Raises:
            ValueError: unreadable, empty, or not belonging together; no image can be opened.
        """
        try:
            return *self.load(check_format=True), {}
        except ValueError:
            # what else may be wrong is found without the images as well
            experiments, reflections = self.load(check_format=False)
        file = ExperimentFile(self.experiments)
        failures, names = {}, []
        for index, experiment in enumerate(experiments):
            try:
                file.load([index])
            except ValueError as error:
                failures[experiment.imageset.get_path(0)] = str(error)
            else:
                names.append((index, experiment.identifier))
        if not names:
            raise ValueError(f"No image can be opened. {next(iter(failures.values()))}")
        opened = file.load([index for index, _ in names])
        for experiment, (_, name) in zip(opened, names):
            experiment.identifier = name
        if reflections is not None:
            reflections = reflections.select_on_experiment_identifiers([name for _, name in names])
            reflections.reset_ids()
        return opened, reflections, failures


@dataclass(frozen=True)
class Inputs:
    """The files that a command was given.

    Attributes:
        pairs: .expt and .refl files in the order given; not read yet, so that a step can take them
            one after the other
        others: further files (images, merged tables, models, sequences, JSON copies)
    """

    pairs: list[DataPair]
    others: list[Path]

    def model_copies(self) -> list[Path]:
        """The JSON files: copies of scaling models."""
        return self.of_type(".json")

    def of_type(self, suffix: str) -> list[Path]:
        """The further files whose names end in the suffix, such as ".refl"."""
        return [path for path in self.others if path.suffix == suffix]
