"""Simulated sweeps as dxtbx sequences: the experiments and the reflections of many images as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from scitbx.array_family import flex as scitbx_flex

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    as_numpy,
    double_column,
    int6_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.simulation.crystals import StillState, crystals_at_scan_points
from dials_diffuse.simulation.forward import Simulator
from dials_diffuse.simulation.instrument.goniometers import make_goniometer


def sequence_identifier(simulator: Simulator, number: int) -> str:
    """Identifier of the experiment of lattice `number` of a sweep."""
    return f"sequence-{simulator.settings.seed}-{number}"


def _crystal(simulator: Simulator, number: int):
    """The crystal of a sweep, scan-varying if it changes."""
    points = crystals_at_scan_points(simulator.settings, number)
    crystal = points[0]
    if len(points) > 1:
        matrices = [point.get_A() for point in points]
        crystal.set_A_at_scan_points(scitbx_flex.mat3_double(matrices))
    return crystal


def sequence(
    simulator: Simulator, stills: Sequence[StillState], paths: Sequence[str]
) -> ExperimentList | None:
    """A sweep as dxtbx sequence, one experiment a lattice; None where the images are none.

    Only of miniCBF with one geometry: a sequence has one beam and one detector.

    Args:
        simulator: of the images
        stills: state of each image
        paths: their files

    Raises:
        ValueError: DIALS can't read the files as a sequence.
    """
    first = stills[0]
    one_geometry = len({(still.shift, still.wavelength) for still in stills}) == 1
    if first.angle_width == 0 or not one_geometry or not paths[0].endswith(".cbf"):
        return None
    if "#" in str(Path(paths[0]).parent):
        raise ValueError(
            f"DIALS takes '#' in {Path(paths[0]).parent} for the number of an image of a sequence: give "
            "output.images= in another folder"
        )
    detector, beam = simulator.models(first)
    found = ExperimentListFactory.from_filenames(list(paths))
    if len(found) != 1:
        raise ValueError("DIALS does not see one sequence in the images of the rotation series")
    imageset, scan = found[0].imageset, found[0].scan
    goniometer = make_goniometer(simulator.settings.goniometer)
    imageset.set_detector(detector)
    imageset.set_beam(beam)
    imageset.set_goniometer(goniometer)
    models = {
        "imageset": imageset,
        "beam": beam,
        "detector": detector,
        "goniometer": goniometer,
        "scan": scan,
    }
    if not first.lattices:
        identifier = f"empty-sequence-{simulator.settings.seed}"
        return ExperimentList([Experiment(**models, identifier=identifier)])
    return ExperimentList(
        [
            Experiment(
                **models,
                crystal=_crystal(simulator, number),
                identifier=sequence_identifier(simulator, number),
            )
            for number in range(len(first.lattices))
        ]
    )


def _passages(lattice: np.ndarray, hkl: np.ndarray, image: np.ndarray):
    """(order, starts): rows sorted, and where each passage starts: the same node on images in a row."""
    order = np.lexsort((image, hkl[:, 2], hkl[:, 1], hkl[:, 0], lattice))
    keys = np.column_stack([lattice, hkl])[order]
    step = np.diff(image[order])
    new = np.any(keys[1:] != keys[:-1], axis=1) | (step > 1)
    return order, np.flatnonzero(np.concatenate([[True], new]))


def sequence_reflections(
    simulator: Simulator, tables: Sequence[Sequence[flex.reflection_table]]
) -> flex.reflection_table:
    """The reflections of a sweep: those of its images, a row for each passage of a node through the sphere.

    Counts and their variances are summed over the images of a passage; positions are means with the counts as
    weights, z in images from that of array index 0.

    Args:
        simulator: of the images
        tables: for each image, the table of each lattice
    """
    first = simulator.settings.scan.first_image - 1
    rows: dict[str, list[np.ndarray]] = {}

    def collect(name: str, values: np.ndarray) -> None:
        rows.setdefault(name, []).append(np.asarray(values))

    for image, of_image in enumerate(tables):
        for number, table in enumerate(of_image):
            collect("lattice", np.full(len(table), number))
            collect("image", np.full(len(table), image))
            for name in (
                "miller_index",
                "panel",
                "s1",
                "xyzcal.px",
                "xyzobs.px.value",
                "bbox",
                "d",
                "intensity.sum.value",
                "intensity.sum.variance",
                "flags",
            ):
                collect(name, as_numpy(table[name]))
    columns = {name: np.concatenate(values) for name, values in rows.items()}
    order, starts = _passages(columns["lattice"], columns["miller_index"], columns["image"])
    columns = {name: values[order] for name, values in columns.items()}
    weight = np.maximum(columns["intensity.sum.value"], 1e-3)
    total = np.add.reduceat(weight, starts)

    def mean(values: np.ndarray) -> np.ndarray:
        weights = weight if values.ndim == 1 else weight[:, None]
        sums = np.add.reduceat(values * weights, starts)
        return sums / (total if values.ndim == 1 else total[:, None])

    z = mean(columns["image"] + 0.5) + first
    last = np.append(starts[1:], len(order)) - 1
    low = np.minimum.reduceat(columns["bbox"], starts)
    high = np.maximum.reduceat(columns["bbox"], starts)
    images = columns["image"]
    box = [low[:, 0], high[:, 1], low[:, 2], high[:, 3], images[starts], images[last] + 1]
    box[4], box[5] = box[4] + first, box[5] + first
    table = flex.reflection_table()
    table["miller_index"] = miller_index_column(columns["miller_index"][starts])
    table["id"] = int_column(columns["lattice"][starts])
    table["panel"] = size_t_column(columns["panel"][starts])
    table["s1"] = vec3_column(mean(columns["s1"]))
    for name in ("xyzcal.px", "xyzobs.px.value"):
        table[name] = vec3_column(np.column_stack([mean(columns[name][:, :2]), z]))
    table["bbox"] = int6_column(np.column_stack(box))
    table["d"] = double_column(columns["d"][starts])
    for name in ("intensity.sum.value", "intensity.sum.variance"):
        table[name] = double_column(np.add.reduceat(columns[name], starts))
    table["flags"] = size_t_column(np.bitwise_or.reduceat(columns["flags"], starts))
    for number in range(len(simulator.stills[0].lattices)):
        table.experiment_identifiers()[number] = sequence_identifier(simulator, number)
    return table
