"""One map in any of the formats."""

from __future__ import annotations

import os

from dials_diffuse.io.maps.ccp4_file import write_ccp4
from dials_diffuse.io.maps.hkl_file import write_hkl
from dials_diffuse.io.maps.map_file import write_map
from dials_diffuse.io.maps.merged_map import MergedMap
from dials_diffuse.io.maps.mtz_file import write_mtz
from dials_diffuse.io.maps.npz_file import write_npz

# Formats that hold a list of voxels rather than a volume
_LISTS = ("mtz", "hkl")


def stem_of_content(
    stem: str, kind: str, anisotropic: bool = False, limited: bool = False, extent: str = "auto"
) -> str:
    """Name for an export, without suffix: that of the map, and what was changed of its content.

    So an export never takes the place of the map diffuse_merged.h5 or diffuse_absolute.h5 that its input
    came with, but for one of the same content.

    Args:
        stem: of the merged map
        kind: of the file: one of write_format, or png
        anisotropic: the isotropic part is removed
        limited: voxels beyond limits are left out
        extent: see write_format
    """
    changes = {
        "anisotropic": anisotropic,
        "limited": limited,
        "asymmetric": kind == "h5" and extent == "asymmetric",
    }
    return "_".join([stem, *(name for name, changed in changes.items() if changed)])


def write_format(
    kind: str,
    path: str | os.PathLike,
    merged: MergedMap,
    extent: str = "auto",
    column: str = "intensity",
) -> None:
    """Write a map.

    Args:
        kind: mtz, ccp4, h5, npz or hkl
        path: file to write
        merged: the map, not expanded
        extent: "full" for all symmetry-equivalent voxels, "asymmetric" for one of each, "auto" for
            asymmetric lists (mtz, hkl) and full volumes
        column: what a ccp4 map shows; the others hold all columns

    Raises:
        ValueError: unknown kind, no such column, folder not writable.
    """
    full = extent == "full" or (extent == "auto" and kind not in _LISTS)
    if kind == "mtz":
        write_mtz(path, merged, full)
    elif kind == "ccp4":
        write_ccp4(path, merged, column, full)
    elif kind == "h5":
        write_map(path, merged.voxel, merged.columns, merged.grid, merged.title, merged.units, full)
    elif kind == "npz":
        write_npz(path, merged, full)
    elif kind == "hkl":
        write_hkl(path, merged.expanded() if full else merged)
    else:
        raise ValueError(f"Unknown format {kind!r}: give mtz, ccp4, h5, npz or hkl")
