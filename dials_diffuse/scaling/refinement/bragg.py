"""Integrated Bragg reflections as a second reference for the scales b.

If the diffuse scattering is weak, the Bragg reflections of the same stills help to determine their
scales. The full intensities of the reflections are solved for in closed form, as those of voxels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dials_diffuse.adapters.experiments import load_reflections
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.io.integrated_reflections import read_integrated
from dials_diffuse.scaling.observations.source import (
    Observations,
    ObservationSource,
    observation_geometry,
)
from dials_diffuse.scaling.refinement.settings import BraggSettings

logger = logging.getLogger("dials.diffuse.scaling.bragg")

# Distinguishes packed Miller indices from packed voxels: the sign bit, which voxels do not use
BRAGG_CODE = np.iinfo(np.int64).min


class BraggReference(NamedTuple):
    """Reflections that take part in a fit.

    Attributes:
        reflections: as observations
        settings: how they take part
        mean_intensity: function |q| (N,) -> mean full intensity (N,)
    """

    reflections: Observations
    settings: BraggSettings
    mean_intensity: Callable


def bragg_observations(
    source: ObservationSource, settings: BraggSettings, relative_time: np.ndarray
) -> Observations:
    """Read the reflections of the files of the settings as observations for the fit.

    Args:
        source: the stills, read before; reflections are matched by experiment identifiers
        relative_time: (S,) exposure time of each still over their mean; NaN for stills without
            observations, whose reflections are left out

    Raises:
        ValueError: columns missing, unknown experiments, or no reflection left.
    """
    per_file = [
        _observations_of_file(path, source, settings, relative_time)
        for path in settings.reflections
        if path
    ]
    reflections = Observations.concatenate(per_file)
    if not len(reflections):
        raise ValueError(
            "No Bragg reflection of these stills is left to scale with (bragg.min_partiality="
            f"{settings.min_partiality:g})"
        )
    logger.info("%d Bragg reflections take part in the fit", len(reflections))
    return reflections


def _observations_of_file(
    path: str, source: ObservationSource, settings: BraggSettings, relative_time: np.ndarray
) -> Observations:
    table = load_reflections(path)
    for name in ("panel", "xyzobs.px.value"):
        if name not in table:
            raise ValueError(
                f"{path} has no column {name}: it does not hold integrated reflections"
            )
    integrated = read_integrated(
        table, str(path), source.experiments, source.grid, relative_time, settings.min_partiality
    )
    if integrated.partiality != "used":
        logger.warning(
            "The partialities in %s are %s: what part of each reflection was recorded is unknown, so "
            "that the intensities scatter widely (bragg.partiality_error=%g)",
            path,
            integrated.partiality,
            settings.partiality_error,
        )
    panel = as_numpy(table["panel"]).astype(np.int32)[integrated.rows]
    px = as_numpy(table["xyzobs.px.value"])[integrated.rows]
    q, x, y = observation_geometry(source.experiments, integrated.still, panel, px)
    n = len(integrated.rows)
    return Observations(
        still=integrated.still.astype(np.int32),
        panel=panel,
        voxel=pack_voxels(integrated.miller_index) | BRAGG_CODE,
        counts=integrated.counts.astype(float),
        background=np.zeros(n),
        # the variance without that of the counts themselves
        background_variance=np.maximum(integrated.variance - np.maximum(integrated.counts, 0), 1.0),
        exposure=integrated.exposure,
        n_pixels=np.zeros(n, dtype=np.int32),
        q=q,
        x=x,
        y=y,
        usable=np.ones(n, dtype=bool),
        bragg=np.ones(n, dtype=bool),
        finite=np.ones(n, dtype=bool),
    )


def is_bragg(voxel: np.ndarray) -> np.ndarray:
    """(N,) bool: which of Observations.voxel are Miller indices of reflections."""
    return voxel < 0


def mean_bragg_intensity(obs: Observations, b: np.ndarray, n_bins: int = 20) -> Callable:
    """Function |q| -> mean full intensity at that |q|, for scales b (S,)."""
    edges = np.quantile(obs.q, np.linspace(0, 1, n_bins + 1))
    index = np.clip(np.searchsorted(edges, obs.q, side="right") - 1, 0, n_bins - 1)
    total = np.bincount(index, np.maximum(obs.counts, 0.0), n_bins)
    exposure = np.bincount(index, obs.exposure * b[obs.still], n_bins)
    seen = (exposure > 0) & (total > 0)
    if not seen.any():
        raise ValueError("None of the Bragg reflections has a positive intensity")
    middle = 0.5 * (edges[1:] + edges[:-1])

    def mean_intensity(q: np.ndarray) -> np.ndarray:
        return np.interp(q, middle[seen], (total[seen] / exposure[seen]))

    return mean_intensity
