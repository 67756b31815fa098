"""The grid of reciprocal space that all stills share; experiments carry it in their scaling models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cctbx import crystal, sgtbx, uctbx

from dials_diffuse.adapters.tables import as_numpy, miller_index_column
from dials_diffuse.grid.asymmetric_unit import asymmetric_unit
from dials_diffuse.grid.symmetry import check_subdivide, group_from_hall, symbol_of
from dials_diffuse.model.scaling_model import DiffuseScalingModel

# Relative: voxels whose d is this close to a resolution limit are within it, whatever the rounding
ON_LIMIT = 1e-9


@dataclass(frozen=True)
class VoxelGrid:
    """A grid of voxels, n of them a reciprocal cell edge.

    A voxel index is the Miller index of a supercell (n_a a, n_b b, n_c c) with the Laue
    group's point symmetry; the voxel's centre is at hkl = voxel / n, and a point h
    belongs to voxel floor(h n + 1/2).

    Attributes:
        subdivide: n along a*, b*, c*
        unit_cell: reference cell; it sets |q|, d and voxel centres, never the indexing
            of pixels, which is in each still's own cell
        laue_group: centrosymmetric point group in the setting of the data; without Friedel's
            law its rotations alone
        d_min, d_max: resolution limits in Angstrom, None for none
        index_range: ((h_min, h_max), (k_min, k_max), (l_min, l_max)) of voxels of the
            asymmetric unit, ends included, None where not known yet

    Raises:
        ValueError: n below 1 or against the symmetry.
    """

    subdivide: tuple[int, int, int]
    unit_cell: uctbx.unit_cell
    laue_group: sgtbx.space_group
    d_min: float | None = None
    d_max: float | None = None
    index_range: tuple[tuple[int, int], ...] | None = field(default=None)

    def __post_init__(self):
        object.__setattr__(self, "subdivide", tuple(int(n) for n in self.subdivide))
        check_subdivide(self.subdivide, self.laue_group)

    @property
    def friedel(self) -> bool:
        """True if h and -h are taken for equal"""
        return self.laue_group.is_centric()

    def to_dict(self) -> dict:
        """Plain JSON, as kept in configdict["grid"] of scaling models"""
        return {
            "subdivide": list(self.subdivide),
            "unit_cell": [float(p) for p in self.unit_cell.parameters()],
            "laue_group": symbol_of(self.laue_group),
            "d_min": self.d_min,
            "d_max": self.d_max,
            "index_range": self.index_range and [list(r) for r in self.index_range],
        }

    @classmethod
    def from_dict(cls, obj: dict) -> VoxelGrid:
        """Inverse of to_dict"""
        index_range = obj.get("index_range")
        return cls(
            subdivide=tuple(obj["subdivide"]),
            unit_cell=uctbx.unit_cell(tuple(obj["unit_cell"])),
            laue_group=group_from_hall(obj["laue_group"]),
            d_min=obj.get("d_min"),
            d_max=obj.get("d_max"),
            index_range=index_range and tuple(tuple(r) for r in index_range),
        )

    def replace(self, **changes) -> VoxelGrid:
        """The same grid with some attributes changed."""
        return replace(self, **changes)

    def hkl_of_voxel(self, voxel: np.ndarray) -> np.ndarray:
        """Voxels (N, 3) -> centres in Miller indices (N, 3) float64"""
        return np.asarray(voxel) / np.asarray(self.subdivide, dtype=float)

    def node_of_voxel(self, voxel: np.ndarray) -> np.ndarray:
        """Voxels (N, 3) -> nearest Miller indices (N, 3) int32"""
        return np.floor(self.hkl_of_voxel(voxel) + 0.5).astype(np.int32)

    def q_of_voxel(self, voxel: np.ndarray) -> np.ndarray:
        """Voxels (N, 3) -> centres in 1/Angstrom (N, 3), frame of the reference crystal
        (cctbx: a along x, c* along z), |q| = 1/d."""
        b = np.array(self.unit_cell.fractionalization_matrix()).reshape(3, 3).T
        return self.hkl_of_voxel(voxel) @ b.T

    def d_of_voxel(self, voxel: np.ndarray) -> np.ndarray:
        """Voxels (N, 3) -> d in Angstrom (N,), inf at the origin"""
        q = np.linalg.norm(self.q_of_voxel(voxel), axis=-1)
        with np.errstate(divide="ignore"):
            return 1.0 / q

    def supercell(self) -> uctbx.unit_cell:
        """The cell (n_a a, n_b b, n_c c)"""
        a, b, c, *angles = self.unit_cell.parameters()
        n = self.subdivide
        return uctbx.unit_cell((a * n[0], b * n[1], c * n[2], *angles))

    def supercell_symmetry(self) -> crystal.symmetry:
        """Crystal symmetry under which voxels are ordinary Miller indices for cctbx."""
        return crystal.symmetry(
            unit_cell=self.supercell(),
            space_group=self.laue_group,
            assert_is_compatible_unit_cell=False,
        )

    def to_asu(self, voxel: np.ndarray) -> np.ndarray:
        """Voxels (N, 3) -> symmetry-equivalent voxels in the asymmetric unit of cctbx (N, 3) int32"""
        return asymmetric_unit(self.laue_group).map(voxel)

    def multiplicity(self, voxel: np.ndarray) -> np.ndarray:
        """Number of symmetry-equivalent voxels (N,), each counted once"""
        indices = miller_index_column(voxel)
        return as_numpy(self.laue_group.multiplicity(indices, not self.friedel)).astype(np.int64)

    def contains(self, voxel: np.ndarray) -> np.ndarray:
        """(N,) bool: voxel centre within the resolution limits (not the index range), those on a limit
        included whatever the rounding"""
        inside = np.ones(len(voxel), dtype=bool)
        if self.d_min is None and self.d_max is None:
            return inside
        d = self.d_of_voxel(voxel)
        if self.d_min is not None:
            inside &= d >= self.d_min * (1 - ON_LIMIT)
        if self.d_max is not None:
            inside &= d <= self.d_max * (1 + ON_LIMIT)
        return inside


def attach_grid(experiments, grid: VoxelGrid) -> None:
    """Put the grid into the scaling model of every experiment (made where there is none)."""
    definition = grid.to_dict()
    for experiment in experiments:
        model = experiment.scaling_model
        if model is None or model.id_ != DiffuseScalingModel.id_:
            experiment.scaling_model = DiffuseScalingModel.unscaled(copy.deepcopy(definition))
        else:
            model.configdict["grid"] = copy.deepcopy(definition)


def grid_of(experiments: Sequence, any_cell: bool = False) -> VoxelGrid:
    """The grid that the experiments carry.

    Args:
        any_cell: the reference cells may differ, as those of stills extracted apart do (voxels
            are in each still's own cell); the first one's is taken

    Raises:
        ValueError: the scaling models are missing, or carry different grids.
    """
    definitions, keys = [], []
    for index, experiment in enumerate(experiments):
        model = experiment.scaling_model
        if model is None or "grid" not in getattr(model, "configdict", {}):
            raise ValueError(
                f"Experiment {index} carries no grid. Scaling models are lost when a file is saved by a "
                "DIALS without the dials_diffuse plugin, or by dials.combine_experiments. Give the JSON "
                "that the earlier command wrote (output.json) as a further input, or repeat that command"
            )
        definition = model.configdict["grid"]
        key = {
            name: value for name, value in definition.items() if name != "unit_cell" or not any_cell
        }
        if key not in keys:
            keys.append(key)
            definitions.append(definition)
    if not definitions:
        raise ValueError("There are no experiments in the input")
    if len(definitions) > 1:
        raise ValueError("The experiments carry different grids: extract and grid them together")
    return VoxelGrid.from_dict(definitions[0])
