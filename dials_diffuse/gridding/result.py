"""The result of dials.diffuse_grid."""

from __future__ import annotations

from dataclasses import dataclass

from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.gridding.ambiguity import Resolution
from dials_diffuse.gridding.coverage import CoverageRow, VoxelAccumulator
from dials_diffuse.gridding.definition import GridDefinition


@dataclass
class GriddingResult:
    """Observations on one grid.

    Attributes:
        definition: the grid and the experiments
        resolution: settings of the stills, None where there is no ambiguity
        grid: with the range of the voxels that were seen
        sums: by voxel of the asymmetric unit
        coverage: a row a shell
        models: copies of the scaling models, by experiment identifier
    """

    definition: GridDefinition
    resolution: Resolution | None
    grid: VoxelGrid
    sums: VoxelAccumulator
    coverage: list[CoverageRow]
    models: dict
