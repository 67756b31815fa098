"""Write maps as MTZ files, in which voxels are the Miller indices of a supercell."""

from __future__ import annotations

import os

import numpy as np

from cctbx import miller, sgtbx

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    bool_column,
    double_column,
    int_column,
    miller_index_column,
)
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.maps.merged_map import MergedMap

_COUNTS = {"n_obs": "NOBS", "n_stills": "NSTILLS"}
# Column of the map -> label and type in the file
_OTHERS = {
    "half_1": ("IHALF1", "J"),
    "half_2": ("IHALF2", "J"),
    "incoherent": ("INCOH", "J"),
    "masked_fraction": ("FMASKED", "R"),
}


def acentric_group(laue_group: sgtbx.space_group) -> sgtbx.space_group:
    """The rotations of a Laue group: a space group that a protein crystal can have.

    Programs that read MTZ files expect such a group; merged intensities have the same symmetry in both.
    """
    return laue_group.build_derived_acentric_group()


def _title(grid: VoxelGrid) -> str:
    """n and the true cell in the 70 characters of an MTZ title"""
    cell = ",".join(f"{p:.2f}" for p in grid.unit_cell.parameters())
    return f"Diffuse map n={','.join(map(str, grid.subdivide))} cell={cell}"[:70]


def write_mtz(path: str | os.PathLike, merged: MergedMap, full: bool = False) -> None:
    """Write a map as MTZ.

    Columns: H K L, IDIFF and SIGIDIFF (types J, Q), NOBS and NSTILLS (I), half-set intensities and
    the incoherent part (J), and the share of the exposure under the Bragg mask (FMASKED, R) where the map has them. Without Friedel's law h and -h have
    columns of their own. Cell and symmetry are those of the supercell; n and the true cell are in
    title and history.

    Args:
        path: file to write
        merged: the map
        full: space group P1, one of each Friedel pair; else the asymmetric unit

    Raises:
        ValueError: folder not writable.
    """
    grid, voxel, columns = merged.grid, merged.voxel, merged.columns
    group = acentric_group(grid.laue_group)
    if full:
        group = sgtbx.space_group()
        whole = merged.expanded()
        if grid.friedel:
            p1 = grid.replace(laue_group=group.build_derived_laue_group())
            whole = whole.select(np.all(p1.to_asu(whole.voxel) == whole.voxel, axis=1))
        voxel, columns = whole.voxel, whole.columns
    indices = miller_index_column(voxel)
    symmetry = grid.replace(laue_group=group).supercell_symmetry()

    def array(name, type_of_array, column=double_column):
        values = np.asarray(columns[name])
        finite = np.isfinite(values)
        part = indices.select(bool_column(finite))
        found = miller.array(
            miller.set(symmetry, part, anomalous_flag=not grid.friedel), data=column(values[finite])
        )
        return found.set_observation_type(type_of_array) if type_of_array else found

    intensity = miller.array(
        miller.set(symmetry, indices, anomalous_flag=not grid.friedel),
        data=double_column(columns["intensity"]),
        sigmas=double_column(columns["sigma"]),
    ).set_observation_type_xray_intensity()
    dataset = intensity.as_mtz_dataset(
        column_root_label="IDIFF",
        column_types="JQ",
        title=_title(grid),
        crystal_name="supercell",
        project_name="dials_diffuse",
        dataset_name="diffuse",
        wavelength=merged.wavelength,
    )
    for name, column_label in _COUNTS.items():
        if name in columns:
            dataset.add_miller_array(
                array(name, None, int_column), column_root_label=column_label, column_types="I"
            )
    for name, (column_label, column_type) in _OTHERS.items():
        if name in columns and np.isfinite(columns[name]).any():
            dataset.add_miller_array(
                array(name, None), column_root_label=column_label, column_types=column_type
            )
    mtz = dataset.mtz_object()
    mtz.add_history(flex.std_string(merged.describe()))
    with replacing(path) as temporary:
        mtz.write(temporary)
