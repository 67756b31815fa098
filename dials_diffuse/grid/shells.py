"""Resolution shells, and the isotropic part of a map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.grid.voxel_grid import VoxelGrid


@dataclass(frozen=True)
class ResolutionShells:
    """Shells of equal reciprocal volume.

    Attributes:
        edges: (n + 1,) |q| = 1/d in 1/Angstrom, ascending
    """

    edges: np.ndarray

    @classmethod
    def equal_volume(cls, q_min: float, q_max: float, n: int) -> ResolutionShells:
        """n shells from q_min to q_max (1/Angstrom).

        Raises:
            ValueError: an empty range.
        """
        if not 0 <= q_min < q_max:
            raise ValueError(
                f"There is no resolution range between |q| = {q_min:g} and {q_max:g}/A"
            )
        edges = np.linspace(q_min**3, q_max**3, n + 1) ** (1 / 3)
        # Voxels on the limits belong to the first and last shell, whatever the rounding
        edges[0] *= 1 - 1e-9
        edges[-1] *= 1 + 1e-9
        return cls(edges)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def index_of(self, q: np.ndarray) -> np.ndarray:
        """|q| (N,) -> shell (N,), -1 outside"""
        shell = np.searchsorted(self.edges, q, side="right") - 1
        return np.where(shell < len(self), shell, -1)

    def labels(self) -> list[str]:
        """ "d_max - d_min" of each shell in Angstrom"""
        with np.errstate(divide="ignore"):
            d = 1 / self.edges
        return [
            f"{'inf' if np.isinf(a) or a > 1e4 else format(a, '.2f')} - {b:.2f}"
            for a, b in zip(d[:-1], d[1:])
        ]


def isotropic_part(
    voxel: np.ndarray,
    intensity: np.ndarray,
    grid: VoxelGrid,
    n_bins: int | None = None,
    multiplicity: np.ndarray | None = None,
) -> np.ndarray:
    """The mean of a map at each voxel's |q|.

    Means over bins of equal width in |q|, every symmetry-equivalent voxel counted, interpolated
    linearly between the bins' mean |q|.

    Args:
        voxel: (N, 3) voxels of the asymmetric unit
        intensity: (N,); NaN values are ignored
        n_bins: number of bins; None: bins as wide as a voxel's longest edge, at most 200 of them
        multiplicity: (N,) of the voxels; None: it is computed

    Returns:
        (N,) isotropic part, NaN where no intensity is finite
    """
    q = np.linalg.norm(grid.q_of_voxel(voxel), axis=1)
    if multiplicity is None:
        multiplicity = grid.multiplicity(voxel)
    weight = multiplicity * np.isfinite(intensity)
    if not weight.any():
        return np.full(len(q), np.nan)
    if n_bins is None:
        edge = max(np.linalg.norm(grid.q_of_voxel(np.eye(3)), axis=1))
        n_bins = int(np.clip(q.max() / edge, 1, 200))
    index = np.minimum((q / q.max() * n_bins).astype(int), n_bins - 1)
    total = np.bincount(index, weight, n_bins)
    seen = total > 0
    mean = np.bincount(index, weight * np.nan_to_num(intensity), n_bins)[seen] / total[seen]
    centre = np.bincount(index, weight * q, n_bins)[seen] / total[seen]
    return np.interp(q, centre, mean)
