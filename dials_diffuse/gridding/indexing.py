"""The settings that a lattice can be indexed in, and reindexing to one of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import crystal, sgtbx
from cctbx.sgtbx import lattice_symmetry

from dials_diffuse.grid.reindexing import note_reindexing
from dials_diffuse.grid.voxel_grid import VoxelGrid

logger = logging.getLogger("dials.diffuse.gridding.indexing")


@dataclass(frozen=True)
class Setting:
    """One way to index the lattice.

    Attributes:
        operator: change of basis from the setting a still has
        matrix: (3, 3) int, indices h as columns become matrix @ h
    """

    operator: sgtbx.change_of_basis_op
    matrix: np.ndarray

    @property
    def name(self) -> str:
        """Such as k,h,-l"""
        return self.operator.as_hkl()


def possible_settings(
    grid: VoxelGrid, space_group: sgtbx.space_group, max_delta: float
) -> list[Setting]:
    """The settings that the lattice allows and that the Laue group does not make equivalent.

    They are the cosets of the Laue group in the symmetry of the lattice (Le Page 1982).

    Args:
        grid: its cell and Laue group
        space_group: of the crystals, for the centring
        max_delta: tolerance of the lattice symmetry, degrees

    Returns:
        the identity first; it alone where there is no ambiguity
    """
    symmetry = crystal.symmetry(
        grid.unit_cell, space_group=space_group, assert_is_compatible_unit_cell=False
    )
    to_minimum = symmetry.change_of_basis_op_to_minimum_cell()
    lattice = lattice_symmetry.group(
        symmetry.unit_cell().change_basis(to_minimum), max_delta=max_delta
    ).change_basis(to_minimum.inverse())
    laue_group = grid.laue_group.build_derived_laue_group()
    own = [m for m in map(index_matrix, laue_group.all_ops()) if m is not None]
    settings = [Setting(sgtbx.change_of_basis_op(), np.eye(3, dtype=np.int64))]
    taken = {matrix.tobytes() for matrix in own}
    for op in lattice.all_ops():
        if op.r().determinant() < 0:
            continue
        matrix = index_matrix(op)
        if matrix is None or matrix.tobytes() in taken:
            continue
        if not _fits_subdivision(matrix, grid):
            logger.warning(
                "The lattice can also be indexed as %s. This setting is not tried: n differs between the axes",
                sgtbx.change_of_basis_op(op).as_hkl(),
            )
            continue
        settings.append(Setting(sgtbx.change_of_basis_op(op), matrix))
        # equivalent ones: followed by an operator of the Laue group
        taken |= {np.ascontiguousarray(other @ matrix).tobytes() for other in own}
    return settings


def index_matrix(op: sgtbx.rt_mx) -> np.ndarray | None:
    """(3, 3) int matrix by which a symmetry operation acts on indices as columns; None if it is not whole."""
    rotation = np.array(op.r().inverse().as_double()).reshape(3, 3).T
    rounded = np.rint(rotation)
    if np.abs(rotation - rounded).max() > 1e-6:
        return None
    return np.ascontiguousarray(rounded, dtype=np.int64)


def _fits_subdivision(matrix: np.ndarray, grid: VoxelGrid) -> bool:
    n = np.array(grid.subdivide)
    return not np.any((matrix != 0) & (n[:, None] != n[None, :]))


def reindex_experiments(experiments, chosen: np.ndarray, settings: Sequence[Setting]) -> None:
    """Change the crystals of one file to the settings chosen, in place.

    The space group stays, because the symmetry of the data is the same in all settings. The scaling
    models keep the operators: integrated reflections stay in the setting that they have.

    Args:
        experiments: of the file
        chosen: (S,) number of the setting of each experiment
        settings: the possible ones
    """
    for experiment, number in zip(experiments, chosen):
        if number:
            space_group = experiment.crystal.get_space_group()
            experiment.crystal = experiment.crystal.change_basis(settings[number].operator)
            experiment.crystal.set_space_group(space_group)
            note_reindexing(experiment, settings[number].operator)


def reindex_rows(
    columns: dict[str, np.ndarray], chosen: np.ndarray, settings: Sequence[Setting]
) -> None:
    """Change the voxels of observations of one file to the settings chosen.

    Args:
        columns: with id and voxel; voxel is replaced
        chosen: (S,) number of the setting of each experiment
        settings: the possible ones
    """
    setting = np.asarray(chosen)[columns["id"]]
    if not np.any(setting):
        return
    voxel = columns["voxel"].astype(np.int64)
    for number in np.unique(setting[setting > 0]):
        rows = setting == number
        voxel[rows] = voxel[rows] @ settings[number].matrix.T
    columns["voxel"] = voxel.astype(np.int32)
