"""Run dials.diffuse_mask: the pixel mask of a data set, and the Bragg rows of every still."""

from __future__ import annotations

import logging
import os
import pickle

from dials_diffuse.adapters.images import lower_trusted_range
from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.parameters import settings_from
from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.adapters.sweeps import choose_images, fill_exposure_times
from dials_diffuse.grid.lattice_settings import check_settings
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json
from dials_diffuse.io.model_copy import models_to_json
from dials_diffuse.masking import report
from dials_diffuse.masking.bragg_mask_file import write_bragg_masks
from dials_diffuse.masking.bragg_rows import bragg_rows
from dials_diffuse.masking.crystal_features import learn_features
from dials_diffuse.masking.image_check import check_images
from dials_diffuse.masking.lattices import select_lattices
from dials_diffuse.masking.masker import RowMasker
from dials_diffuse.masking.pixels.causes import dynamic_causes, remaining, static_causes
from dials_diffuse.masking.pixels.overload import trusted_limit
from dials_diffuse.masking.pixels.static import set_lookup_mask
from dials_diffuse.masking.residual import choose_residual
from dials_diffuse.masking.result import MaskResult
from dials_diffuse.masking.spot_predictor import BraggMaskSettings, SpotPredictor, log_size
from dials_diffuse.masking.spots.size import fit_spot_size
from dials_diffuse.masking.survey import run_survey, spread_subset
from dials_diffuse.masking.survey_file import BatchMasks, MaskSurvey, mask_batch
from dials_diffuse.report.html import write_outputs

logger = logging.getLogger("dials.diffuse.masking")


def run(inputs: Inputs, params) -> MaskResult | BatchMasks:
    """Mask the stills of a .expt file and its .refl, and write the files of the command.

    Args:
        inputs: one pair of files
        params: extract of dials_diffuse.phil.mask; output.mask is made absolute

    Raises:
        ValueError: input that can't be used, or no pixel or no still is left.
    """
    if len(inputs.pairs) != 1:
        raise ValueError(
            f"One .expt file (and its .refl) is needed, {len(inputs.pairs)} were given: join them with "
            "dials.combine_experiments, or give them all to dials.diffuse_process"
        )
    (pair,) = inputs.pairs
    params.output.mask = os.path.abspath(params.output.mask)
    result = _mask_all(pair, params) if params.survey is None else _mask_by_survey(pair, params)
    if result.failures:
        logger.info("%d images or stills could not be used; see above", len(result.failures))
    return result


def _mask_all(pair: DataPair, params) -> MaskResult:
    """Mask stills, and write all files."""
    output = params.output
    experiments, reflections, unopened = _load(pair)
    result = make_masks(experiments, reflections, params)
    result.failures.update(unopened)
    # The report shows them, and nothing else
    if output.html or output.json:
        result.checks = check_images(result, params.report.n_images, bool(output.html))
    report.log_result(result)

    with replacing(output.mask) as path, open(path, "wb") as handle:
        pickle.dump(result.mask, handle, pickle.HIGHEST_PROTOCOL)
    logger.info("Saving the mask of all images to %s", output.mask)
    _write_stills(result, output)
    if output.bragg_mask:
        groups = group_by_image(stills_of(result.experiments))
        write_bragg_masks(output.bragg_mask, groups, RowMasker(result.reflections))
        logger.info("Saving the Bragg masks to %s", output.bragg_mask)
    if output.survey:
        MaskSurvey.from_result(result, params).write(output.survey)
        logger.info("Saving the survey, for other stills, to %s", output.survey)
    if output.html or output.json:
        write_outputs(output, "dials.diffuse_mask", report.sections(result), report.numbers(result))
    return result


def _mask_by_survey(pair: DataPair, params) -> BatchMasks:
    """Mask stills by the survey of others, and write their files; there is no report."""
    survey = MaskSurvey.from_file(params.survey)
    if survey.needs_images:
        experiments, reflections, unopened = _load(pair)
    else:
        experiments, reflections, unopened = *pair.load(check_format=False), {}
    _prepare_sweeps(experiments, params)
    result = mask_batch(experiments, reflections, params, survey)
    result.failures.update(unopened)
    _write_stills(result, params.output)
    if params.output.json:
        numbers = {"failures": result.failures, "models": models_to_json(result.experiments)}
        write_json(params.output.json, numbers)
    return result


def _load(pair: DataPair):
    """As DataPair.load_images, with a warning for every image that is left out."""
    experiments, reflections, unopened = pair.load_images()
    for path, reason in unopened.items():
        logger.warning("The stills on %s are left out: %s", path, reason)
    return experiments, reflections, unopened


def _write_stills(result: MaskResult | BatchMasks, output) -> None:
    with replacing(output.reflections) as path:
        result.reflections.as_file(path)
    logger.info("Saving %d rows of Bragg spots to %s", len(result.reflections), output.reflections)
    with replacing(output.experiments) as path:
        result.experiments.as_file(path)
    logger.info("Saving %d experiments to %s", len(result.experiments), output.experiments)


def _prepare_sweeps(experiments, params) -> None:
    """Choose the images of sweeps, and give them exposure times, in place."""
    choose_images(experiments, params.image_range, list(filter(None, params.exclude_images)))
    fill_exposure_times(experiments)


def make_masks(experiments, reflections, params) -> MaskResult:
    """Make the masks of a set of stills.

    Args:
        experiments: with crystals and images
        reflections: their table, or None
        params: extract of dials_diffuse.phil.mask

    Raises:
        ValueError: input that can't be used, or no pixel or no still is left.
    """
    check_settings([still.crystal for still in stills_of(experiments)])
    _prepare_sweeps(experiments, params)
    settings = settings_from(BraggMaskSettings, params.bragg)
    experiments, reflections, n_several = select_lattices(
        experiments, reflections, settings.multi_lattice
    )
    stills, imagesets = stills_of(experiments), experiments.imagesets()
    groups = group_by_image(stills)

    causes, differ = static_causes(imagesets, params)
    good = remaining(causes)
    survey, fit, predictor, features, failures = None, None, None, None, {}
    dynamic = params.dynamic
    limit = trusted_limit(groups, good) if dynamic.enable else None
    lower_trusted_range(experiments.detectors(), limit)
    if settings.needs_size or dynamic.enable or dynamic.shadow:
        survey = run_survey(
            groups, dynamic.n_images, good, settings.needs_size, params.nproc, differ
        )
        failures.update(survey.failures)
        fit = fit_spot_size(survey.spots)
        detector, beam = stills[0].detector, stills[0].beam
        surveyed = [group[0] for group in spread_subset(groups, dynamic.n_images)]
        causes.update(dynamic_causes(survey.pixels, good, detector, beam, dynamic, surveyed))
        good = remaining(causes)

    if settings.predicts:
        residual = choose_residual(settings, fit, groups, reflections, good)
        predictor = SpotPredictor.from_fit(settings, fit, residual)
        log_size(predictor, fit, residual, stills[0])
        if settings.other_spots:
            features = learn_features(
                groups, dynamic.n_images, reflections, predictor, good, params.nproc
            )
    experiments, table, failed, bright = bragg_rows(
        experiments, reflections, settings.method, predictor, good, params.nproc, features
    )
    failures.update(failed)
    mask = set_lookup_mask(imagesets, good, params.output.mask)
    return MaskResult(
        experiments,
        table,
        mask,
        good,
        causes,
        survey,
        fit,
        predictor,
        failures,
        features,
        bright,
        multi_lattice=n_several,
        trusted_limit=limit,
        own_masks=differ,
    )
