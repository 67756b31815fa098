"""Simulate a set of stills: images, experiments, reflections and their truth."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from dials.array_family import flex

from dials_diffuse.adapters.system import map_in_processes, resolve_nproc
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json
from dials_diffuse.simulation import images as image_files
from dials_diffuse.simulation.crystals import StillState
from dials_diffuse.simulation.forward import Simulator
from dials_diffuse.simulation.reflections import integrate
from dials_diffuse.simulation.settings import Settings

logger = logging.getLogger("dials.diffuse.simulation")


@dataclass
class SimulatedSet:
    """What a simulation left behind.

    Attributes:
        directory: where the files are.
        simulator: evaluates any still again (`simulator.expected(still)`).
        experiments, reflections: as simulated.expt and simulated.refl hold them.
        background: experiments of the empty shots, or None.
        sequence: a rotation series as one experiment a lattice, with goniometer and
            scan, as dials.integrate would leave it; else None.
        mean_photons: mean counts a pixel of every still, photons.
    """

    directory: Path
    simulator: Simulator
    experiments: ExperimentList
    reflections: flex.reflection_table
    background: ExperimentList | None = None
    sequence: ExperimentList | None = None
    mean_photons: list[float] = field(default_factory=list)

    @property
    def truth(self):
        return self.simulator.truth

    @property
    def settings(self) -> Settings:
        return self.simulator.settings

    def save(self) -> None:
        """Write simulated.expt, simulated.refl, truth.json and, where there are such,
        background.expt and sequence.expt, each whole or not at all."""
        with replacing(self.directory / "simulated.expt") as name:
            self.experiments.as_file(name)
        with replacing(self.directory / "simulated.refl") as name:
            self.reflections.as_file(name)
        write_json(self.directory / "truth.json", truth_record(self.simulator), indent=1)
        if self.background is not None:
            with replacing(self.directory / "background.expt") as name:
                self.background.as_file(name)
        if self.sequence is not None:
            with replacing(self.directory / "sequence.expt") as name:
                self.sequence.as_file(name)


_IDENTIFIER = "simulated-"


def experiment_identifier(settings: Settings, number: int) -> str:
    """Identifier of an experiment; the same in every run with the same seed."""
    return f"{_IDENTIFIER}{settings.seed}-{number:06d}"


def is_simulated(identifier: str) -> bool:
    """True for an identifier that `experiment_identifier` made."""
    return identifier.startswith(_IDENTIFIER)


def truth_record(simulator: Simulator) -> dict:
    """Everything needed to evaluate the simulation again, and what was drawn, as plain JSON."""
    stills = []
    for still in simulator.stills:
        stills.append(
            {
                "image": still.index,
                "wavelength": still.wavelength,
                "exposure_time": still.exposure_time,
                "transmission": still.transmission,
                "detector_shift": still.shift,
                "offset": still.offset,
                "experiments": [lattice.experiment for lattice in still.lattices],
                "identifiers": [
                    experiment_identifier(simulator.settings, lattice.experiment)
                    for lattice in still.lattices
                ],
                "scales": [lattice.scale for lattice in still.lattices],
            }
        )
    defects = {
        kind: [
            [panel, int(slow), int(fast)]
            for panel, mask in enumerate(masks)
            for slow, fast in zip(*mask.nonzero())
        ]
        for kind, masks in simulator.defects.items()
        if kind != "shadow"
    }
    return {
        "truth": simulator.truth.to_dict(),
        "settings": simulator.settings.to_dict(),
        "photons_per_electron2": simulator.photons_per_electron2,
        "panel_gains": [float(gain) for gain in simulator.panel_gains],
        "bad_pixels": defects,
        "stills": stills,
    }


def simulator_from_file(path: str | Path) -> Simulator:
    """The simulator of a truth.json, ready to evaluate its stills again.

    Raises:
        ValueError: the file is not one of a simulation.
    """
    values = json.loads(Path(path).read_text())
    if "settings" not in values:
        raise ValueError(f"{path} is not the truth of a simulation")
    return Simulator(Settings.from_dict(values["settings"]))


def image_format(simulator: Simulator) -> str:
    """ "cbf" or "nexus": as set, or what the detector allows.

    Raises:
        ValueError: unknown format, or one that can't hold the detector.
    """
    wanted = simulator.settings.format
    fits = image_files.is_normal_to_beam(simulator.detector)
    if wanted == "auto":
        return "cbf" if fits else "nexus"
    if wanted not in ("cbf", "nexus"):
        raise ValueError(f"unknown format {wanted!r}: cbf or nexus")
    if wanted == "cbf" and not fits:
        raise ValueError("format=cbf holds one panel normal to the beam: use format=nexus")
    return wanted


def _shot(still: StillState) -> image_files.Shot:
    return image_files.Shot(
        still.wavelength,
        still.exposure_time,
        still.transmission,
        still.start_angle,
        still.angle_width,
    )


# The simulator of a worker process, set once when it starts
_worker: Simulator | None = None


def _start_worker(simulator: Simulator) -> None:
    global _worker
    _worker = simulator


def _simulate_still(task: tuple[StillState, str | None]):
    """Image, mean photons and reflections of a still; a CBF is written here."""
    simulator = _worker
    assert simulator is not None
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
        detector, _ = simulator.models(still)
        image_files.write_minicbf(path, image[0], detector, _shot(still))
        return None, mean, tables
    return image, mean, tables


def _image_files(kind: str, stills: list[StillState]) -> list[list[int]]:
    """Which stills go into which file: one each, or all of one exposure and place."""
    same = len({(still.exposure_time, still.shift) for still in stills}) == 1
    if kind == "nexus" and same:
        return [list(range(len(stills)))]
    return [[index] for index in range(len(stills))]


def _write_images(
    simulator: Simulator, stills: list[StillState], folder: Path, name: str, kind: str
):
    """Write the images of stills; return (path, index in file) of each, means and tables."""
    folder.mkdir(parents=True, exist_ok=True)
    nproc = resolve_nproc(simulator.settings.nproc, len(stills))
    groups = _image_files(kind, stills)
    suffix = ".cbf" if kind == "cbf" else ".nxs"
    if len(groups) == 1 and len(stills) > 1:
        paths = [folder / f"{name}{suffix}"]
    else:
        paths = [
            folder / f"{image_files.file_stem(name, index)}{suffix}" for index in range(len(groups))
        ]
    tasks = [
        (still, str(paths[number]) if kind == "cbf" else None)
        for number, group in enumerate(groups)
        for still in (stills[index] for index in group)
    ]
    results = map_in_processes(
        _simulate_still, tasks, nproc, initializer=_start_worker, initargs=(simulator,)
    )
    # The first result before a file is opened: processes forked later would keep it locked
    results = itertools.chain([next(results)], results)
    places, means, tables = [], [], []
    for path, group in zip(paths, groups):
        places += [(str(path), number) for number in range(len(group))]
        if kind == "cbf":
            for _ in group:
                _, mean, still_tables = next(results)
                means.append(mean)
                tables.append(still_tables)
            continue
        detector, _ = simulator.models(stills[group[0]])
        with replacing(path) as temporary:
            writer = image_files.NexusWriter(
                temporary, detector, [_shot(stills[index]) for index in group]
            )
            try:
                for _ in group:
                    image, mean, still_tables = next(results)
                    writer.write(image)
                    means.append(mean)
                    tables.append(still_tables)
            finally:
                writer.close()
    return places, means, tables


def _experiments(
    simulator: Simulator, stills: list[StillState], places: list[tuple[str, int]]
) -> ExperimentList:
    """One experiment a lattice (or empty shot), with the models of the simulation."""
    experiments = ExperimentList()
    formats: dict[str, object] = {}
    for still, (path, number) in zip(stills, places):
        detector, beam = simulator.models(still)
        if path not in formats:
            formats[path] = ExperimentListFactory.from_filenames([path], load_models=False)[
                0
            ].imageset.get_format_class()
        imageset = formats[path].get_imageset(
            [path], single_file_indices=[number], as_imageset=True
        )
        imageset.set_detector(detector, 0)
        imageset.set_beam(beam, 0)
        for crystal, identifier in [
            (lattice.crystal, experiment_identifier(simulator.settings, lattice.experiment))
            for lattice in still.lattices
        ] or [(None, f"empty-{simulator.settings.seed}-{still.index:06d}")]:
            experiments.append(
                Experiment(
                    imageset=imageset,
                    beam=beam,
                    detector=detector,
                    crystal=crystal,
                    identifier=identifier,
                )
            )
    return experiments


def _sequence(simulator: Simulator, places: list[tuple[str, int]]) -> ExperimentList | None:
    """The rotation series as dxtbx sequence; None where the set is none.

    Only of miniCBF with one geometry: a sequence has one beam and one detector.
    """
    first = simulator.stills[0]
    one_geometry = len({(still.shift, still.wavelength) for still in simulator.stills}) == 1
    paths = [path for path, _ in places]
    if first.angle_width == 0 or not one_geometry or not paths[0].endswith(".cbf"):
        return None
    detector, beam = simulator.models(first)
    found = ExperimentListFactory.from_filenames(paths)
    if len(found) != 1:
        raise ValueError("DIALS does not see one sequence in the images of the rotation series")
    imageset = found[0].imageset
    imageset.set_detector(detector)
    imageset.set_beam(beam)
    return ExperimentList(
        [
            Experiment(
                imageset=imageset,
                beam=beam,
                detector=detector,
                goniometer=found[0].goniometer,
                scan=found[0].scan,
                crystal=lattice.at_zero,
                identifier=f"sequence-{simulator.settings.seed}-{number}",
            )
            for number, lattice in enumerate(first.lattices)
        ]
    )


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


def simulate(
    settings: Settings, directory: str | Path, images: str | Path = "images", save: bool = True
) -> SimulatedSet:
    """Simulate a set of stills.

    Args:
        settings: what to simulate.
        directory: folder for the files, made if it is not there.
        images: folder for the images, in that one unless absolute.
        save: write simulated.expt, simulated.refl and truth.json too.

    Returns:
        The set, its tables and experiments in memory.

    Raises:
        ValueError: settings that contradict each other, a folder that can't be
            written to.
    """
    directory = Path(directory).resolve()
    simulator = Simulator(settings)
    kind = image_format(simulator)
    logger.debug(
        "One electron^2 per unit cell gives %g photons/(s sr)", simulator.photons_per_electron2
    )
    places, means, tables = _write_images(
        simulator, simulator.stills, directory / images, "still", kind
    )
    result = SimulatedSet(
        directory,
        simulator,
        _experiments(simulator, simulator.stills, places),
        _join(tables),
        mean_photons=means,
    )
    result.sequence = _sequence(simulator, places)
    if simulator.empties:
        places, _, _ = _write_images(
            simulator, simulator.empties, directory / images, "empty", kind
        )
        result.background = _experiments(simulator, simulator.empties, places)
    if save:
        result.save()
    return result
