"""dials.stills_process from Python: image files in, crystals and reflections out."""

from __future__ import annotations

import copy
import importlib
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory
from iotbx.phil import parse

from dials.array_family import flex
from dials.util.version import dials_version

logger = logging.getLogger("dials.diffuse.stills_processor")

_HDF5 = b"\x89HDF\r\n\x1a\n"

# Where DIALS keeps its mosaicity minimiser, newest version first
_MINIMISERS = ("serialtbx.mono_simulation.max_like", "xfel.mono_simulation.max_like")


@dataclass
class ProcessedStills:
    """What came out.

    Attributes:
        experiments: the stills that were integrated, one experiment a lattice
        reflections: their integrated reflections, with partiality
        failures: image (path, with #number in files of several) -> why it was not integrated
    """

    experiments: ExperimentList
    reflections: flex.reflection_table
    failures: dict[str, str] = field(default_factory=dict)


def check_available() -> None:
    """Find out before any work whether this DIALS can refine and integrate stills.

    Raises:
        ValueError: its build lacks the compiled extension for that.
    """
    reasons = []
    for name in _MINIMISERS:
        try:
            importlib.import_module(name)
            return
        except ImportError as error:
            reasons.append(str(error).strip().splitlines()[0])
    raise ValueError(
        f"{dials_version()} as built here can index stills but neither refine nor integrate them: "
        f"the compiled extension xfel_mono_sim_ext is missing ({reasons[-1]}). "
        "Process the images with another build of DIALS and start from its integrated.expt and .refl"
    )


def processing_parameters(phil=None):
    """Parameters of dials.stills_process for use in memory.

    Args:
        phil: PHIL text, a PHIL scope, an extract of its scope, or None for the defaults

    Returns:
        an extract, with errors raised instead of printed and no files written

    Raises:
        ValueError: a parameter that dials.stills_process does not have, or a bad value.
    """
    from dials.command_line.stills_process import phil_scope

    if phil is None or isinstance(phil, str) or hasattr(phil, "objects"):
        try:
            source = parse(phil or "") if isinstance(phil, str) or phil is None else phil
            working, unused = phil_scope.fetch(source=source, track_unused_definitions=True)
            params = working.extract()
        except RuntimeError as error:
            raise ValueError(f"Parameters for dials.stills_process: {error}") from error
        if unused:
            raise ValueError(
                "dials.stills_process has no parameter "
                + ", ".join(str(item.path) for item in unused)
            )
    else:
        params = copy.deepcopy(phil)
    params.dispatch.squash_errors = False
    params.output.composite_output = True
    for name in list(vars(params.output)):
        if name.endswith("_filename") or name == "integration_pickle":
            setattr(params.output, name, None)
    # Stills are collected in memory only if they have names; files would be written by
    # Processor.finalize, which is not called
    params.output.integrated_experiments_filename = "integrated.expt"
    params.output.integrated_filename = "integrated.refl"
    return params


def count_images(path: str | os.PathLike) -> int:
    """Number of images in a file: looked up in HDF5 files, 1 for all others.

    A file that cannot be read counts as one image, which then fails with the reason.
    """
    try:
        with open(path, "rb") as handle:
            if handle.read(len(_HDF5)) != _HDF5:
                return 1
        found = ExperimentListFactory.from_filenames([os.fspath(path)], load_models=False)
        return max(1, sum(len(imageset) for imageset in found.imagesets()))
    except Exception as error:
        logger.debug("%s: %s", path, error)
        return 1


def process_stills(
    images: Sequence[str | os.PathLike] | ExperimentList,
    phil=None,
    reference=None,
    part: Sequence[int] | None = None,
) -> ProcessedStills:
    """Find spots, index, refine and integrate stills with dials.stills_process's Processor.

    A still that fails is noted with its reason and does not stop the others.

    Args:
        images: image files, or experiments that have been imported already
        phil: see processing_parameters; unit cell and space group are given here
            (indexing.known_symmetry)
        reference: an experiment whose detector and beam replace those of the images, or None
        part: of the images, those from part[0] to before part[1], 0-based; None: all

    Raises:
        ValueError: this DIALS can't do it, a bad parameter, or no image.
    """
    check_available()
    params = processing_parameters(phil)
    from dials.command_line.dials_import import ManualGeometryUpdater
    from dials.command_line.stills_process import Processor

    failures: dict[str, str] = {}
    stills = _single_stills(images, failures)
    if part is not None:
        stills = stills[part[0] : part[1]]
    if not stills and not failures:
        raise ValueError("There are no images to process")
    with tempfile.TemporaryDirectory() as folder:
        params.output.output_dir = folder
        processor = Processor(params, composite_tag="diffuse")
        for number, (name, still) in enumerate(stills):
            before = len(processor.all_integrated_experiments)
            try:
                _set_geometry(still, ManualGeometryUpdater(params), reference)
                processor.process_experiments(f"{number:05d}", still)
                if len(processor.all_integrated_experiments) == before:
                    raise ValueError(
                        "nothing was integrated (too few spots, or a step is turned off)"
                    )
            except Exception as error:
                failures[name] = _reason(error)
                logger.warning("%s: %s", name, failures[name])
                _forget(processor, before)
            for experiment in still:
                experiment.imageset.clear_cache()
        logger.info("%d of %d stills were integrated", len(stills) - len(failures), len(stills))
        return ProcessedStills(
            processor.all_integrated_experiments, processor.all_integrated_reflections, failures
        )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _single_stills(images, failures) -> list[tuple[str, ExperimentList]]:
    """(name, list of one experiment) of every image; unreadable files go to failures."""
    from dials.command_line.stills_process import do_import

    if isinstance(images, ExperimentList):
        return [(_name(e), ExperimentList([e])) for e in images]
    stills = []
    for image in images:
        try:
            found = do_import(os.fspath(image), load_models=False)
        except Exception as error:
            failures[os.fspath(image)] = _reason(error)
            continue
        if len(found) == 0:
            failures[os.fspath(image)] = "not an image that dxtbx can read"
        stills += [(_name(e), ExperimentList([e])) for e in found]
    return stills


def _name(experiment) -> str:
    imageset = experiment.imageset
    name = imageset.get_path(0)
    index = imageset.indices()[0]
    return f"{name}#{index + 1}" if index > 0 else name


def _set_geometry(still: ExperimentList, update, reference) -> None:
    experiment = still[0]
    if experiment.detector is None:
        experiment.load_models()
    update(experiment.imageset)
    experiment.beam = experiment.imageset.get_beam()
    experiment.detector = experiment.imageset.get_detector()
    if reference is not None:
        experiment.detector = copy.deepcopy(reference.detector)
        experiment.beam = copy.deepcopy(reference.beam)


def _forget(processor, number: int) -> None:
    """Drop what a failed still may have left among the integrated ones."""
    experiments = processor.all_integrated_experiments
    if len(experiments) == number:
        return
    table = processor.all_integrated_reflections
    table.del_selected(table["id"] >= number)
    for index in range(number, len(experiments)):
        del table.experiment_identifiers()[index]
    processor.all_integrated_experiments = experiments[:number]
