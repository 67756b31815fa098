"""Read .expt and .refl files, with a clear error where that fails."""

from __future__ import annotations

import os

from dxtbx.model.crystal import CrystalFactory
from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.beams import check_beams, check_beams_of_file


def scaling_model_from_dict(obj: dict):
    """A scaling model from its dictionary, as dxtbx does when it reads a .expt."""
    from dials_diffuse.model.scaling_model import DiffuseScalingModel

    if obj.get("__id__") != DiffuseScalingModel.id_:
        raise ValueError(f"Not a diffuse scaling model: {obj.get('__id__')}")
    return DiffuseScalingModel.from_dict(obj)


def load_experiments(path: str | os.PathLike, check_format: bool = True) -> ExperimentList:
    """Read a .expt file.

    Raises:
        ValueError: missing or unreadable, an image it names is missing, or a polychromatic beam.
    """
    if not os.path.isfile(path):
        raise ValueError(f"No such file: {path}")
    check_beams_of_file(path)
    try:
        experiments = ExperimentList.from_file(os.fspath(path), check_format=check_format)
    except Exception as error:
        raise ValueError(f"Can't read experiments from {path}: {first_line(error)}") from error
    check_beams((beam.to_dict() for beam in experiments.beams() if beam is not None), path)
    return experiments


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
            f"Can't read reflections from {path}: it is no .refl file, or not a whole one ({first_line(error)})"
        ) from error


def first_line(error: Exception) -> str:
    """First line of an error's message, the name of its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
