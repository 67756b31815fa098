"""Masks of a batch of stills by the survey of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from dials_diffuse.adapters.stills import NothingLeft, group_by_image, stills_of
from dials_diffuse.adapters.system import resolve_nproc
from dials_diffuse.masking.mask import (
    bragg_rows,
    empty_table,
    leave_out_unmasked,
    select_lattices,
    shoebox_rows,
)
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
    stills = stills_of(experiments)
    failures: dict[str, str] = {}
    if survey.method == "shoebox":
        table = shoebox_rows(stills, reflections)
    elif survey.settings is None:
        table = empty_table(stills)
    else:
        nproc = resolve_nproc(params.nproc, len(group_by_image(stills)))
        try:
            table, failures = bragg_rows(stills, reflections, survey.settings, survey.good, nproc)
            experiments, table = leave_out_unmasked(experiments, table, failures)
        except ValueError as error:
            raise NothingLeft(str(error)) from error
    static.set_lookup_mask(experiments.imagesets(), survey.good, survey.mask)
    return BatchMasks(experiments, table, failures)
