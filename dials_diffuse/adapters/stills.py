"""The unit of work: one image of one experiment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class NothingLeft(ValueError):
    """Not one still of the input could be used."""


@dataclass(frozen=True)
class Still:
    """One image of one experiment.

    Attributes:
        index: row id: the experiment's index in its list
        experiment: the dxtbx experiment
        image_index: 0-based index of the image in the experiment's imageset
    """

    index: int
    experiment: object
    image_index: int = 0

    @property
    def imageset(self):
        return self.experiment.imageset

    @property
    def detector(self):
        return self.experiment.detector

    @property
    def beam(self):
        return self.experiment.beam

    @property
    def crystal(self):
        return self.experiment.crystal

    @property
    def path(self) -> str:
        return self.imageset.get_path(self.image_index)

    @property
    def image_number(self) -> float:
        """z of xyzobs.px.value: the middle of the image, in images"""
        scan = self.experiment.scan
        first = scan.get_array_range()[0] if scan is not None else 0
        return first + 0.5

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
        crystal = self.experiment.crystal
        if crystal.num_scan_points > 0:
            a_start, a_end = (
                np.array(crystal.get_A_at_scan_point(i)).reshape(3, 3)
                for i in (0, min(1, crystal.num_scan_points - 1))
            )
            a = 0.5 * (a_start + a_end)
        else:
            a = np.array(crystal.get_A()).reshape(3, 3)
        if self.experiment.is_still():
            return a
        goniometer, scan = self.experiment.goniometer, self.experiment.scan
        fixed, setting = (
            np.array(matrix).reshape(3, 3)
            for matrix in (goniometer.get_fixed_rotation(), goniometer.get_setting_rotation())
        )
        phi = np.radians(scan.get_angle_from_array_index(self.image_number))
        rotation = _rotation_matrix(goniometer.get_rotation_axis_datum(), phi)
        return setting @ rotation @ fixed @ a


def _rotation_matrix(axis, angle: float) -> np.ndarray:
    """Right-handed rotation by angle (rad) about axis (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def stills_of(experiments) -> list[Still]:
    """The stills of an experiment list, in its order.

    Raises:
        ValueError: no experiment; one without crystal, detector or beam; a scan of several images.
    """
    if len(experiments) == 0:
        raise ValueError("There are no experiments in the input")
    stills = []
    for index, experiment in enumerate(experiments):
        for name in ("crystal", "detector", "beam", "imageset"):
            if getattr(experiment, name) is None:
                hint = " (index and integrate it first)" if name == "crystal" else ""
                raise ValueError(f"Experiment {index} has no {name}{hint}")
        scan = experiment.scan
        n_images = scan.get_num_images() if scan is not None else 1
        if n_images > 1:
            raise ValueError(
                f"Experiment {index} is a sweep of {n_images} images: "
                "convert it with dials.sequence_to_stills first"
            )
        # A still's imageset normally holds its image alone; where several stills
        # share one the scan's array index (if any) is the only pointer there is
        if scan is None and len(experiment.imageset) > 1:
            raise ValueError(
                f"Experiment {index} has no scan but its imageset holds "
                f"{len(experiment.imageset)} images: which one it belongs to is not known "
                "(split the imageset, one experiment an image)"
            )
        image_index = 0
        if len(experiment.imageset) > 1:
            image_index = scan.get_array_range()[0] - _first_array_index(experiment.imageset)
        stills.append(Still(index, experiment, image_index))
    return stills


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
