"""The unit of work: one image of one experiment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.sweeps import (
    beam_at,
    check_scan_points,
    crystal_matrix,
    is_sweep,
    lab_matrix,
    setting_rotation,
    valid_array_indices,
)


class NothingLeft(ValueError):
    """Not one still of the input could be used."""


@dataclass(frozen=True)
class Still:
    """One image of one experiment.

    Attributes:
        index: row id: the experiment's index in its list
        experiment: the dxtbx experiment
        image_index: 0-based index of the image in the experiment's imageset
        array_index: 0-based number of the image as scans count (of a block of images, that of its middle);
            None: the first of the experiment's scan
    """

    index: int
    experiment: object
    image_index: int = 0
    array_index: float | None = None

    @property
    def imageset(self):
        return self.experiment.imageset

    @property
    def detector(self):
        return self.experiment.detector

    @functools.cached_property
    def beam(self):
        """The beam, with the s0 of this image where it varies"""
        return beam_at(self.experiment, self.image_number)

    @property
    def crystal(self):
        return self.experiment.crystal

    @property
    def path(self) -> str:
        return self.imageset.get_path(self.image_index)

    @property
    def of_sweep(self) -> bool:
        """Whether the experiment has other images too"""
        return is_sweep(self.experiment)

    @property
    def key(self) -> tuple[int, int]:
        """(index, array index), different for all stills of a list"""
        return self.index, int(self.image_number)

    @property
    def name(self) -> str:
        """Under which it is listed: the experiment's identifier, and the image number in a sweep"""
        identifier = self.experiment.identifier
        return f"{identifier} image {self.key[1] + 1}" if self.of_sweep else identifier

    @property
    def image_number(self) -> float:
        """z of xyzobs.px.value: the middle of the image, in images"""
        if self.array_index is not None:
            return self.array_index + 0.5
        scan = self.experiment.scan
        first = scan.get_array_range()[0] if scan is not None else 0
        return first + 0.5

    @property
    def scan_index(self) -> int:
        """Index of the image in the experiment's scan, 0 without one"""
        scan = self.experiment.scan
        return self.key[1] - scan.get_array_range()[0] if scan is not None else 0

    @property
    def rotation_width(self) -> float:
        """Angle by which the crystal turns during this image, rad; 0 for a still"""
        if self.experiment.is_still():
            return 0.0
        return float(np.radians(abs(self.experiment.scan.get_oscillation()[1])))

    @property
    def rotation_axis(self) -> np.ndarray:
        """Unit vector about which the crystal turns during this image, lab frame (3,): S e.

        d q / d phi = axis x q. A still has none: the axis is (0, 0, 0) then.
        """
        if self.experiment.is_still():
            return np.zeros(3)
        axis = np.array(self.experiment.goniometer.get_rotation_axis_datum())
        axis = setting_rotation(self.experiment, self.image_number) @ axis
        return axis / np.linalg.norm(axis)

    def setting_matrix(self) -> np.ndarray:
        """A in the lab frame while this image was taken, (3, 3), 1/Angstrom.

        q = A h with the goniometer's fixed rotation, the scan's rotation to the middle
        of the image, and the setting rotation applied (Waterman et al. 2016, section 2). The A
        of a still in the sense of dxtbx (no goniometer, no scan, or one of zero width) is that of the lab
        frame already: DIALS predicts its reflections so, and dials.ssx_index gives its stills back the
        goniometer and scan that they were imported with.
        """
        return self._setting_matrix

    def __getstate__(self) -> dict:
        # A crystal that was pickled has another A in the last bits: the still takes this one along
        self.setting_matrix()
        return self.__dict__

    @functools.cached_property
    def _setting_matrix(self) -> np.ndarray:
        if self.experiment.is_still():
            return crystal_matrix(self.experiment, self.image_number)
        return lab_matrix(self.experiment, self.image_number)


def stills_of(experiments) -> list[Still]:
    """The stills of an experiment list, in its order: for a sweep one for each image that is used.

    Raises:
        ValueError: no experiment; one without crystal, detector or beam; a scan that does not fit its images
            or its models.
    """
    if len(experiments) == 0:
        raise ValueError("There are no experiments in the input")
    stills: list[Still] = []
    for index, experiment in enumerate(experiments):
        for name in ("crystal", "detector", "beam", "imageset"):
            if getattr(experiment, name) is None:
                hint = " (index and integrate it first)" if name == "crystal" else ""
                raise ValueError(f"Experiment {index} has no {name}{hint}")
        stills += (
            _stills_of_sweep(index, experiment)
            if is_sweep(experiment)
            else [_only_still(index, experiment)]
        )
    return stills


def _only_still(index: int, experiment) -> Still:
    """Raises ValueError where its image is not known."""
    # A still's imageset normally holds its image alone; where several stills
    # share one the scan's array index (if any) is the only pointer there is
    if len(experiment.imageset) == 1:
        return Still(index, experiment)
    if experiment.scan is None:
        raise ValueError(
            f"Experiment {index} has no scan but its imageset holds "
            f"{len(experiment.imageset)} images: which one it belongs to is not known "
            "(split the imageset, one experiment an image)"
        )
    first = _first_array_index(experiment.imageset)
    return Still(index, experiment, experiment.scan.get_array_range()[0] - first)


def _stills_of_sweep(index: int, experiment) -> list[Still]:
    """The used images of a sweep.

    Raises:
        ValueError: its imageset lacks images of the scan, or its models have scan points for others.
    """
    check_scan_points(index, experiment)
    if experiment.goniometer is None:
        raise ValueError(f"Experiment {index} is a sweep without a goniometer: import it again")
    first = _first_array_index(experiment.imageset)
    begin, end = experiment.scan.get_array_range()
    if begin < first or end - first > len(experiment.imageset):
        raise ValueError(
            f"The scan of experiment {index} has the images {begin + 1} to {end}, its imageset only "
            f"{first + 1} to {first + len(experiment.imageset)}: cut sweeps with dials.slice_sequence"
        )
    return [Still(index, experiment, i - first, i) for i in valid_array_indices(experiment)]


def one_of_each(experiments) -> list[Still]:
    """One still of every experiment, so that positions are row ids: of sweeps an image in the middle.

    Raises:
        ValueError: see stills_of.
    """
    groups: dict[int, list[Still]] = {}
    for still in stills_of(experiments):
        groups.setdefault(still.index, []).append(still)
    return [group[len(group) // 2] for group in groups.values()]


def check_given_once(experiments, path, seen: dict[str, object]) -> None:
    """Remember the experiments of a file, and refuse one that came before.

    Args:
        experiments: of the file; those without identifier can't be told apart
        path: of the file, for the message
        seen: identifier -> file of all experiments before; these are added

    Raises:
        ValueError: an experiment that was seen already.
    """
    for experiment in experiments:
        name = experiment.identifier
        if name in seen:
            raise ValueError(
                f"The experiment {name} is in the input twice (in {seen[name]} and in {path}): "
                "give each still once"
            )
        if name:
            seen[name] = path


def _first_array_index(imageset) -> int:
    scan = imageset.get_scan()
    return scan.get_array_range()[0] if scan is not None else 0


def image_key(still: Still) -> tuple[str, int]:
    """What two stills share if and only if they are on the same image."""
    imageset = still.imageset
    return imageset.get_path(still.image_index), imageset.indices()[still.image_index]


def group_by_image(stills: Sequence[Still]) -> list[list[Still]]:
    """Stills (lattices) of the same image together, in order of first appearance."""
    groups: dict[tuple[str, int], list[Still]] = {}
    for still in stills:
        groups.setdefault(image_key(still), []).append(still)
    return list(groups.values())
