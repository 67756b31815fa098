"""Select the stills that can be masked, where several lattices share an image."""

from __future__ import annotations

import logging

from dxtbx.model.experiment_list import ExperimentList

from dials_diffuse.adapters.stills import NothingLeft, Still, group_by_image, stills_of
from dials_diffuse.adapters.sweeps import use_images

logger = logging.getLogger("dials.diffuse.masking")

ALL_HAVE_SEVERAL = (
    "All {} images have several lattices, whose photons can't be told apart: multi_lattice=keep takes them all the "
    "same, with less contrast in the map"
)


def select_stills(experiments: list, reflections):
    """The ExperimentList of some experiments of a longer one, and their rows of its table."""
    if reflections is not None:
        reflections = reflections.select_on_experiment_identifiers(
            [experiment.identifier for experiment in experiments]
        )
        reflections.reset_ids()
    return ExperimentList(experiments), reflections


def only_one_lattice(groups: list[list[Still]]) -> list[list[Still]]:
    """The images with one lattice, and a warning with the number of the others."""
    single = [group for group in groups if len(group) == 1]
    if len(single) < len(groups):
        logger.warning(
            "Warning: %d of %d images have several lattices and are left out of the map, as their photons are those "
            "of all lattices (multi_lattice=keep takes them)",
            len(groups) - len(single),
            len(groups),
        )
    return single


def select_lattices(experiments, reflections, multi_lattice: str):
    """Apply the parameter bragg.multi_lattice to images with several lattices.

    Args:
        experiments, reflections: ExperimentList and its table, or None
        multi_lattice: exclude or keep

    Returns:
        (experiments, reflections, number of images left out) of the images that are left

    Raises:
        NothingLeft: no image is left.
    """
    groups = group_by_image(stills_of(experiments))
    n_several = sum(len(group) > 1 for group in groups)
    if not n_several:
        return experiments, reflections, 0
    if multi_lattice == "keep":
        logger.info("%d images have several lattices; all of their spots are masked", n_several)
        return experiments, reflections, 0
    keep = [group[0] for group in only_one_lattice(groups)]
    if not keep:
        raise NothingLeft(ALL_HAVE_SEVERAL.format(n_several))
    return *_only(keep, reflections), n_several


def _only(stills: list[Still], reflections):
    """As select_stills, the experiments of some stills; sweeps use these images only from now on, in place."""
    images: dict[int, list[Still]] = {}
    for still in sorted(stills, key=lambda still: still.key):
        images.setdefault(still.index, []).append(still)
    for group in images.values():
        if group[0].of_sweep:
            use_images(group[0].experiment, (still.key[1] for still in group))
    return select_stills([group[0].experiment for group in images.values()], reflections)


def other_lattice_unknown(index: int) -> str:
    """The reason for leaving out a still that shares its image with the still of this index."""
    return f"the Bragg spots of another lattice on its image (still {index}) are not known"


def leave_out_unmasked(experiments, table, failures: dict[str, str]):
    """Leave out all stills of an image if the Bragg spots of one of them are unknown.

    These spots would be taken for diffuse scattering, also of the other lattices.

    Args:
        experiments, table: ExperimentList and its Bragg rows
        failures: name of a still or path of an image -> reason; other lattices are added

    Returns:
        (experiments, table) of the images that are left

    Raises:
        NothingLeft: no image is left.
    """
    keep: list[Still] = []
    stills = stills_of(experiments)
    for group in group_by_image(stills):
        unknown = [still for still in group if still.name in failures]
        if not unknown:
            keep.extend(group)
            continue
        other = other_lattice_unknown(unknown[0].index)
        for still in group:
            reason = failures.setdefault(still.name, other)
            logger.warning("Still %d (%s) is left out: %s", still.index, still.path, reason)
    if not keep:
        raise NothingLeft(f"No still could be masked. {next(iter(failures.values()))}")
    if len(keep) == len(stills):
        return experiments, table
    return _only(keep, table)
