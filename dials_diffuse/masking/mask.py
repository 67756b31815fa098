"""dials.diffuse_mask's work: the global mask, and the Bragg rows of every still."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.system import map_in_processes, resolve_nproc
from dials_diffuse.masking import static
from dials_diffuse.masking.prediction import predict_spots, spots_table
from dials_diffuse.masking.spot_shape import (
    FWHM_PER_SIGMA,
    SIGMA_TIMES_DOMAIN_SIZE,
    SpotShape,
    shape_of_model,
)
from dials_diffuse.stills import Still, group_by_image, stills_of

logger = logging.getLogger("dials.diffuse.masking")


@dataclass
class MaskResult:
    """What the command writes.

    Attributes:
        experiments: the stills that are left
        reflections: Bragg rows of all of them
        mask: tuple of flex.bool, True = good, of the pixels.mask file
        static: the same as numpy arrays
        failures: experiment identifier -> why it has no Bragg rows
    """

    experiments: object
    reflections: object
    mask: tuple
    static: list[np.ndarray]
    failures: dict[str, str] = field(default_factory=dict)


def shape_of_still(experiment, params) -> SpotShape:
    """Spot shape by parameters, else by the models.

    Raises:
        ValueError: neither knows it.
    """
    shape = shape_of_model(experiment)
    angle, size = (shape.angle, shape.size) if shape else (None, None)
    given = []
    if params.mosaicity is not None:
        angle = np.radians(params.mosaicity) / FWHM_PER_SIGMA
        given.append("mosaicity")
    if params.domain_size is not None:
        size = SIGMA_TIMES_DOMAIN_SIZE / params.domain_size
        given.append("domain_size")
    if shape is None or given:
        if angle is None and size is None:
            raise ValueError(
                "The crystal models hold no mosaicity: give bragg.mosaicity and bragg.domain_size"
            )
        shape = SpotShape.isotropic(size or 0.0, angle or 0.0, source="parameters")
    return shape.changed(along=params.bandwidth)


def _predict(task):
    still, params = task
    try:
        shape = shape_of_still(still.experiment, params)
        rows = predict_spots(
            still,
            shape,
            params.n_sigma,
            params.padding,
            params.d_min,
            params.halo_radius if params.method == "halo" else 0.0,
        )
        return rows, shape, None
    except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
        return None, None, str(error)


def bragg_rows(stills: list[Still], reflections, params, nproc: int):
    """The table of Bragg rows of all stills, and identifier -> reason of those that failed.

    Raises:
        ValueError: no still could be predicted, or what the method needs is missing.
    """
    table = flex.reflection_table()
    for still in stills:
        table.experiment_identifiers()[still.index] = still.experiment.identifier
    if params.method == "none":
        table.extend(spots_table(_no_rows(), 0, 0.5))
        return table, {}
    if params.method == "shoebox":
        if reflections is None or "shoebox" not in reflections:
            raise ValueError(
                "bragg.method=shoebox needs a .refl file with shoeboxes "
                "(integrate with output.shoeboxes=True or use bragg.method=predicted)"
            )
        for name in ("id", "panel", "miller_index", "xyzcal.px", "bbox", "flags", "shoebox"):
            if name in reflections:
                table[name] = reflections[name]
        return table, {}
    failures = {}
    found = map_in_processes(_predict, ((still, params) for still in stills), nproc)
    for still, (rows, shape, reason) in zip(stills, found):
        if reason is not None:
            failures[still.experiment.identifier] = reason
            logger.warning("Still %d (%s) has no Bragg mask: %s", still.index, still.path, reason)
            continue
        logger.debug("Still %d: %d spots, shape from %s", still.index, len(rows.panel), shape.source)
        table.extend(spots_table(rows, still.index, still.image_number))
    if len(failures) == len(stills):
        raise ValueError(f"No still could be masked. The first one: {next(iter(failures.values()))}")
    return table, failures


def _no_rows():
    from dials_diffuse.masking.prediction import SpotRows

    return SpotRows(
        np.zeros(0, np.int64), np.zeros((0, 3), np.int32), np.zeros((0, 2)),
        np.zeros((0, 4), np.int32), np.zeros((0, 3)),
    )


def select_lattices(experiments, reflections, policy: str):
    """Apply the policy for images with several lattices.

    Returns:
        (experiments, reflections), those of the images that are left

    Raises:
        ValueError: nothing is left.
    """
    groups = group_by_image(stills_of(experiments))
    several = [group for group in groups if len(group) > 1]
    if not several:
        return experiments, reflections
    if policy == "mask":
        logger.info("%d images have several lattices; all of their spots are masked", len(several))
        return experiments, reflections
    keep = [group[0].experiment for group in groups if len(group) == 1]
    logger.info("%d images with several lattices are left out", len(several))
    if not keep:
        raise ValueError("All images have several lattices: use bragg.multi_lattice=mask")
    kept = type(experiments)()
    for experiment in keep:
        kept.append(experiment)
    if reflections is not None:
        reflections = reflections.select_on_experiment_identifiers(
            [experiment.identifier for experiment in keep]
        )
        reflections.reset_ids()
    return kept, reflections


def check_space_groups(experiments) -> None:
    """Raises:
    ValueError: the crystals differ in space group.
    """
    groups = {}
    for index, experiment in enumerate(experiments):
        symbol = str(experiment.crystal.get_space_group().info())
        groups.setdefault(symbol, index)
    if len(groups) > 1:
        raise ValueError(
            "The crystals have different space groups ("
            + ", ".join(f"{symbol} first in experiment {i}" for symbol, i in groups.items())
            + "): reindex them or reduce them separately"
        )


def make_masks(experiments, reflections, params) -> MaskResult:
    """The masks of a set of stills.

    Args:
        experiments: with crystals and images
        reflections: their table, or None
        params: extract of dials_diffuse.phil.mask

    Raises:
        ValueError: input that can't be used, or nothing is left of the detector.
    """
    stills_of(experiments)
    check_space_groups(experiments)
    experiments, reflections = select_lattices(
        experiments, reflections, params.bragg.multi_lattice
    )
    stills = stills_of(experiments)
    imagesets = experiments.imagesets()
    static.check_same_panels(imagesets)
    lookup = static.lookup_masks(imagesets)
    by_parameters = static.parameter_mask(imagesets[0], params)
    good = [a & b for a, b in zip(lookup, by_parameters)]
    if not any(mask.any() for mask in good):
        raise ValueError(
            "The masks leave no pixel of the detector: check d_min, d_max, border, untrusted and the lookup mask"
        )
    nproc = resolve_nproc(params.nproc, len(stills))
    table, failures = bragg_rows(stills, reflections, params.bragg, nproc)
    as_flex = static.set_lookup_mask(imagesets, good, params.output.mask)
    return MaskResult(experiments, table, as_flex, good, failures)
