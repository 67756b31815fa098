"""Comparison of integrated Bragg intensities with the nodes that are integrated in the grid."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from dials_diffuse.absolute.profile import usable_rows
from dials_diffuse.absolute.wilson import Nodes
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.symmetry import absent_by_centring
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.integrated_reflections import read_integrated, relative_times


@dataclass
class Comparison:
    """Integrated intensities in the unit of the map.

    Attributes:
        nodes: merged full intensities (I/partiality), brought to the unit of the map
        factor: their factor to the unit of the map
        correlation: with the nodes integrated in the grid, on the common ones
        common: number of common nodes
        partiality: "used", "absent" or "all 1"
    """

    nodes: Nodes
    factor: float
    correlation: float
    common: int
    partiality: str


class ExposureTimes:
    """Exposure times of stills relative to each other, from scaled observations."""

    def __init__(self):
        # exposure and pixels by experiment identifier
        self._sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))

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
        experiments: with scaling models; reflections of other experiments are left out
        relative_time: (S,) exposure times of the experiments over their mean

    Returns:
        (nodes, the use of partiality: "used", "absent" or "all 1")

    Raises:
        ValueError: no intensities, none of these experiments, or no reflection left.

    Reflections that the centring of the lattice extinguishes are left out: noise, or of another lattice.
    """
    rows = read_integrated(table, name, experiments, grid, relative_time, min_partiality)
    if not len(rows.rows):
        raise ValueError(
            f"None of the integrated reflections has a partiality of {min_partiality:g} or more"
        )
    lattice_points = 1
    space_group = experiments[0].crystal and experiments[0].crystal.get_space_group()
    if space_group:
        lattice_points = space_group.n_ltr()
        rows = rows.select(~absent_by_centring(rows.miller_index, space_group))
    scales = np.array([e.scaling_model.components["scale"].parameters[0] for e in experiments])
    divisor = rows.exposure * scales[rows.still]
    unique, inverse = np.unique(rows.miller_index, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    # unit weights within a node: weights from weak counts would favour low intensities
    number = np.bincount(inverse, minlength=len(unique))
    mean = np.bincount(inverse, rows.counts / divisor, len(unique)) / number
    spread = np.bincount(inverse, rows.variance / divisor**2, len(unique)) / number**2
    q = np.linalg.norm(grid.q_of_voxel(unique * np.array(grid.subdivide)), axis=1)
    return Nodes(unique, mean, spread, number.astype(float), q, lattice_points), rows.partiality


def compare_with_grid(
    integrated: Nodes, in_grid: Nodes, partiality: str, q_min: float
) -> Comparison:
    """Bring merged I/partiality to the unit of the map, by the common nodes.

    Args:
        integrated: of `merge_integrated`
        in_grid: integrated in the grid
        partiality: its use, as of `merge_integrated`
        q_min: of the nodes that are compared, 1/Angstrom

    Raises:
        ValueError: fewer than 20 common nodes beyond q_min, or no intensity in them.
    """
    row_of = {tuple(index): k for k, index in enumerate(in_grid.miller_index.tolist())}
    rows = [
        (k, row_of[tuple(index)])
        for k, index in enumerate(integrated.miller_index.tolist())
        if tuple(index) in row_of
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
    nodes = replace(
        integrated,
        intensity=factor * integrated.intensity,
        variance=factor**2 * integrated.variance,
    )
    return Comparison(nodes, factor, float(np.corrcoef(a, b)[0, 1]), len(pairs), partiality)
