"""Integrated Bragg intensities as a second opinion on Wilson's scale."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from dials_diffuse.absolute.profile import usable_rows
from dials_diffuse.absolute.wilson import Nodes
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.integrated_reflections import read_integrated, relative_times

logger = logging.getLogger("dials.diffuse.absolute.integrated")


@dataclass
class Comparison:
    """Integrated intensities in the unit of the map.

    Attributes:
        nodes: merged full intensities (I/partiality), brought to the unit of the map
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


class ExposureTimes:
    """Exposure times of stills relative to each other, from their scaled observations, table by table."""

    def __init__(self):
        # exposure and pixels by experiment identifier
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))

    def start(self, grid: VoxelGrid) -> None:
        """Nothing depends on the grid."""

    def add(self, stills, table) -> None:
        """Add the observations of some stills (rows of diffuse_scaled.refl)."""
        keep = usable_rows(table) & ~as_numpy(table["bragg"]).astype(bool)
        ids = as_numpy(table["id"])[keep]
        sums = [
            np.bincount(ids, as_numpy(table[name])[keep], len(stills))
            for name in ("exposure", "num_pixels.valid")
        ]
        for still, pair in zip(stills, np.transpose(sums)):
            self._sums[still.experiment.identifier] += pair

    def relative(self, experiments) -> np.ndarray:
        """Over their mean, (S,); NaN for stills without usable observations."""
        return relative_times(*np.transpose([self._sums[e.identifier] for e in experiments]))


def merge_integrated(
    table, name: str, experiments, grid: VoxelGrid, relative_time: np.ndarray, min_partiality: float
) -> tuple[Nodes, str]:
    """Merge full intensities of integrated stills, scaled with the stills' scales.

    Args:
        table, name: reflection table of DIALS integration and its name; its experiment identifiers
            are those of the experiments
        experiments: with scaling models; what the table has of others is left out
        relative_time: (S,) exposure times of the experiments over their mean

    Returns:
        (nodes, what was done about partiality)

    Raises:
        ValueError: no intensities, none of these experiments, or no reflection left.
    """
    found = read_integrated(table, name, experiments, grid, relative_time, min_partiality)
    if not len(found.rows):
        raise ValueError(
            f"None of the integrated reflections has a partiality of {min_partiality:g} or more"
        )
    scales = np.array([e.scaling_model.components["scale"].parameters[0] for e in experiments])
    divisor = found.exposure * scales[found.still]
    unique, inverse = np.unique(found.miller_index, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    # unit weights within a node: weights of weak counts would favour those that came out low
    number = np.bincount(inverse, minlength=len(unique))
    mean = np.bincount(inverse, found.counts / divisor, len(unique)) / number
    spread = np.bincount(inverse, found.variance / divisor**2, len(unique)) / number**2
    q = np.linalg.norm(grid.q_of_voxel(unique * np.array(grid.subdivide)), axis=1)
    return Nodes(unique, mean, spread, number.astype(float), q), found.partiality


def compare_with_grid(integrated: Nodes, in_grid: Nodes, what: str, q_min: float) -> Comparison:
    """Bring merged I/partiality to the unit of the map, by the nodes that both have.

    Raises:
        ValueError: fewer than 20 common nodes beyond q_min, or no intensity in them.
    """
    ours = {tuple(index): k for k, index in enumerate(in_grid.miller_index.tolist())}
    rows = [
        (k, ours[tuple(i)])
        for k, i in enumerate(integrated.miller_index.tolist())
        if tuple(i) in ours
    ]
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
