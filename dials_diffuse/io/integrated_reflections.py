"""Read integrated Bragg reflections of stills, for scaling and for absolute units.

The integrated counts of a reflection are I = p t P QE b J, with partiality p, exposure time t, polarisation P,
quantum efficiency QE, scale b of the still and full intensity J. The product p t P QE corresponds to the
exposure of diffuse observations. In a still, partiality takes the place of the Lorentz factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cctbx import miller

from dials_diffuse.adapters.tables import as_numpy, miller_index_column
from dials_diffuse.grid.reindexing import as_gridded
from dials_diffuse.grid.voxel_grid import VoxelGrid


@dataclass(frozen=True)
class IntegratedReflections:
    """The usable reflections of a table.

    Attributes:
        rows: (N,) of the table
        still: (N,) index of the experiment
        miller_index: (N, 3) int32, in the asymmetric unit of the grid's Laue group
        counts, variance: (N,) as integrated, not corrected
        exposure: (N,) divisor of the counts: partiality x relative exposure time x
            polarisation x efficiency
        partiality: whether the table has it: "used", "absent" or "all 1"
    """

    rows: np.ndarray
    still: np.ndarray
    miller_index: np.ndarray
    counts: np.ndarray
    variance: np.ndarray
    exposure: np.ndarray
    partiality: str

    def select(self, chosen: np.ndarray) -> IntegratedReflections:
        """Some of the reflections: a mask or indices (N,)."""
        arrays = ("rows", "still", "miller_index", "counts", "variance", "exposure")
        return replace(self, **{name: getattr(self, name)[chosen] for name in arrays})


def relative_times(exposure: np.ndarray, n_pixels: np.ndarray) -> np.ndarray:
    """Exposure times of stills relative to their mean, from observations outside the Bragg mask.

    With the same detector, exposures (s sr) of a pixel differ between stills only by the exposure time.

    Args:
        exposure: (S,) sum over a still
        n_pixels: (S,) number of pixels in that sum

    Returns:
        (S,), NaN for stills without observations
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        each = exposure / n_pixels
    each[~np.isfinite(each)] = np.nan
    return each / np.nanmean(each)


def read_integrated(
    table,
    name: str,
    experiments: Sequence,
    grid: VoxelGrid,
    relative_time: np.ndarray,
    min_partiality: float,
) -> IntegratedReflections:
    """Select and correct the usable reflections of a table that DIALS integrated.

    Counts are corrected for polarisation and sensor efficiency where the table has lp and qe.

    Args:
        table: reflections with experiment identifiers; rows of other experiments are left out
        name: of the table, for messages
        experiments: written by dials.diffuse_grid or a later step
        grid: of the experiments
        relative_time: (S,) see relative_times; the reflections of a still with NaN are left out
        min_partiality: reflections below it are left out

    Raises:
        ValueError: columns missing, or none of these experiments.
    """
    for column in ("miller_index", "id"):
        if column not in table:
            raise ValueError(
                f"{name} has no column {column}: it does not hold integrated reflections"
            )
    kinds = [f"intensity.{kind}" for kind in ("sum", "prf")]
    kind = next((k for k in kinds if f"{k}.value" in table and f"{k}.variance" in table), None)
    if kind is None:
        raise ValueError(f"{name} holds no integrated intensities")
    still = _stills_of(table, experiments)
    if not (still >= 0).any():
        raise ValueError(
            f"{name} does not match the experiments: none of its experiment identifiers is among the stills "
            "(give the .refl that dials.diffuse_mask was given)"
        )
    partiality, known = np.ones(table.size()), "absent"
    if "partiality" in table:
        partiality = as_numpy(table["partiality"])
        known = "all 1" if np.all(partiality == 1.0) else "used"
    exposure = partiality * np.append(relative_time, np.nan)[still]
    with np.errstate(invalid="ignore", divide="ignore"):
        # DIALS multiplies intensities by lp and divides them by qe to correct them
        if "lp" in table:
            exposure = exposure / as_numpy(table["lp"])
        if "qe" in table:
            exposure = exposure * as_numpy(table["qe"])
    counts, variance = as_numpy(table[f"{kind}.value"]), as_numpy(table[f"{kind}.variance"])
    hkl = as_numpy(table["miller_index"])
    usable = (variance > 0) & np.isfinite(counts) & np.isfinite(variance)
    usable &= np.isfinite(exposure) & (exposure > 0) & (partiality >= min_partiality)
    rows = np.flatnonzero(usable & (still >= 0) & (hkl != 0).any(axis=1))
    indices = miller_index_column(as_gridded(hkl[rows], still[rows], experiments))
    # Friedel mates are merged even if the grid keeps them apart
    miller.map_to_asu(grid.laue_group.type(), False, indices)
    return IntegratedReflections(
        rows, still[rows], as_numpy(indices), counts[rows], variance[rows], exposure[rows], known
    )


def _stills_of(table, experiments: Sequence) -> np.ndarray:
    """(N,) index of the experiment of each row, -1 for an unknown experiment"""
    number_of = {experiment.identifier: i for i, experiment in enumerate(experiments)}
    ids = as_numpy(table["id"])
    # The last element is for the id -1
    number_of_id = np.full(max(int(ids.max(initial=-1)), 0) + 2, -1)
    names = table.experiment_identifiers()
    for local, identifier in zip(names.keys(), names.values()):
        if local < len(number_of_id) - 1:
            number_of_id[local] = number_of.get(identifier, -1)
    return number_of_id[ids]
