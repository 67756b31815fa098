"""Masks of a batch of stills by the survey of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from dials_diffuse.masking.bragg_rows import bragg_rows
from dials_diffuse.masking.lattices import select_lattices
from dials_diffuse.masking.pixels import static
from dials_diffuse.masking.survey_file import MaskSurvey


@dataclass
class BatchMasks:
    """Masks of a batch.

    Attributes:
        experiments: the stills that are left
        reflections: Bragg rows of all of them
        failures: path of an image or identifier of a still -> what was wrong with it
    """

    experiments: object
    reflections: object
    failures: dict[str, str]


def mask_batch(experiments, reflections, params, survey: MaskSurvey) -> BatchMasks:
    """The masks of stills by what others have told.

    Args:
        experiments: with crystals; with images where survey.needs_images
        reflections: their table, or None
        params: extract of dials_diffuse.phil.mask
        survey: of stills with the same detector and symmetry

    Raises:
        ValueError: the survey is of another detector or space group.
        NothingLeft: no still could be masked.
    """
    survey.check(experiments)
    experiments, reflections = select_lattices(experiments, reflections, params.bragg.multi_lattice)
    experiments, table, failures = bragg_rows(
        experiments, reflections, survey.method, survey.predictor, survey.good, params.nproc
    )
    static.set_lookup_mask(experiments.imagesets(), survey.good, survey.mask)
    return BatchMasks(experiments, table, failures)
