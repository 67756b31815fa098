"""Integrated Bragg reflections as a second reference for the scales b.

Where the diffuse scattering is weak the Bragg reflections of the same stills know their
scales too. A reflection's integrated counts are I = p t P QE b J: its partiality p, exposure time t,
polarisation and efficiency take the part that the exposure plays for diffuse observations, and J, the full
intensity, is solved for in closed form as the voxels' intensities are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import miller

from dials_diffuse.adapters.experiments import load_reflections
from dials_diffuse.adapters.tables import as_numpy, miller_index_column
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.scaling.observations import (
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
        relative_time: (S,) exposure time of each still over their mean

    Raises:
        ValueError: columns missing, unknown experiments, or no reflection left.
    """
    number_of = {e.identifier: i for i, e in enumerate(source.experiments)}
    parts = []
    for path in paths:
        parts.append(_from_table(path, load_reflections(path), source, number_of, settings))
    found = Observations.concatenate(parts)
    if not len(found):
        raise ValueError(
            "No Bragg reflection of these stills is left to scale with (bragg.min_partiality="
            f"{settings.min_partiality:g})"
        )
    found.exposure = found.exposure * relative_time[found.still]
    logger.info("%d Bragg reflections take part in the fit", len(found))
    return found


def _from_table(path, table, source, number_of, settings: BraggSettings) -> Observations:
    for name in ("miller_index", "id", "panel", "xyzobs.px.value"):
        if name not in table:
            raise ValueError(f"{path} has no column {name}: it does not hold integrated reflections")
    kind = next(
        (k for k in ("intensity.sum", "intensity.prf") if f"{k}.variance" in table), None
    )
    if kind is None:
        raise ValueError(f"{path} holds no integrated intensities")
    ids = as_numpy(table["id"])
    still = np.full(len(ids), -1)
    names = table.experiment_identifiers()
    for local, identifier in zip(names.keys(), names.values()):
        still[ids == local] = number_of.get(identifier, -1)
    if not (still >= 0).any():
        raise ValueError(
            f"{path} does not match the experiments: none of its experiment identifiers is among the stills"
        )
    intensity = as_numpy(table[f"{kind}.value"])
    variance = as_numpy(table[f"{kind}.variance"])
    partiality = as_numpy(table["partiality"]) if "partiality" in table else np.ones(len(ids))
    if np.all(partiality == 1.0):
        logger.warning(
            "The partialities in %s are all 1: nothing is known about how much of each "
            "reflection was on the Ewald sphere, so that their scatter is large "
            "(bragg.partiality_error=%g)",
            path,
            settings.partiality_error,
        )
    exposure = np.array(partiality, dtype=float)
    if "lp" in table:
        # DIALS multiplies intensities by lp and divides them by qe to correct them
        exposure /= as_numpy(table["lp"])
    if "qe" in table:
        exposure *= as_numpy(table["qe"])
    hkl = as_numpy(table["miller_index"])
    ok = (still >= 0) & (variance > 0) & np.isfinite(intensity) & np.isfinite(variance)
    ok &= np.isfinite(exposure) & (exposure > 0) & (partiality >= settings.min_partiality)
    ok &= (hkl != 0).any(axis=1)
    still, hkl = still[ok], hkl[ok]
    indices = miller_index_column(hkl)
    miller.map_to_asu(source.grid.laue_group.type(), False, indices)
    panel = as_numpy(table["panel"]).astype(np.int32)[ok]
    px = as_numpy(table["xyzobs.px.value"])[ok]
    q, x, y = observation_geometry(source.experiments, still, panel, px)
    n = len(still)
    return Observations(
        still=still.astype(np.int32),
        panel=panel,
        voxel=pack_voxels(as_numpy(indices)) | BRAGG_CODE,
        counts=intensity[ok].astype(float),
        background=np.zeros(n),
        # what the variance holds besides the reflection's own counts
        background_variance=np.maximum(variance[ok] - np.maximum(intensity[ok], 0), 1.0),
        exposure=exposure[ok],
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
