"""Integrated Bragg reflections as a second reference for the scales b.

If the diffuse scattering is weak, the Bragg reflections of the same stills help to determine their
scales. The full intensities of the reflections are solved for in closed form, as those of voxels.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from dials_diffuse.adapters.experiments import load_reflections
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.io.integrated_reflections import read_integrated
from dials_diffuse.scaling.expectation.patches import NO_PATCH
from dials_diffuse.scaling.expectation.tables import NO_OFFSET
from dials_diffuse.scaling.observations.frames import directions_of_bins, positions_of
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.observations.rows import ROW
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.settings import BraggSettings

logger = logging.getLogger("dials.diffuse.scaling.bragg")


class BraggReflections(NamedTuple):
    """Reflections that take part in a fit, sorted by Miller index.

    Attributes:
        rows: (N,) of ROW; net photons, no background, no offset
        n_obs: (M,) reflections of each Miller index
        mean_intensity: (M,) mean full intensity at the |q| of each
        settings: how they take part
    """

    rows: np.ndarray
    n_obs: np.ndarray
    mean_intensity: np.ndarray
    settings: BraggSettings


def read_bragg(
    source: ObservationSource, overview: Overview, settings: BraggSettings, scales: np.ndarray
) -> BraggReflections | None:
    """Read the reflections of the files of the settings; None without files.

    Args:
        source: the stills; reflections are matched by experiment identifiers
        overview: of the stills; reflections of excluded ones are left out
        scales: (S,) of the radial profiles

    Raises:
        ValueError: columns missing, unknown experiments, or no reflection left.
    """
    paths = [path for path in settings.reflections if path]
    if not paths:
        return None
    per_file = [_rows_of_file(path, source, settings, overview) for path in paths]
    rows, index, q = (np.concatenate(columns) for columns in zip(*per_file))
    keep = ~overview.excluded[rows["still"]]
    if not keep.any():
        raise ValueError(
            "No Bragg reflection of these stills is left to scale with (bragg.min_partiality="
            f"{settings.min_partiality:g})"
        )
    rows, index, q = rows[keep], index[keep], q[keep]
    logger.info("%d Bragg reflections take part in the fit", len(rows))
    mean = mean_bragg_intensity(rows, q, scales)
    order = np.lexsort((rows["still"], index))
    _, first, n_obs = np.unique(index[order], return_index=True, return_counts=True)
    return BraggReflections(rows[order], n_obs, mean[order][first], settings)


def _rows_of_file(
    path: str, source: ObservationSource, settings: BraggSettings, overview: Overview
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, packed Miller index, |q|) of the reflections of a file, (N,) each"""
    table = load_reflections(path)
    for name in ("panel", "xyzobs.px.value"):
        if name not in table:
            raise ValueError(
                f"{path} has no column {name}: it does not hold integrated reflections"
            )
    relative_time = overview.relative_times()
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
    q, x, y = positions_of(source.experiments, integrated.still, panel, px)
    rows = np.zeros(len(integrated.rows), dtype=ROW)
    rows["still"], rows["panel"] = integrated.still, panel
    rows["net"], rows["exposure"] = integrated.counts, integrated.exposure
    # the variance without that of the counts themselves
    rows["floor"] = np.maximum(integrated.variance - np.maximum(integrated.counts, 0), 1.0)
    rows["radial"], rows["patch"] = NO_OFFSET, NO_PATCH
    rows["direction"] = directions_of_bins(source.bins, x, y)
    return rows, pack_voxels(integrated.miller_index), q


def mean_bragg_intensity(
    rows: np.ndarray, q: np.ndarray, b: np.ndarray, n_bins: int = 20
) -> np.ndarray:
    """(N,) mean full intensity at the |q| (N,) of each reflection, for scales b (S,)."""
    edges = np.quantile(q, np.linspace(0, 1, n_bins + 1))
    index = np.clip(np.searchsorted(edges, q, side="right") - 1, 0, n_bins - 1)
    total = np.bincount(index, np.maximum(rows["net"], 0.0), n_bins)
    exposure = np.bincount(index, rows["exposure"] * b[rows["still"]], n_bins)
    seen = (exposure > 0) & (total > 0)
    if not seen.any():
        raise ValueError("None of the Bragg reflections has a positive intensity")
    middle = 0.5 * (edges[1:] + edges[:-1])
    return np.interp(q, middle[seen], (total[seen] / exposure[seen]))
