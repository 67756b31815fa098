"""p_order: the place of each still in a series of stills on one crystal."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.model.components import n_parameters_of

ORDERS = ("input", "image_number", "angle")

# Stills of a series turn by less from one to the next, and about one axis this exactly
_LARGEST_STEP = 90.0
_AXIS_COSINE = 0.9


@dataclass(frozen=True)
class SeriesSettings:
    """Components that are smooth functions of the order of the stills; see phil/scale.py.

    Attributes:
        intervals: of the smoother of b over the whole series; None: a b for each still
        p_order: place of each still in the series; None: by `order`
        offset_intervals, sensitivity_intervals: of c(|q|, p_order) and a(x, y, p_order) along
            p_order; None: c of each still, the same a for all
        order: where p_order comes from, one of ORDERS
        p_order_file: text file of the places
    """

    intervals: int | None = None
    p_order: Sequence[float] | None = None
    offset_intervals: int | None = None
    sensitivity_intervals: int | None = None
    order: str = "input"
    p_order_file: str | os.PathLike | None = None

    @property
    def wanted(self) -> bool:
        """True if anything is a function of p_order"""
        each = (self.intervals, self.offset_intervals, self.sensitivity_intervals)
        return any(n is not None for n in each)

    def places(self, n_stills: int, experiments=()) -> np.ndarray:
        """p_order (S,)

        Args:
            experiments: of the stills, for the orders that are found in them

        Raises:
            ValueError: numbers that don't fit the stills, or have no range; experiments that do
                not tell.
        """
        name = "series.p_order"
        if self.p_order is not None and self.p_order_file is not None:
            raise ValueError("Give series.p_order or series.p_order_file, not both")
        if self.p_order is not None:
            places = np.array(self.p_order, dtype=float)
        elif self.p_order_file is not None:
            name = f"{self.p_order_file}"
            places = read_numbers(self.p_order_file)
        elif self.order == "image_number":
            name = "series.order=image_number"
            places = image_numbers(experiments)
        elif self.order == "angle":
            name = "series.order=angle"
            places = angles(experiments)
        else:
            places = np.arange(n_stills, dtype=float)
        if len(places) != n_stills:
            raise ValueError(
                f"{name} holds {len(places)} numbers for {n_stills} stills: give one for each"
            )
        if not np.all(np.isfinite(places)):
            raise ValueError(f"{name} holds numbers that are not finite")
        if np.ptp(places) == 0:
            raise ValueError(f"The numbers of {name} are all the same: there is no order")
        return places

    def check_intervals(self, places: np.ndarray) -> None:
        """See that the stills can determine the functions.

        Args:
            places: p_order of the stills that are used

        Raises:
            ValueError: more parameters along p_order than places.
        """
        n_places = len(np.unique(places))
        for name in ("intervals", "offset_intervals", "sensitivity_intervals"):
            intervals = getattr(self, name)
            if intervals is None:
                continue
            n = n_parameters_of(intervals)
            if n > n_places:
                raise ValueError(
                    f"series.{name}={intervals} has {n} parameters along p_order, and the stills that are "
                    f"used have {n_places} different p_order: use fewer intervals"
                )


def read_numbers(path: str | os.PathLike) -> np.ndarray:
    """Numbers of a text file, separated by white space, commas or lines; # begins a comment.

    Raises:
        ValueError: no such file, or something that is no number.
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


def image_numbers(experiments) -> np.ndarray:
    """Number of each still's image (S,): in its file where all are from one file, else the last number
    in the name of its file.

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


def angles(experiments) -> np.ndarray:
    """Angle (degrees) by which the crystal has turned since the first still (S,), summed up from
    still to still about the axis that they have in common.

    The orientations in the lab frame tell, whether stills still have the goniometer and scan that
    they were measured with or not.

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
