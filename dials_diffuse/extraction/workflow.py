"""The step dials.diffuse_extract: from masked stills to files of observations and a report."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from dxtbx.model import ExperimentList

from dials.util import tabulate

from dials_diffuse.adapters.experiment_file import ExperimentFile
from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.parameters import settings_from
from dials_diffuse.adapters.stills import NothingLeft, check_given_once
from dials_diffuse.adapters.sweeps import fill_exposure_times, n_images
from dials_diffuse.adapters.system import resolve_nproc
from dials_diffuse.extraction import report
from dials_diffuse.extraction.background.load import load_background
from dials_diffuse.extraction.background.planes import Background
from dials_diffuse.extraction.extractor import ExtractedStill
from dials_diffuse.extraction.output import ExtractedFiles
from dials_diffuse.extraction.processes import extract_pair, observation_scratch
from dials_diffuse.extraction.result import ExtractionResult, StillSummary
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.geometry.panel import warn_of_unknown_sensors
from dials_diffuse.geometry.probe import check_probes
from dials_diffuse.grid.lattice_settings import LatticeSetting
from dials_diffuse.grid.reference_cell import reference_cell
from dials_diffuse.grid.symmetry import check_subdivide, laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.pixel_file import pixel_file
from dials_diffuse.masking.lattices import ALL_HAVE_SEVERAL
from dials_diffuse.masking.masker import Masker, masker_for
from dials_diffuse.report.html import write_outputs

logger = logging.getLogger("dials.diffuse.extract")


def run(inputs: Inputs, params) -> ExtractionResult:
    """Extract all stills of the input and write files and report.

    Args:
        inputs: pairs of .expt and .refl files
        params: extract of dials_diffuse.phil.extract

    Raises:
        ValueError: input or parameter that can't be used.
        NothingLeft: not one still could be extracted.
    """
    settings = settings_from(ExtractionSettings, params)
    settings.check()
    experiments = _load_models(inputs.pairs)
    masker = masker_for(params.survey)
    masker.restore(experiments)
    fill_exposure_times(experiments)
    check_probes(experiments.beams(), settings)
    setting = masker.setting or common_setting(experiments)
    grid = reference_grid(experiments, settings, setting)
    result = ExtractionResult(settings, grid, setting=setting)
    warn_of_unknown_sensors(experiments[0].detector, experiments[0].beam, settings)
    n_stills = sum(n_images(experiment) for experiment in experiments)
    nproc = resolve_nproc(params.nproc, n_stills)
    logger.info("Extracting %d stills with %d process(es)", n_stills, nproc)
    background = background_for(inputs.pairs[0], settings, masker)
    _extract_all(inputs.pairs, experiments, masker, background, nproc, params.output, result)
    _log_stills(result.stills)
    _log_settings(result)
    write_outputs(
        params.output,
        "dials.diffuse_extract",
        report.sections(result),
        report.numbers(result) if params.output.json else {},
    )
    return result


def _load_models(pairs: list[DataPair]) -> ExperimentList:
    """The experiments of all files, without images."""
    if not pairs:
        raise ValueError("No .expt file in the input")
    everything, seen = ExperimentList(), {}
    for pair in pairs:
        experiments = load_experiments(pair.experiments, check_format=False)
        check_given_once(experiments, pair.experiments, seen)
        everything.extend(experiments)
    return everything


def common_setting(experiments) -> LatticeSetting:
    """The setting that most crystals have.

    Raises:
        ValueError: no crystal.
    """
    for index, experiment in enumerate(experiments):
        if experiment.crystal is None:
            raise ValueError(f"Experiment {index} has no crystal (index and integrate it first)")
    return LatticeSetting.most_frequent([experiment.crystal for experiment in experiments])


def reference_grid(
    experiments, settings: ExtractionSettings, setting: LatticeSetting | None = None
) -> VoxelGrid:
    """The grid of all crystals: their common Laue group, and the median of their cells in one setting.

    The cell sets the scale of |q| only; dials.diffuse_grid replaces it by a robust average.

    Args:
        experiments: every experiment that will be extracted (a sequence)
        settings: of the extraction
        setting: that all are brought to; None: the one that most have

    Raises:
        ValueError: no crystal, different space groups, or a subdivision against the symmetry.
    """
    setting = setting or common_setting(experiments)
    laue_group = laue_group_of(setting.space_group)
    check_subdivide(settings.subdivide, laue_group)
    cells = [setting.cell_of(experiment.crystal) for experiment in experiments]
    # A group of the crystals themselves: the order of its operators decides the last bits of a mean
    own = (experiment.crystal.get_space_group() for experiment in experiments)
    space_group = next((group for group in own if group == setting.space_group), None)
    cell = reference_cell(cells, space_group or setting.space_group)
    return VoxelGrid(
        subdivide=settings.subdivide,
        unit_cell=cell.unit_cell,
        laue_group=laue_group,
        d_min=settings.d_min,
        d_max=settings.d_max,
    )


def background_for(
    pair: DataPair, settings: ExtractionSettings, masker: Masker
) -> Background | None:
    """The background that the settings name, read once for all files.

    Args:
        pair: of the first stills
        settings: of the extraction
        masker: of the stills

    Raises:
        ValueError: unreadable, or of another shape than the detector; no image of the stills can be
            opened.
    """
    if settings.background is None:
        return None
    first = _first_readable(ExperimentFile(pair.experiments))
    return load_background(settings, first.detector, masker.good_pixels(first.imageset))


def _first_readable(file: ExperimentFile):
    """The first experiment whose image can be opened.

    Raises:
        ValueError: none can.
    """
    reason = None
    for index in range(len(file)):
        try:
            return file.load([index])[0]
        except ValueError as error:
            reason = reason or error
    raise reason


def _extract_all(
    pairs: list[DataPair],
    experiments,
    masker: Masker,
    background: Background | None,
    nproc: int,
    output,
    result: ExtractionResult,
) -> None:
    """Extract the stills of one pair of files after the other, and write them.

    Args:
        pairs: the files; experiments: of all of them
        output: extracted output scope
        result: its stills, failures and models are filled in place
    """
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(output.reflections).absolute().parent
        scratch = stack.enter_context(observation_scratch(experiments, folder))
        files = stack.enter_context(
            ExtractedFiles(output, result.grid, scratch, masker, len(experiments), result.setting)
        )
        pixels = stack.enter_context(pixel_file(output.pixels)) if output.pixels else None
        for pair in pairs:
            for experiment, still in extract_pair(
                pair,
                result.settings,
                masker,
                background,
                nproc,
                scratch,
                pixels is not None,
                result.setting,
            ):
                summary = still.summary
                _log_failure(still, len(result.stills))
                if still.left_out:
                    left_out[still.left_out] = summary.error
                    continue
                if pixels is not None and still.pixels is not None:
                    pixels.add(
                        still.pixels, experiment.identifier, summary.path, summary.exposure_time
                    )
                result.stills.append(summary)
                files.add(experiment, still)
        if all(summary.error for summary in result.stills):
            reasons = [summary.error for summary in result.stills] or list(left_out.values())
            reasons = reasons or [ALL_HAVE_SEVERAL.format(len(experiments))]
            raise NothingLeft(f"Not one still could be extracted: {reasons[0]}")
        files.write()
    result.failures, result.models = masker.failures(left_out), files.models


def _log_failure(still: ExtractedStill, number: int) -> None:
    summary = still.summary
    for reason in summary.missing:
        logger.warning("An image of sweep %d is left out: %s", still.index, reason)
    if still.left_out:
        logger.warning("Still %d (%s) is left out: %s", still.index, summary.path, summary.error)
    elif summary.error:
        logger.error("Processing still %d failed: %s", number, summary.error)


def _log_stills(stills: list[StillSummary]) -> None:
    logger.info("\n%s", tabulate(report.table(stills), headers="firstrow", tablefmt="psql"))
    n_failed = sum(bool(still.error) for still in stills)
    if n_failed:
        logger.warning(
            "Warning: %d of %d stills failed and have no observations", n_failed, len(stills)
        )


def _log_settings(result: ExtractionResult) -> None:
    rows = report.settings_table(result)
    if len(rows) > 2:
        logger.info(
            "The stills were indexed in %d settings of one lattice, and brought to the most frequent one\n%s",
            len(rows) - 1,
            tabulate(rows, headers="firstrow", tablefmt="psql"),
        )
