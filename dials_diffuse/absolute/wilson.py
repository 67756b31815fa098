"""The absolute scale from Bragg intensities, by Wilson statistics.

ln(<|F|^2> / sum f^2) = -ln S - B q^2/2 (Wilson, Nature 150 (1942) 152). Integrated Bragg counts and
diffuse photons per solid angle are different units. Here Bragg intensities are taken from the
observations of the map: a peak holds |F|^2/V and the reciprocal cell of its node has the volume 1/V, so
that the mean intensity above the diffuse level over the cell is |F|^2 in the unit of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from cctbx import miller

from dials_diffuse.absolute.contents.form_factors import AtomicTables
from dials_diffuse.absolute.contents.inventory import UnitCellInventory
from dials_diffuse.absolute.estimate import Estimate, scan_deviation
from dials_diffuse.absolute.profile import usable_rows
from dials_diffuse.absolute.theory import neglected_structure
from dials_diffuse.adapters.tables import as_numpy, miller_index_column
from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.grid.voxel_grid import VoxelGrid

# Shells of equal volume of the Wilson plot, and the |q| (1/Angstrom) where they begin
_N_SHELLS, _FIRST_Q = 24, 0.05


@dataclass(frozen=True)
class WilsonSettings:
    """The scope wilson of phil/absolute.py, which describes the fields."""

    scope: ClassVar[str] = "absolute.wilson"
    q_min: float
    q_max: float | None
    reflections: str | None
    min_partiality: float


@dataclass
class Nodes:
    """Bragg intensities of the nodes of the asymmetric unit.

    Attributes:
        miller_index: (N, 3)
        intensity: (N,) |F|^2 in the unit of the map
        variance: (N,) from counting
        weight: (N,) sum of scaled exposure over the node's cell
        q: (N,) 1/Angstrom, reference cell
        lattice_points: how many times the mean of these nodes is that of all: 1 where the nodes that centring
            extinguishes are among them, else the number of lattice points in the cell
    """

    miller_index: np.ndarray
    intensity: np.ndarray
    variance: np.ndarray
    weight: np.ndarray
    q: np.ndarray
    lattice_points: int = 1


class NodeIntegrator:
    """Integrates the reciprocal cell around every node of the unmasked grid, table by table."""

    def __init__(self, grid: VoxelGrid):
        self.grid = grid
        self._keys = np.empty(0, dtype=np.int64)
        # signal and weight of all rows, signal and weight of the rows off the peaks, and photons
        self._sums = np.empty((0, 5))

    def add(self, stills, table) -> None:
        """Add the observations of some stills (rows of diffuse_scaled.refl)."""
        if table.size() == 0:
            return
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

        A cell without rows on its peak counts as 0: without such cells the mean would be too high.
        """
        signal, weight, off_signal, off_weight, photons = self._sums.T
        index = unpack_voxels(self._keys)
        q = np.linalg.norm(self.grid.q_of_voxel(index * np.array(self.grid.subdivide)), axis=1)
        good = off_weight > 0
        # a cell may extend across the limits while its node lies beyond them
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
    """Mean |F|^2 in N shells against q^2, and the line through it.

    Attributes:
        q: of the shells (N,), 1/Angstrom
        mean: (N,) mean |F|^2 in the unit of the map
        error: (N,) of the mean, from the spread of the nodes
        expected: (N,) sum f^2 and pairs of the ordered atoms, times Nodes.lattice_points, electrons^2
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


class _Shells(NamedTuple):
    """Shells of nodes: |q|, mean |F|^2, its error and its expectation, (N,) each."""

    q: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    expected: np.ndarray


class _Line(NamedTuple):
    """Straight line of a Wilson plot: scale, B, error of the scale, and the shells used (N,)."""

    scale: float
    b_factor: float
    error: float
    used: np.ndarray


def wilson_scale(
    nodes: Nodes, inventory: UnitCellInventory, tables: AtomicTables, settings: WilsonSettings
) -> tuple[Estimate, WilsonPlot]:
    """Scale and B from a Wilson plot.

    sum f^2 is that of the ordered atoms, with the interference of their neighbours where it is known.

    Raises:
        ValueError: too few nodes, or no Bragg intensity, in the range.
    """
    q_min = settings.q_min
    if len(nodes.q) == 0:
        raise ValueError(
            "No Bragg peak was observed: the scaled table has no rows under the Bragg mask"
        )
    stop = nodes.q.max() if settings.q_max is None else settings.q_max
    if stop < q_min + 0.1:
        raise ValueError(
            f"Bragg peaks reach |q| = {stop:.2f}/A: a Wilson plot needs a range of 0.1/A from {q_min:.2f}/A on"
        )
    shells, number = _mean_in_shells(nodes, inventory, tables, stop)
    # the fit ends at the first shell that is lost in noise: shells beyond it that stand out are too high
    lost = (shells.mean < 4 * shells.error) & (shells.q > q_min)
    significant = np.cumsum(lost) == 0
    line = _fit_line(shells, significant, q_min, stop)
    if line is None:
        raise ValueError(
            f"Bragg intensities stand out from the diffuse scattering in less than 3 shells of |q| beyond {q_min:.2f}/A: no Wilson plot"
        )
    reach = float(shells.q[line.used].max())
    scan = []
    for low in (q_min - 0.05, q_min, q_min + 0.05, q_min + 0.1):
        for high in (reach + 1e-6, 0.9 * reach):
            other = _fit_line(shells, significant, low, high)
            if other is not None:
                scan.append((float(low), float(min(high, reach)), other.scale))
    parts = {"fit": line.error, "range": scan_deviation(scan, line.scale)}
    error = float(np.hypot(parts["fit"], parts["range"]))
    details = {"b_factor": line.b_factor, "nodes": float(number)}
    estimate = Estimate("wilson", line.scale, error, (q_min, reach), scan, parts, details)
    return estimate, WilsonPlot(*shells, line.used, line.scale, line.b_factor)


def _mean_in_shells(
    nodes: Nodes, inventory: UnitCellInventory, tables: AtomicTables, stop: float
) -> tuple[_Shells, int]:
    """Mean intensity of the shells with more than 10 nodes, and the number of nodes in all shells.

    Nodes are weighted by exposure. The Ewald spheres sample each at random, so that the mean of a shell
    is right while that of a node is not.
    """
    edges = np.linspace(_FIRST_Q**3, stop**3, _N_SHELLS + 1) ** (1 / 3)
    edges = np.concatenate([np.linspace(_FIRST_Q, edges[1], 4), edges[2:]])
    n = len(edges) - 1
    shell = np.digitize(nodes.q, edges) - 1
    inside = (shell >= 0) & (shell < n)
    shell, weight = shell[inside], nodes.weight[inside]
    value, q = nodes.intensity[inside], nodes.q[inside]
    total = np.maximum(np.bincount(shell, weight, n), 1e-300)
    mean = np.bincount(shell, weight * value, n) / total
    q_mean = np.sqrt(np.bincount(shell, weight * q**2, n) / total)
    error = np.sqrt(np.bincount(shell, (weight * (value - mean[shell])) ** 2, n)) / total
    filled = np.bincount(shell, minlength=n) > 10
    q_mean = q_mean[filled]
    expected = inventory.sum_f_squared(q_mean, tables, ordered=True)
    if inventory.has_pairs:
        expected = expected + inventory.pair_sum(q_mean, tables, ordered=True)
    expected = nodes.lattice_points * expected
    return _Shells(q_mean, mean[filled], error[filled], expected), int(inside.sum())


def _fit_line(shells: _Shells, significant: np.ndarray, low: float, high: float) -> _Line | None:
    """Fit the Wilson plot between two |q|, None with fewer than 3 shells."""
    used = (shells.q >= low) & (shells.q <= high) & significant
    if used.sum() < 3:
        return None
    q, mean, error, expected = (values[used] for values in shells)
    y = np.log(mean / expected)
    sigma = np.hypot(error / mean, neglected_structure(q))
    design = np.stack([np.ones(len(q)), -(q**2) / 2], axis=1) / sigma[:, None]
    solution, *_ = np.linalg.lstsq(design, y / sigma, rcond=None)
    chi2 = (((design @ solution) - y / sigma) ** 2).sum() / max(len(q) - 2, 1)
    covariance = np.linalg.inv(design.T @ design) * max(chi2, 1.0)
    scale = float(np.exp(-solution[0]))
    return _Line(scale, float(solution[1]), scale * float(np.sqrt(covariance[0, 0])), used)
