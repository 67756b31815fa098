"""Absolute scale from Bragg intensities, by Wilson statistics.

Integrated Bragg counts and diffuse photons per solid angle are different units. Here Bragg intensities come from
the same observations as the map: the intensity above the diffuse level, averaged over the reciprocal cell of a node, is
|F|^2 in the unit of the map, for a peak holds |F|^2/V and the cell has the volume 1/V.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from dials_diffuse.absolute.composition import UnitCellInventory
from dials_diffuse.absolute.form_factors import AtomicTables
from dials_diffuse.absolute.profile import usable_rows
from dials_diffuse.absolute.total_scattering import Estimate, neglected_structure
from dials_diffuse.adapters.tables import as_numpy, miller_index_column
from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.grid.voxel_grid import VoxelGrid

logger = logging.getLogger("dials.diffuse.absolute.wilson")


@dataclass
class Nodes:
    """Bragg intensities of the nodes of the asymmetric unit.

    Attributes:
        miller_index: (N, 3)
        intensity: (N,) |F|^2 in the unit of the map
        variance: (N,) from counting
        weight: (N,) sum of scaled exposure over the node's cell
        q: (N,) 1/Angstrom, reference cell
    """

    miller_index: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    weight: np.ndarray
    q: np.ndarray


class NodeIntegrator:
    """Integrates the reciprocal cell around every node of the unmasked grid, table by table."""

    def __init__(self):
        self.grid: VoxelGrid | None = None
        self._keys = np.empty(0, dtype=np.int64)
        # signal and weight of all rows, of those off the peaks, and photons
        self._sums = np.empty((0, 5))

    def start(self, grid: VoxelGrid) -> None:
        """Called with the grid of the data before the first table"""
        self.grid = grid

    def add(self, stills, table) -> None:
        """Add the observations of some stills (rows of diffuse_scaled.refl)."""
        if table.size() == 0:
            return
        from cctbx import miller

        keep = usable_rows(table)
        exposure = as_numpy(table["exposure"])[keep]
        bragg = as_numpy(table["bragg"]).astype(bool)[keep]
        counts = as_numpy(table["counts"])[keep]
        signal = counts - as_numpy(table["background"])[keep]
        signal = signal - as_numpy(table["offset"])[keep] * exposure
        weight = as_numpy(table["inverse_scale_factor"])[keep] * exposure
        node = self.grid.node_of_voxel(as_numpy(table["voxel"])[keep])
        off = ~bragg
        columns = (
            signal,
            weight,
            off * signal,
            off * weight,
            counts + as_numpy(table["background.variance"])[keep],
        )
        keys, inverse = np.unique(pack_voxels(node), return_inverse=True)
        sums = _sum_by(inverse, columns, len(keys))
        indices = miller_index_column(unpack_voxels(keys))
        miller.map_to_asu(self.grid.laue_group.type(), False, indices)
        keys = np.concatenate([self._keys, pack_voxels(as_numpy(indices))])
        sums = np.concatenate([self._sums, sums])
        self._keys, inverse = np.unique(keys, return_inverse=True)
        self._sums = _sum_by(inverse, sums.T, len(self._keys))

    def nodes(self) -> Nodes:
        """Intensities of nodes whose cell has rows off the peak; none if there is not one peak.

        A cell that was only cut beside its peak counts as 0: to leave such cells out would choose
        those that were cut where they are bright.
        """
        signal, weight, off_signal, off_weight, photons = self._sums.T
        index = unpack_voxels(self._keys)
        q = np.linalg.norm(self.grid.q_of_voxel(index * np.array(self.grid.subdivide)), axis=1)
        good = off_weight > 0
        # of cells across the limits, the node itself may be left out
        if self.grid.d_min:
            good &= q <= 1 / self.grid.d_min
        if self.grid.d_max:
            good &= q >= 1 / self.grid.d_max
        if not np.any(weight > off_weight * (1 + 1e-9)):
            good[:] = False
        level = off_signal[good] / off_weight[good]
        return Nodes(
            index[good],
            signal[good] / weight[good] - level,
            photons[good] / weight[good] ** 2,
            weight[good],
            q[good],
        )


def _sum_by(group: np.ndarray, columns, n: int) -> np.ndarray:
    """Sums of columns over rows of the same group, (n, len(columns))"""
    return np.stack([np.bincount(group.ravel(), column, n) for column in columns], axis=1)


@dataclass
class WilsonPlot:
    """Mean |F|^2 against q^2.

    Attributes:
        q: of the shells (N,)
        mean: (N,) mean |F|^2 in the unit of the map
        error: (N,) of the mean, from the spread of the nodes
        expected: (N,) sum f^2 and pairs of the ordered atoms, electrons^2
        used: (N,) bool: shells of the fit
        scale, b_factor: of the fit
    """

    q: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    expected: np.ndarray
    used: np.ndarray
    scale: float
    b_factor: float


def wilson_scale(
    nodes: Nodes,
    inventory: UnitCellInventory,
    tables: AtomicTables = AtomicTables(),
    q_min: float = 0.3,
    q_max: float | None = None,
    n_shells: int = 24,
) -> tuple[Estimate, WilsonPlot]:
    """Scale and B from ln(<|F|^2> / sum f^2) = -ln S - B q^2/2 (Wilson 1942).

    sum f^2 is that of the ordered atoms, their neighbours' interference included where it is known. A shell's mean
    weighs nodes by exposure: each is sampled where the Ewald spheres happened to cut it, so it is the shell that is right,
    not the node.

    Raises:
        ValueError: too few nodes, or no Bragg intensity, in the range.
    """
    if len(nodes.q) == 0:
        raise ValueError(
            "No Bragg peak was observed: the scaled table has no rows under the Bragg mask"
        )
    stop = nodes.q.max() if q_max is None else q_max
    if stop < q_min + 0.1:
        raise ValueError(
            f"Bragg peaks reach |q| = {stop:.2f}/A: a Wilson plot needs a range of 0.1/A from {q_min:.2f}/A on"
        )
    # shells of equal volume
    edges = np.linspace(0.05**3, stop**3, n_shells + 1) ** (1 / 3)
    first = np.linspace(0.05, edges[1], 4)
    edges = np.concatenate([first, edges[2:]])
    shell = np.digitize(nodes.q, edges) - 1
    inside = (shell >= 0) & (shell < len(edges) - 1)
    n = len(edges) - 1
    shell, weight = shell[inside], nodes.weight[inside]
    value, q = nodes.intensity[inside], nodes.q[inside]
    total = np.maximum(np.bincount(shell, weight, n), 1e-300)
    number = np.bincount(shell, minlength=n)
    mean = np.bincount(shell, weight * value, n) / total
    q_mean = np.sqrt(np.bincount(shell, weight * q**2, n) / total)
    error = np.sqrt(np.bincount(shell, (weight * (value - mean[shell])) ** 2, n)) / total
    filled = number > 10
    mean, q_mean, error = mean[filled], q_mean[filled], error[filled]
    expected = inventory.sum_f_squared(q_mean, tables, ordered=True)
    if inventory.has_pairs:
        expected = expected + inventory.pair_sum(q_mean, tables, ordered=True)

    lost = (mean < 4 * error) & (q_mean > q_min)

    def fit(low, high):
        # up to the first shell that is lost in noise: picking shells beyond would pick the high ones
        used = (q_mean >= low) & (q_mean <= high) & (np.cumsum(lost) == 0)
        if used.sum() < 3:
            return None
        y = np.log(mean[used] / expected[used])
        sigma = np.hypot(error[used] / mean[used], neglected_structure(q_mean[used]))
        design = np.stack([np.ones(used.sum()), -(q_mean[used] ** 2) / 2], axis=1) / sigma[:, None]
        solution, *_ = np.linalg.lstsq(design, y / sigma, rcond=None)
        chi2 = (((design @ solution) - y / sigma) ** 2).sum() / max(used.sum() - 2, 1)
        covariance = np.linalg.inv(design.T @ design) * max(chi2, 1.0)
        scale = float(np.exp(-solution[0]))
        return scale, float(solution[1]), scale * float(np.sqrt(covariance[0, 0])), used

    found = fit(q_min, stop)
    if found is None:
        raise ValueError(
            f"Bragg intensities stand out from the diffuse scattering in less than 3 shells of |q| beyond {q_min:.2f}/A: no Wilson plot"
        )
    scale, b_factor, fit_error, used = found
    reach = float(q_mean[used].max())
    scan = []
    for low in (q_min - 0.05, q_min, q_min + 0.05, q_min + 0.1):
        for high in (reach + 1e-6, 0.9 * reach):
            other = fit(low, high)
            if other is not None:
                scan.append((float(low), float(min(high, reach)), other[0]))
    spread = float(np.sqrt(np.mean([(row[2] - scale) ** 2 for row in scan]))) if scan else 0.0
    parts = {"fit": fit_error, "range": spread}
    estimate = Estimate(
        "wilson",
        scale,
        float(np.hypot(fit_error, spread)),
        (q_min, reach),
        scan,
        parts,
        {"b_factor": b_factor, "nodes": float(inside.sum())},
    )
    return estimate, WilsonPlot(q_mean, mean, error, expected, used, scale, b_factor)
