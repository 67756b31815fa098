"""Integrated Bragg reflections as a second reference for the scales b.

Where the diffuse scattering is weak the Bragg reflections of the same stills know their
scales too. Their full intensities are solved for in closed form as the voxels' intensities are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

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

logger = logging.getLogger("dials.diffuse.scaling.bragg")

# Keeps packed Miller indices apart from packed voxels: the sign, which those don't use
BRAGG_CODE = np.iinfo(np.int64).min


@dataclass(frozen=True)
class BraggSettings:
    """How reflections take part in the fit; see phil/scale.py.

    Attributes:
        weight: of their part of the functional
        min_partiality: reflections below are dropped
        partiality_error: relative error of the partialities
    """

    weight: float = 1.0
    min_partiality: float = 0.3
    partiality_error: float = 0.3


def bragg_observations(
    paths: Sequence, source: ObservationSource, settings: BraggSettings, relative_time: np.ndarray
) -> Observations:
    """The reflections of .refl files as observations for the fit.

    Args:
        paths: integrated reflections of the stills, matched by experiment identifiers
        source: the stills, read before
        settings: see there
        relative_time: (S,) exposure time of each still over their mean, NaN for stills without
            observations, whose reflections are left out

    Raises:
        ValueError: columns missing, unknown experiments, or no reflection left.
    """
    found = Observations.concatenate(
        [
            _from_table(path, load_reflections(path), source, settings, relative_time)
            for path in paths
        ]
    )
    if not len(found):
        raise ValueError(
            "No Bragg reflection of these stills is left to scale with (bragg.min_partiality="
            f"{settings.min_partiality:g})"
        )
    logger.info("%d Bragg reflections take part in the fit", len(found))
    return found


def _from_table(path, table, source, settings: BraggSettings, relative_time) -> Observations:
    for name in ("panel", "xyzobs.px.value"):
        if name not in table:
            raise ValueError(
                f"{path} has no column {name}: it does not hold integrated reflections"
            )
    found = read_integrated(
        table, str(path), source.experiments, source.grid, relative_time, settings.min_partiality
    )
    if found.partiality != "used":
        logger.warning(
            "The partialities in %s are %s: nothing is known about how much of each "
            "reflection was on the Ewald sphere, so that their scatter is large "
            "(bragg.partiality_error=%g)",
            path,
            found.partiality,
            settings.partiality_error,
        )
    panel = as_numpy(table["panel"]).astype(np.int32)[found.rows]
    px = as_numpy(table["xyzobs.px.value"])[found.rows]
    q, x, y = observation_geometry(source.experiments, found.still, panel, px)
    n = len(found.rows)
    return Observations(
        still=found.still.astype(np.int32),
        panel=panel,
        voxel=pack_voxels(found.miller_index) | BRAGG_CODE,
        counts=found.counts.astype(float),
        background=np.zeros(n),
        # what the variance holds besides the reflection's own counts
        background_variance=np.maximum(found.variance - np.maximum(found.counts, 0), 1.0),
        exposure=found.exposure,
        n_pixels=np.zeros(n, dtype=np.int32),
        q=q,
        x=x,
        y=y,
        usable=np.ones(n, dtype=bool),
        bragg=np.ones(n, dtype=bool),
        finite=np.ones(n, dtype=bool),
    )


def is_bragg(voxel: np.ndarray) -> np.ndarray:
    """(N,) bool: which of Observations.voxel are Miller indices of reflections"""
    return voxel < 0


def mean_bragg_intensity(obs: Observations, b: np.ndarray, n_bins: int = 20):
    """Function |q| -> mean full intensity there, for scales b"""
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
