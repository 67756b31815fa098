"""Observations: sums over the pixels of one still, on one panel, in one voxel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_reflections
from dials_diffuse.adapters.tables import as_numpy, double_column, miller_index_column, vec3_column

# Columns of observations and what they are in numpy; all but the id
COLUMNS = {
    "panel": (np.uint64, ()),
    "voxel": (np.int32, (3,)),
    "xyzobs.px.value": (np.float64, (3,)),
    "bragg": (np.bool_, ()),
    "num_pixels.valid": (np.int32, ()),
    "counts": (np.float64, ()),
    "background": (np.float64, ()),
    "background.variance": (np.float64, ()),
    "exposure": (np.float64, ()),
}


@dataclass
class StillObservations:
    """The observations of one still as numpy arrays.

    Attributes:
        columns: name -> (N,) or (N, 3) array, all columns of an observation but the id
        repeated: names of columns whose rows are all alike, and their value
    """

    columns: dict[str, np.ndarray]
    repeated: dict[str, float] = field(default_factory=dict)


class StoredObservations(NamedTuple):
    """Where the observations of one still are in a ColumnScratch.

    Attributes:
        slot: of the rows
        n_rows: how many there are
        repeated: see StillObservations; these columns are not stored
    """

    slot: int
    n_rows: int
    repeated: dict[str, float]


def numbered_rows(columns: Mapping | None, number: int) -> dict:
    """Columns of the observations of a still, wherever they are, with its id; without rows for None."""
    if columns is None:
        columns = {
            name: np.empty((0, *shape), dtype=kind) for name, (kind, shape) in COLUMNS.items()
        }
    return {"id": np.broadcast_to(np.int32(number), len(columns["counts"])), **columns}


def miller_indices(table, grid) -> np.ndarray:
    """Nearest Miller index of each observation, (N, 3) int32."""
    return grid.node_of_voxel(as_numpy(table["voxel"]))


def s1_vectors(table, experiments) -> np.ndarray:
    """Scattered wave vector at each observation's mean position, 1/Angstrom, lab, (N, 3)."""
    s1 = np.zeros((table.size(), 3))
    position = as_numpy(table["xyzobs.px.value"])
    identity, panels = as_numpy(table["id"]), as_numpy(table["panel"]).astype(np.int64)
    # Rows of one still and panel are neighbours: find the runs, not every row
    edges = np.flatnonzero((np.diff(identity) != 0) | (np.diff(panels) != 0)) + 1
    for rows in np.split(np.arange(table.size()), edges):
        if not len(rows):
            continue
        experiment = experiments[int(identity[rows[0]])]
        panel = experiment.detector[int(panels[rows[0]])]
        pixels = flex.vec2_double(
            double_column(position[rows, 0]), double_column(position[rows, 1])
        )
        lab = as_numpy(panel.get_lab_coord(panel.pixel_to_millimeter(pixels)))
        s1[rows] = lab / np.linalg.norm(lab, axis=1)[:, None] / experiment.beam.get_wavelength()
    return s1


def d_spacings(table, experiments, s1: np.ndarray | None = None) -> np.ndarray:
    """Resolution at each observation's mean position, Angstrom, (N,)."""
    s1 = s1_vectors(table, experiments) if s1 is None else s1
    s0 = np.array([experiment.beam.get_s0() for experiment in experiments])
    with np.errstate(divide="ignore"):
        return 1.0 / np.linalg.norm(s1 - s0[as_numpy(table["id"])], axis=1)


def intensities(table) -> np.ndarray:
    """(counts - background)/exposure, photons/(s sr), (N,); NaN where nothing was exposed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (as_numpy(table["counts"]) - as_numpy(table["background"])) / as_numpy(
            table["exposure"]
        )


def intensity_variances(table, readout_noise: float = 0.0) -> np.ndarray:
    """Variance of the intensities, (N,): (photons + var(background) + pixels * noise^2)/exposure^2.

    The observed photons stand for the expected ones: 0 where nothing was counted. Weights for
    averaging have to come from a model of the intensity instead.

    Args:
        readout_noise: standard deviation of a pixel's reading, in photons
    """
    photons = as_numpy(table["counts"]) + as_numpy(table["background.variance"])
    photons = photons + as_numpy(table["num_pixels.valid"]) * readout_noise**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return photons / as_numpy(table["exposure"]) ** 2


def add_derived_columns(table, experiments, grid) -> None:
    """Add miller_index, s1, d, intensity.sum.value and intensity.sum.variance to a table, and to one of scaled
    observations intensity.scale.value = (intensity.sum.value - offset)/inverse_scale_factor and its variance."""
    s1 = s1_vectors(table, experiments)
    table["miller_index"] = miller_index_column(miller_indices(table, grid))
    table["s1"] = vec3_column(s1)
    table["d"] = double_column(d_spacings(table, experiments, s1))
    table["intensity.sum.value"] = double_column(intensities(table))
    table["intensity.sum.variance"] = double_column(intensity_variances(table))
    if "inverse_scale_factor" in table:
        factor = as_numpy(table["inverse_scale_factor"])
        table["intensity.scale.value"] = double_column(
            (intensities(table) - as_numpy(table["offset"])) / factor
        )
        table["intensity.scale.variance"] = double_column(intensity_variances(table) / factor**2)


def write_derived_columns(path: str | os.PathLike, experiments, grid) -> None:
    """Add the derived columns to a table that was written."""
    table = load_reflections(path)
    add_derived_columns(table, experiments, grid)
    table.as_file(os.fspath(path))
