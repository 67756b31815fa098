"""Integrated Bragg intensities as a second opinion on Wilson's scale."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from cctbx import miller

from dials_diffuse.absolute.wilson import Nodes
from dials_diffuse.adapters.tables import as_numpy, miller_index_column
from dials_diffuse.grid.voxel_grid import VoxelGrid

logger = logging.getLogger("dials.diffuse.absolute.integrated")


@dataclass
class Comparison:
    """Integrated intensities in the unit of the map.

    Attributes:
        nodes: merged I/partiality, brought to the unit of the map
        factor: what that took
        correlation: with the nodes integrated in the grid, on those that both have
        common: number of those
        partiality: "used", "absent" or "all 1"
    """

    nodes: Nodes
    factor: float
    correlation: float
    common: int
    partiality: str


def merge_integrated(table, experiments, grid: VoxelGrid, min_partiality: float) -> tuple[Nodes, str]:
    """Merge I/partiality of integrated stills, scaled with the stills' scales.

    Counts are corrected for polarisation and sensor efficiency where the table has lp and qe. A still has no
    Lorentz factor besides partiality.

    Args:
        table: reflection table of DIALS integration; its experiment identifiers
            are those of the experiments
        experiments: with scaling models; what the table has of others is left out

    Returns:
        (nodes, what was done about partiality)

    Raises:
        ValueError: no intensities, or none of these experiments.
    """
    for name in ("id", "miller_index", "intensity.sum.value", "intensity.sum.variance"):
        if name not in table:
            raise ValueError(f"The integrated reflections have no column {name}")
    identifiers = table.experiment_identifiers()
    names = dict(zip(identifiers.keys(), identifiers.values()))
    scale_of = {
        e.identifier: e.scaling_model.components["scale"].parameters[0]
        for e in experiments
        if e.scaling_model is not None
    }
    ids = as_numpy(table["id"])
    scales = np.full(max(int(ids.max(initial=-1)) + 1, 1), np.nan)
    for number, name in names.items():
        if name in scale_of and number < len(scales):
            scales[number] = scale_of[name]
    scale = np.where(ids >= 0, scales[ids], np.nan)
    partiality = np.ones(table.size())
    what = "absent"
    if "partiality" in table:
        partiality = as_numpy(table["partiality"])
        what = "all 1" if np.all(partiality == 1) else "used"
    value = as_numpy(table["intensity.sum.value"]).copy()
    variance = as_numpy(table["intensity.sum.variance"]).copy()
    correction = np.ones(table.size())
    if "lp" in table:
        correction *= as_numpy(table["lp"])
    if "qe" in table:
        efficiency = as_numpy(table["qe"])
        correction /= np.where(efficiency > 0, efficiency, np.nan)
    index = as_numpy(table["miller_index"])
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = correction / (partiality * scale)
        weight = 1 / (variance * factor**2)
    good = np.isfinite(factor) & (partiality >= min_partiality) & (variance > 0)
    good &= (index != 0).any(axis=1)
    if not good.any():
        raise ValueError(
            "None of the integrated reflections belongs to the scaled experiments: give the .refl that dials.diffuse_mask was given"
        )
    value, factor, weight, index = value[good], factor[good], weight[good], index[good]
    indices = miller_index_column(index)
    miller.map_to_asu(grid.laue_group.type(), False, indices)
    unique, inverse = np.unique(as_numpy(indices), axis=0, return_inverse=True)
    inverse = inverse.ravel()
    # unit weights within a node: weights of weak counts would favour those that came out low
    number = np.bincount(inverse, minlength=len(unique))
    mean = np.bincount(inverse, value * factor, len(unique)) / number
    spread = np.bincount(inverse, 1 / weight, len(unique)) / number**2
    q = np.linalg.norm(grid.q_of_voxel(unique * np.array(grid.subdivide)), axis=1)
    return Nodes(unique, mean, spread, number.astype(float), q), what


def compare_with_grid(integrated: Nodes, in_grid: Nodes, what: str, q_min: float) -> Comparison:
    """Bring merged I/partiality to the unit of the map, by the nodes that both have.

    Raises:
        ValueError: fewer than 20 common nodes beyond q_min, or no intensity in them.
    """
    ours = {tuple(index): k for k, index in enumerate(in_grid.miller_index.tolist())}
    rows = [(k, ours[tuple(i)]) for k, i in enumerate(integrated.miller_index.tolist()) if tuple(i) in ours]
    pairs = np.array(rows, dtype=int).reshape(-1, 2)
    pairs = pairs[integrated.q[pairs[:, 0]] >= q_min]
    if len(pairs) < 20:
        raise ValueError(
            f"Only {len(pairs)} integrated reflections beyond {q_min:.2f}/A were seen in the grid too"
        )
    a, b = integrated.intensity[pairs[:, 0]], in_grid.intensity[pairs[:, 1]]
    if a.sum() <= 0 or b.sum() <= 0:
        raise ValueError("The integrated intensities are not positive on the average")
    factor = float(b.sum() / a.sum())
    nodes = Nodes(
        integrated.miller_index,
        factor * integrated.intensity,
        factor**2 * integrated.variance,
        integrated.weight,
        integrated.q,
    )
    return Comparison(nodes, factor, float(np.corrcoef(a, b)[0, 1]), len(pairs), what)
