"""Simulate a set of stills: images on disk, and their experiments, reflections and truth."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dxtbx.format.Registry import get_format_class_for_file
from dxtbx.model import Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.system import map_in_processes, resolve_nproc
from dials_diffuse.simulation.crystals import StillState
from dials_diffuse.simulation.forward import Simulator
from dials_diffuse.simulation.images import file_stem, is_normal_to_beam, open_nexus, write_minicbf
from dials_diffuse.simulation.reflections import integrate
from dials_diffuse.simulation.sequences import sequence, sequence_reflections
from dials_diffuse.simulation.settings import SimulationSettings

logger = logging.getLogger("dials.diffuse.simulation")


@dataclass
class SimulatedSet:
    """The result of a simulation.

    Attributes:
        simulator: evaluates any still again (`simulator.expected(still)`)
        experiments: one a lattice and still
        reflections: their integrated reflections
        mean_photons: mean counts a pixel of every still, photons
        background: experiments of the empty shots, or None
        sequence: a sweep as one experiment a lattice, with goniometer and scan, as
            dials.integrate would leave it; else None
        sequence_reflections: those of the sweep, or None
    """

    simulator: Simulator
    experiments: ExperimentList
    reflections: flex.reflection_table
    mean_photons: list[float]
    background: ExperimentList | None = None
    sequence: ExperimentList | None = None
    sequence_reflections: flex.reflection_table | None = None


_IDENTIFIER = "simulated-"


def experiment_identifier(settings: SimulationSettings, number: int) -> str:
    """Identifier of an experiment; the same in every run with the same seed."""
    return f"{_IDENTIFIER}{settings.seed}-{number:06d}"


def is_simulated(identifier: str) -> bool:
    """True for an identifier that `experiment_identifier` made."""
    return identifier.startswith(_IDENTIFIER)


def _record_of_still(still: StillState, settings: SimulationSettings) -> dict:
    numbers = [lattice.experiment for lattice in still.lattices]
    return {
        "image": still.index,
        "wavelength": still.wavelength,
        "exposure_time": still.exposure_time,
        "transmission": still.transmission,
        "detector_shift": still.shift,
        "offset": still.offset,
        "experiments": numbers,
        "identifiers": [experiment_identifier(settings, number) for number in numbers],
        "scales": [lattice.scale for lattice in still.lattices],
    }


def truth_record(simulator: Simulator) -> dict:
    """Everything needed to evaluate the simulation again, and what was drawn, as plain JSON.

    Bad pixels are [panel, slow, fast].
    """
    return {
        "truth": simulator.truth.to_dict(),
        "settings": simulator.settings.to_dict(),
        "photons_per_electron2": simulator.photons_per_electron2,
        "panel_gains": simulator.panel_gains.tolist(),
        "bad_pixels": {
            kind: [
                [panel, *pixel]
                for panel, mask in enumerate(masks)
                for pixel in np.argwhere(mask).tolist()
            ]
            for kind, masks in simulator.defects.items()
            if kind != "shadow"
        },
        "stills": [_record_of_still(still, simulator.settings) for still in simulator.stills],
    }


def simulator_from_file(path: str | Path) -> Simulator:
    """The simulator of a truth.json, which evaluates its stills again.

    Raises:
        ValueError: the file is not one of a simulation.
    """
    values = json.loads(Path(path).read_text())
    if "settings" not in values:
        raise ValueError(f"{path} is not the truth of a simulation")
    return Simulator(SimulationSettings.from_dict(values["settings"]))


def image_format(simulator: Simulator) -> str:
    """The format of the images: "cbf" or "nexus", as set, or the one that holds the detector.

    Raises:
        ValueError: the format that is set can't hold the detector.
    """
    kind = simulator.settings.format
    fits = is_normal_to_beam(simulator.detector)
    if kind == "auto":
        return "cbf" if fits else "nexus"
    if kind == "cbf" and not fits:
        raise ValueError("format=cbf holds one panel normal to the beam: use format=nexus")
    return kind


def _simulate_still(simulator: Simulator, task: tuple[StillState, str | None]):
    """Image, mean photons and reflections of a still; a CBF is written here, and no image sent."""
    still, path = task
    image = simulator.image(still)
    settings = simulator.settings
    tables = [
        integrate(
            simulator, still, lattice, image, experiment_identifier(settings, lattice.experiment)
        )
        for lattice in still.lattices
    ]
    total = sum(float(panel.sum()) for panel in image)
    size = sum(panel.size for panel in image)
    mean = (total / size - settings.detector.pedestal) / settings.detector.gain
    if path is not None:
        write_minicbf(path, image[0], simulator.models(still)[0], still)
        return None, mean, tables
    return image, mean, tables


def _files_of(stills: list[StillState], folder: Path, name: str, kind: str, first: int = 0):
    """The image files, each with the stills in it: one, or all of one exposure and geometry.

    Files of one image are numbered from `first` + 1.
    """
    same = len({(still.exposure_time, still.shift) for still in stills}) == 1
    if kind == "nexus" and same and len(stills) > 1:
        return [(folder / f"{name}.nxs", stills)]
    suffix = ".cbf" if kind == "cbf" else ".nxs"
    return [
        (folder / f"{file_stem(name, first + number)}{suffix}", [still])
        for number, still in enumerate(stills)
    ]


def _write_images(simulator: Simulator, stills: list[StillState], folder: Path, name: str):
    """Write the images of stills.

    Returns:
        (path, index in file) of each still; mean photons of each; tables of each
    """
    kind = image_format(simulator)
    folder.mkdir(parents=True, exist_ok=True)
    sweep = bool(stills[0].angle_width and stills[0].lattices)
    first = simulator.settings.scan.first_image - 1 if sweep else 0
    files = _files_of(stills, folder, name, kind, first)
    tasks = [
        (still, str(path) if kind == "cbf" else None) for path, group in files for still in group
    ]
    results = map_in_processes(
        functools.partial(_simulate_still, simulator),
        tasks,
        resolve_nproc(simulator.settings.nproc, len(stills)),
    )
    # The first result before a file is opened: processes forked later would keep it locked
    results = itertools.chain([next(results)], results)
    places, means, tables = [], [], []
    for path, group in files:
        if kind == "cbf":
            writing = contextlib.nullcontext()
        else:
            writing = open_nexus(path, simulator.models(group[0])[0], group)
        with writing as writer:
            for number in range(len(group)):
                image, mean, still_tables = next(results)
                if writer is not None:
                    writer.write(image)
                places.append((str(path), number))
                means.append(mean)
                tables.append(still_tables)
    return places, means, tables


def _experiments(
    simulator: Simulator, stills: list[StillState], places: list[tuple[str, int]]
) -> ExperimentList:
    """One experiment a lattice (or empty shot), with the models of the simulation."""
    experiments = ExperimentList()
    settings = simulator.settings
    formats: dict[str, type] = {}
    for still, (path, number) in zip(stills, places):
        detector, beam = simulator.models(still)
        if path not in formats:
            # Not by ExperimentListFactory, which takes '#' in the name of a folder for digits
            formats[path] = get_format_class_for_file(path)
        imageset = formats[path].get_imageset(
            [path], single_file_indices=[number], as_imageset=True
        )
        imageset.set_detector(detector, 0)
        imageset.set_beam(beam, 0)
        models = {"imageset": imageset, "beam": beam, "detector": detector}
        for lattice in still.lattices:
            identifier = experiment_identifier(settings, lattice.experiment)
            experiments.append(Experiment(**models, crystal=lattice.crystal, identifier=identifier))
        if not still.lattices:
            identifier = f"empty-{settings.seed}-{still.index:06d}"
            experiments.append(Experiment(**models, identifier=identifier))
    return experiments


def _join(tables: list[list[flex.reflection_table]]) -> flex.reflection_table:
    joined = flex.reflection_table()
    number = 0
    for still_tables in tables:
        for table in still_tables:
            identifier = table.experiment_identifiers()[0]
            del table.experiment_identifiers()[0]
            if len(table):
                table["id"] = flex.int(len(table), number)
                joined.extend(table)
            joined.experiment_identifiers()[number] = identifier
            number += 1
    return joined


def simulate(settings: SimulationSettings, images: Path) -> SimulatedSet:
    """Simulate a set of stills.

    Args:
        settings: of the simulation
        images: folder for the images, made if it is not there

    Raises:
        ValueError: settings that contradict each other, a folder that can't be written to.
    """
    images = images.resolve()
    simulator = Simulator(settings)
    logger.debug(
        "One electron^2 per unit cell gives %g photons/(s sr)", simulator.photons_per_electron2
    )
    places, means, tables = _write_images(simulator, simulator.stills, images, "still")
    paths = [path for path, _ in places]
    result = SimulatedSet(
        simulator,
        _experiments(simulator, simulator.stills, places),
        _join(tables),
        means,
        sequence=sequence(simulator, simulator.stills, paths),
    )
    if result.sequence is not None:
        result.sequence_reflections = sequence_reflections(simulator, tables)
    if simulator.empties:
        places, _, _ = _write_images(simulator, simulator.empties, images, "empty")
        result.background = sequence(simulator, simulator.empties, [path for path, _ in places])
        if result.background is None:
            result.background = _experiments(simulator, simulator.empties, places)
    return result
