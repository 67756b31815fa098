"""p_order of each still in a series of stills on one crystal."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.model.components import n_parameters_of
from dials_diffuse.scaling.refinement.settings import SeriesSettings

# Stills of a series turn by less than this from one to the next (degrees), and about one axis:
# cosine of the angle between them, at least
_LARGEST_STEP = 90.0
_AXIS_COSINE = 0.9


def p_order_of(settings: SeriesSettings, experiments: Sequence) -> np.ndarray:
    """p_order (S,) of the stills.

    Args:
        settings: where it comes from
        experiments: (S,) of the stills

    Raises:
        ValueError: numbers that do not fit the stills, or are all equal; experiments that do not
            have what the order follows from.
    """
    if settings.p_order is not None and settings.p_order_file is not None:
        raise ValueError("Give series.p_order or series.p_order_file, not both")
    if settings.p_order is not None:
        name, p_order = "series.p_order", np.array(settings.p_order, dtype=float)
    elif settings.p_order_file is not None:
        name, p_order = str(settings.p_order_file), read_numbers(settings.p_order_file)
    else:
        name = f"series.order={settings.order}"
        p_order = {"image_number": image_numbers, "angle": angles, "input": input_numbers}[
            settings.order
        ](experiments)
    if len(p_order) != len(experiments):
        raise ValueError(
            f"{name} holds {len(p_order)} numbers for {len(experiments)} stills: give one for each"
        )
    if not np.all(np.isfinite(p_order)):
        raise ValueError(f"{name} holds numbers that are not finite")
    if np.ptp(p_order) == 0:
        raise ValueError(f"The numbers of {name} are all the same: there is no order")
    return p_order


def check_intervals(settings: SeriesSettings, p_order: np.ndarray) -> None:
    """Check that the stills can determine the functions of p_order.

    Args:
        p_order: of the stills that are used

    Raises:
        ValueError: more parameters along p_order than different values of it.
    """
    n_different = len(np.unique(p_order))
    for name, intervals in settings.all_intervals().items():
        n = n_parameters_of(intervals)
        if n > n_different:
            raise ValueError(
                f"series.{name}={intervals} has {n} parameters along p_order, and the stills that are "
                f"used have {n_different} different p_order: use fewer intervals"
            )


def input_numbers(experiments: Sequence) -> np.ndarray:
    """Number of each still in the input (S,)."""
    return np.arange(len(experiments), dtype=float)


def read_numbers(path: str | os.PathLike) -> np.ndarray:
    """Read numbers from a text file, separated by white space or commas; # begins a comment.

    Raises:
        ValueError: the file can't be read, or holds something else.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Can't read the file of numbers {path}: {error}") from error
    words = re.sub(r"#.*", "", text).replace(",", " ").split()
    try:
        return np.array([float(word) for word in words])
    except ValueError as error:
        raise ValueError(f"{path} holds something that is no number: {error}") from error


def image_numbers(experiments: Sequence) -> np.ndarray:
    """Number of the image of each still (S,).

    Its index in the file if all stills are from one file, else the last number in the file's name.

    Raises:
        ValueError: no images, no numbers, or several files of many images.
    """
    paths, indices = [], []
    for index, experiment in enumerate(experiments):
        imageset = experiment.imageset
        if imageset is None or not len(imageset):
            raise ValueError(
                f"Experiment {index} has no image: series.order=image_number needs them, give series.p_order"
            )
        paths.append(imageset.get_path(0))
        indices.append(imageset.indices()[0])
    if len(set(paths)) == 1:
        return np.array(indices, dtype=float)
    # lattices of one image share its path and index
    if len(set(zip(paths, indices))) > len(set(paths)):
        raise ValueError(
            "The stills are from several files of many images, whose numbers are not one series: give "
            "series.p_order"
        )
    numbers = []
    for path in paths:
        digits = re.findall(r"\d+", pathlib.Path(path).stem)
        if not digits:
            raise ValueError(
                f"There is no number in the name of the image {path}: give series.p_order"
            )
        numbers.append(float(digits[-1]))
    return np.array(numbers)


def angles(experiments: Sequence) -> np.ndarray:
    """Angle by which the crystal has turned since the first still (S,), degrees.

    The sum of the rotations from still to still about their common axis, from the orientations in
    the lab frame: the goniometer and scan of the measurement may be lost.

    Raises:
        ValueError: orientations that are not those of one crystal turning about one axis.
    """
    for index, experiment in enumerate(experiments):
        if experiment.crystal is None:
            raise ValueError(
                f"Experiment {index} has no crystal: series.order=angle needs its orientation"
            )
    orientation = np.array(
        [
            Still(number, experiment).setting_matrix()
            @ np.linalg.inv(np.reshape(experiment.crystal.get_B(), (3, 3)))
            for number, experiment in enumerate(experiments)
        ]
    )
    between = np.einsum("sij,skj->sik", orientation[1:], orientation[:-1])
    size = np.degrees(np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    # the antisymmetric part: sin(angle) times the axis
    vector = 0.5 * np.stack(
        (
            between[:, 2, 1] - between[:, 1, 2],
            between[:, 0, 2] - between[:, 2, 0],
            between[:, 1, 0] - between[:, 0, 1],
        ),
        axis=1,
    )
    axis = np.linalg.svd(vector)[2][0] if len(vector) else np.zeros(3)
    along = vector @ axis
    total = np.linalg.norm(vector, axis=1)
    if np.any(size > _LARGEST_STEP) or np.sum(abs(along)) < _AXIS_COSINE * np.sum(total):
        raise ValueError(
            "The orientations of the stills, in the order of the input, are not those of one crystal that "
            "turns about one axis: series.order=angle can't be used"
        )
    steps = np.degrees(np.arctan2(along, np.cos(np.radians(size))))
    if np.sum(steps) < 0:
        steps = -steps
    return np.concatenate(([0.0], np.cumsum(steps)))
