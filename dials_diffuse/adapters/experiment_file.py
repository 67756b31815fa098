"""Open the experiments of a .expt file with their images, a few at a time."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

from dxtbx.format.image import ImageBool
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory
from dxtbx.serialize.filename import resolve_path

from dials_diffuse.adapters.experiments import first_line


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
        positions: dict[tuple, int] = {}
        for index in indices:
            experiment = dict(self._content["experiment"][index])
            for name in self._MODELS:
                number = experiment.get(name)
                if isinstance(number, int):
                    if (name, number) not in positions:
                        positions[name, number] = len(part[name])
                        part[name].append(self._content[name][number])
                    experiment[name] = positions[name, number]
            part["experiment"].append(experiment)
        # To read the mask file of every imageset anew takes longer than its image does
        folder = str(self.path.resolve().parent)
        part["imageset"] = [dict(imageset) for imageset in part["imageset"]]
        masks = [imageset.pop("mask", None) for imageset in part["imageset"]]
        try:
            experiments = ExperimentListFactory.from_dict(part, check_format=True, directory=folder)
            for index, experiment in zip(indices, experiments):
                number = self._content["experiment"][index].get("imageset")
                mask = masks[positions["imageset", number]] if isinstance(number, int) else None
                if mask:
                    self._set_mask(experiment.imageset, resolve_path(mask, directory=folder))
            return experiments
        except Exception as error:
            raise ValueError(
                f"Can't read experiments from {self.path}: {first_line(error)}"
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
