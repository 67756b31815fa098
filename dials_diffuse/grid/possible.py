"""Count the voxels of the asymmetric unit, for completeness."""

from __future__ import annotations

import numpy as np
from numba import njit

from dials_diffuse.grid.shells import ResolutionShells
from dials_diffuse.grid.symmetry import reciprocal_operators
from dials_diffuse.grid.voxel_grid import ON_LIMIT, VoxelGrid


@njit(cache=True)
def _fixed_voxels(metric, reach, differences, limits):
    """Number of voxels within each limit of |q|^2 that an operator maps to themselves, summed over operators.

    The loop is over columns along l. An operator maps all voxels of a column, one, or none of them
    to themselves.

    Args:
        metric: (3, 3) |q|^2 = v metric v of voxels v
        reach: (2,) largest |h| and |k|
        differences: (N, 3, 3) operators less the identity; the voxels are in their null spaces
        limits: (M,) ascending

    Returns:
        (M,) int64
    """
    counts = np.zeros(limits.size, dtype=np.int64)
    for h in range(-reach[0], reach[0] + 1):
        for k in range(-reach[1], reach[1] + 1):
            middle = -(metric[0, 2] * h + metric[1, 2] * k) / metric[2, 2]
            least = metric[0, 0] * h * h + 2 * metric[0, 1] * h * k + metric[1, 1] * k * k
            least -= metric[2, 2] * middle * middle
            if least > limits[-1]:
                continue
            whole = 0
            for number in range(len(differences)):
                m = differences[number]
                row = 0
                while row < 3 and m[row, 2] == 0:
                    row += 1
                l = 0
                if row < 3:
                    rest = m[row, 0] * h + m[row, 1] * k
                    if rest % m[row, 2] != 0:
                        continue
                    l = -(rest // m[row, 2])
                moved = False
                for i in range(3):
                    moved |= m[i, 0] * h + m[i, 1] * k + m[i, 2] * l != 0
                if moved:
                    continue
                if row == 3:
                    whole += 1
                    continue
                squared = least + metric[2, 2] * (l - middle) ** 2
                for i in range(limits.size):
                    counts[i] += squared < limits[i]
            for i in range(limits.size):
                if whole and limits[i] > least:
                    half = np.sqrt((limits[i] - least) / metric[2, 2])
                    counts[i] += whole * (
                        int(np.floor(middle + half)) - int(np.ceil(middle - half)) + 1
                    )
    return counts


def voxels_possible(grid: VoxelGrid, shells: ResolutionShells) -> np.ndarray:
    """Number of voxels of the asymmetric unit in each shell, (n_shells,) int64.

    Voxels within the grid's limits are counted, the origin is not. A voxel of the asymmetric unit stands
    for one orbit of the Laue group. By Burnside's lemma the number of orbits is the mean, over the
    operators, of the number of voxels that an operator maps to themselves. No voxel is stored, so
    that fine grids take no memory.
    """
    high = 1 / grid.d_min if grid.d_min else np.inf
    low = 1 / grid.d_max if grid.d_max else 0.0
    # Voxels on the limits are inside, whatever the rounding
    edges = np.clip(shells.edges, low * (1 - ON_LIMIT), high * (1 + ON_LIMIT))
    axes = grid.q_of_voxel(np.eye(3))
    operators = reciprocal_operators(grid.laue_group)
    # |h| <= |a| |q|
    reach = np.floor(np.array(grid.supercell().parameters()[:2]) * edges[-1]).astype(np.int64)
    fixed = _fixed_voxels(
        np.ascontiguousarray(axes @ axes.T), reach, operators - np.eye(3, dtype=np.int64), edges**2
    )
    orbits = np.rint(fixed / len(operators)).astype(np.int64) - (edges > 0)
    return np.diff(orbits)
