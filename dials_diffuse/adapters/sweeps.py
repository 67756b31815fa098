"""Sweeps: the orientation of a turning crystal at an image, and which images of a scan are used."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np

logger = logging.getLogger("dials.diffuse.sweeps")


def rotation_matrix(axis, angle: float) -> np.ndarray:
    """Right-handed rotation by angle (rad) about axis (Rodrigues), (3, 3)."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def slerp(first: np.ndarray, second: np.ndarray, part: float) -> np.ndarray:
    """The rotation on the shortest way from one (3, 3) to another, at this part of the way.

    Shoemake (1985) Computer Graphics 19, 245, written with the rotation between the two: its
    angle is less than pi.
    """
    between = second @ first.T
    # sin(angle) times the axis, from the antisymmetric part
    vector = 0.5 * np.array(
        [
            between[2, 1] - between[1, 2],
            between[0, 2] - between[2, 0],
            between[1, 0] - between[0, 1],
        ]
    )
    sine = np.linalg.norm(vector)
    if sine < 1e-14:
        return first.copy()
    angle = np.arctan2(sine, 0.5 * (np.trace(between) - 1))
    return rotation_matrix(vector, part * angle) @ first


def n_images(experiment) -> int:
    """Number of images of an experiment's scan, 1 without a scan"""
    return experiment.scan.get_num_images() if experiment.scan is not None else 1


def is_sweep(experiment) -> bool:
    """Whether the experiment has a scan of several images"""
    return n_images(experiment) > 1


def has_scan_points(model) -> bool:
    """Whether a crystal, beam or goniometer varies within its scan"""
    return getattr(model, "num_scan_points", 0) > 1


def check_scan_points(index: int, experiment) -> None:
    """Raises ValueError where a model has scan points for other images than those of the scan."""
    models = [experiment.crystal, experiment.beam, experiment.goniometer]
    for name, model in zip(("crystal", "beam", "goniometer"), models):
        points = getattr(model, "num_scan_points", 0)
        if points and points != n_images(experiment) + 1:
            raise ValueError(
                f"The {name} of experiment {index} has {points} scan points, its scan "
                f"{n_images(experiment)} images (one point more than images is right): cut "
                "sweeps with dials.slice_sequence, or refine again"
            )


def _at(model, what: str, place: float, between: Callable) -> np.ndarray:
    """A property of a scan-varying model between the scan points next to a place, see `slerp`."""
    first = min(int(np.floor(place)), model.num_scan_points - 2)
    values = (getattr(model, f"get_{what}_at_scan_point")(first + i) for i in (0, 1))
    arrays = (np.array(value) for value in values)
    matrices = (array.reshape(3, 3) if array.size == 9 else array for array in arrays)
    return between(*matrices, place - first)


def _linear(first: np.ndarray, second: np.ndarray, part: float) -> np.ndarray:
    return (1 - part) * first + part * second


def _place(experiment, z: float) -> float:
    """Where an array index lies among the scan points: the first is at the start of the scan"""
    return z - experiment.scan.get_array_range()[0] if experiment.scan is not None else 0.5


def crystal_matrix(experiment, z: float) -> np.ndarray:
    """A = U B of the crystal at goniometer angle 0 (3, 3), 1/Angstrom, as refined for array index z.

    Between scan points, U turns by slerp and B changes linearly.
    """
    crystal = experiment.crystal
    if not has_scan_points(crystal):
        return np.array(crystal.get_A()).reshape(3, 3)
    place = _place(experiment, z)
    return _at(crystal, "U", place, slerp) @ _at(crystal, "B", place, _linear)


def setting_rotation(experiment, z: float) -> np.ndarray:
    """S of the goniometer (3, 3) at array index z"""
    goniometer = experiment.goniometer
    if not has_scan_points(goniometer):
        return np.array(goniometer.get_setting_rotation()).reshape(3, 3)
    return _at(goniometer, "setting_rotation", _place(experiment, z), slerp)


def lab_matrix(experiment, z: float) -> np.ndarray:
    """S R(phi) F A at array index z (3, 3), 1/Angstrom: q = lab_matrix h (Waterman et al. 2016, section 2)."""
    goniometer = experiment.goniometer
    fixed = np.array(goniometer.get_fixed_rotation()).reshape(3, 3)
    phi = np.radians(experiment.scan.get_angle_from_array_index(z))
    rotation = rotation_matrix(goniometer.get_rotation_axis_datum(), phi)
    return setting_rotation(experiment, z) @ rotation @ fixed @ crystal_matrix(experiment, z)


def beam_at(experiment, z: float):
    """The beam at array index z: a copy with the s0 of that image where s0 varies"""
    beam = experiment.beam
    if not has_scan_points(beam):
        return beam
    s0 = _at(beam, "s0", _place(experiment, z), _linear)
    beam = copy.deepcopy(beam)
    beam.reset_scan_points()
    beam.set_s0(tuple(float(x) for x in s0))
    return beam


def valid_array_indices(experiment) -> range | list[int]:
    """Array indices of the images of a scan that are used: all but those excluded.

    dials.scale and dials.diffuse_mask write the ranges of images that are valid into the scan, by the
    experiment's identifier.
    """
    scan = experiment.scan
    ranges = scan.get_valid_image_ranges(experiment.identifier)
    if not ranges:
        return range(*scan.get_array_range())
    first, last = scan.get_image_range()
    numbers = {i for a, b in ranges for i in range(max(a, first), min(b, last) + 1)}
    return sorted(number - 1 for number in numbers)


def use_images(experiment, array_indices: Iterable[int]) -> None:
    """Use only these images of a sweep from now on, in place; see valid_array_indices."""
    numbers = np.unique(np.fromiter(array_indices, dtype=int)) + 1
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    ranges = [(int(run[0]), int(run[-1])) for run in runs]
    experiment.scan.set_valid_image_ranges(experiment.identifier, ranges)


def _range_of(text: str, n_experiments: int) -> tuple[int | None, int, int]:
    """(experiment or None for all, first, last image) of start:end or experiment:start:end."""
    try:
        numbers = [int(part) for part in text.split(":")]
        experiment = numbers.pop(0) if len(numbers) == 3 else None
        first, last = numbers
    except ValueError as error:
        raise ValueError(
            f"exclude_images={text} is neither start:end nor experiment:start:end"
        ) from error
    if first > last or (experiment is not None and not 0 <= experiment < n_experiments):
        raise ValueError(
            f"exclude_images={text}: there are {n_experiments} experiments, and ranges go upwards"
        )
    return experiment, first, last


def choose_images(
    experiments, image_range: Sequence[int] | None, exclude_images: Sequence[str]
) -> None:
    """Apply the parameters image_range and exclude_images to the sweeps of a list, in place.

    Args:
        experiments: with identifiers
        image_range: first and last image number to use, of every sweep; None: all
        exclude_images: ranges to leave out, start:end, or experiment:start:end of one sweep only;
            several with commas between

    Raises:
        ValueError: a range that can't be read, is outside of the scans, or leaves nothing.
    """
    texts = [part for text in exclude_images for part in text.replace(",", " ").split()]
    excluded = [_range_of(text, len(experiments)) for text in texts]
    if image_range is None and not excluded:
        return
    sweeps = [(i, e) for i, e in enumerate(experiments) if is_sweep(e)]
    if not sweeps:
        raise ValueError("image_range= and exclude_images= are for sweeps: the input has none")
    for index, experiment in sweeps:
        first, last = experiment.scan.get_image_range()
        keep = {i + 1 for i in valid_array_indices(experiment)}
        if image_range is not None:
            low, high = image_range
            if not first <= low <= high <= last:
                raise ValueError(
                    f"image_range={low},{high} is outside of experiment {index}, whose images are {first} to {last}"
                )
            keep &= set(range(low, high + 1))
        for number, low, high in excluded:
            if number not in (None, index):
                continue
            if high < first or low > last:
                raise ValueError(
                    f"exclude_images={low}:{high} is outside of experiment {index}, whose images are {first} to {last}"
                )
            keep -= set(range(low, high + 1))
        if not keep:
            raise ValueError(
                f"image_range= and exclude_images= leave no image of experiment {index}"
            )
        use_images(experiment, [number - 1 for number in keep])
        logger.info("Using %d of %d images of sweep %d", len(keep), last - first + 1, index)


def fill_exposure_times(experiments) -> None:
    """Give images of a sweep whose exposure time is 0 that of its first image, in place, and log it."""
    for index, experiment in enumerate(experiments):
        if not is_sweep(experiment):
            continue
        scan = experiment.scan
        if hasattr(scan, "has_property") and not scan.has_property("exposure_time"):
            continue
        times = np.array(scan.get_exposure_times())
        unknown = times <= 0
        if len(times) and times[0] > 0 and unknown.any():
            scan.set_exposure_times([float(t) for t in np.where(unknown, times[0], times)])
            logger.warning(
                "%d images of sweep %d have no exposure time: that of its first image, %g s, is taken",
                unknown.sum(),
                index,
                times[0],
            )
