"""The files that a command is given: pairs of .expt and .refl files, and others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dials_diffuse.adapters.experiment_file import ExperimentFile
from dials_diffuse.adapters.experiments import load_experiments, load_reflections
from dials_diffuse.adapters.identifiers import (
    ensure_identifiers,
    match_to_experiments,
    name_experiments,
)


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
