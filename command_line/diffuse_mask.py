# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_mask
"""
Mask all pixels of stills that do not hold diffuse scattering: shadows, bad pixels, and
the Bragg spots of every lattice.

Usage: dials.diffuse_mask integrated.expt integrated.refl [options]

Examples:

  dials.diffuse_mask integrated.expt integrated.refl

  dials.diffuse_mask integrated.expt integrated.refl d_min=1.8 border=2 \\
    untrusted.circle=1230,1263,40 ice_rings.filter=True

  dials.diffuse_mask integrated.expt integrated.refl bragg.n_sigma=5

The pixels that are bad in every image go into pixels.mask, which becomes the lookup mask
of diffuse_masked.expt: all DIALS programs obey it. The spots are rows of
diffuse_masked.refl, from which each still's mask is painted when it is needed.
"""

from __future__ import annotations

import logging
import os
import pickle

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json
from dials_diffuse.io.model_copy import models_to_json
from dials_diffuse.phil.mask import phil_scope
from dials_diffuse.report.html import plots_of, write_report

logger = logging.getLogger("dials.diffuse.mask")


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Mask stills from the command line."""
    command = parse_command(
        args,
        phil=phil,
        usage="dials.diffuse_mask [options] integrated.expt integrated.refl",
        epilog=__doc__,
        other_suffixes=(),
    )
    if command is None:
        return
    command.start_log()
    params = command.params
    if len(command.inputs.pairs) != 1:
        raise ValueError(
            f"One .expt file (and its .refl) is needed, {len(command.inputs.pairs)} were given: join them with "
            "dials.combine_experiments, or give them all to dials.diffuse_process"
        )
    from dials_diffuse.masking.mask import make_masks
    from dials_diffuse.masking.report import make_report
    from dials_diffuse.masking.still_mask import StillMasker
    from dials_diffuse.masking.survey_file import MaskSurvey

    params.output.mask = os.path.abspath(params.output.mask)
    if params.survey is not None:
        _mask_by_survey(command.inputs.pairs[0], params)
        return
    experiments, reflections, failures = _load(command.inputs.pairs[0])
    result = make_masks(experiments, reflections, params)
    result.failures.update(failures)
    output = params.output
    # Nobody would see what is found on these images otherwise
    n_images = params.report.n_images if output.html or output.json else 0
    sections, numbers = make_report(result, n_images, pictures=bool(output.html))

    with replacing(params.output.mask) as path, open(path, "wb") as handle:
        pickle.dump(result.mask, handle, pickle.HIGHEST_PROTOCOL)
    logger.info("Saving the mask of all images to %s", params.output.mask)
    with replacing(params.output.reflections) as path:
        result.reflections.as_file(path)
    logger.info(
        "Saving %d rows of Bragg spots to %s", result.reflections.size(), params.output.reflections
    )
    with replacing(params.output.experiments) as path:
        result.experiments.as_file(path)
    logger.info("Saving %d experiments to %s", len(result.experiments), params.output.experiments)
    if params.output.bragg_mask:
        from dials_diffuse.masking.bragg_mask_file import write_bragg_masks

        groups = group_by_image(stills_of(result.experiments))
        write_bragg_masks(params.output.bragg_mask, groups, StillMasker(result.reflections))
        logger.info("Saving the Bragg masks to %s", params.output.bragg_mask)
    if params.output.survey:
        MaskSurvey.from_result(result, params).write(params.output.survey)
        logger.info("Saving what was learnt for other stills to %s", params.output.survey)
    if params.output.html:
        write_report(params.output.html, "dials.diffuse_mask", sections)
        logger.info("Saving the report to %s", params.output.html)
    if params.output.json:
        numbers["plots"] = plots_of(sections)
        numbers["models"] = models_to_json(result.experiments)
        write_json(params.output.json, numbers)
        logger.info("Saving the numbers to %s", params.output.json)
    if result.failures:
        logger.info("%d images or stills could not be used; see above", len(result.failures))


def _load(pair):
    """As DataPair.load_images, with a warning for every image that is left out"""
    experiments, reflections, failures = pair.load_images()
    for path, reason in failures.items():
        logger.warning("The stills on %s are left out: %s", path, reason)
    return experiments, reflections, failures


def _mask_by_survey(pair, params) -> None:
    """Mask a batch by what was learnt on other stills; no report.

    Raises:
        ValueError: the survey is unreadable or of other stills, or none could be masked.
    """
    from dials_diffuse.masking.batches import mask_batch
    from dials_diffuse.masking.survey_file import MaskSurvey

    survey = MaskSurvey.from_file(params.survey)
    failures = {}
    if survey.needs_images:
        experiments, reflections, failures = _load(pair)
    else:
        experiments, reflections = pair.load(check_format=False)
    result = mask_batch(experiments, reflections, params, survey)
    result.failures.update(failures)
    with replacing(params.output.reflections) as path:
        result.reflections.as_file(path)
    with replacing(params.output.experiments) as path:
        result.experiments.as_file(path)
    logger.info(
        "Saving %d experiments with %d rows of Bragg spots to %s and %s",
        len(result.experiments),
        result.reflections.size(),
        params.output.experiments,
        params.output.reflections,
    )
    if params.output.json:
        numbers = {"failures": result.failures, "models": models_to_json(result.experiments)}
        write_json(params.output.json, numbers)
    if result.failures:
        logger.info("%d images or stills could not be used; see above", len(result.failures))


if __name__ == "__main__":
    run()
