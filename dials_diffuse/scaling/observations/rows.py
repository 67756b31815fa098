"""Rows of gridded observations as the loops of scaling need them: 36 bytes each.

What an observation needs from the scaling model (bins of |q| and of the direction of s1, patch) is found once,
when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numba import njit

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.grid.expand import check_voxels, pack_voxel, pack_voxels
from dials_diffuse.scaling.observations.frames import (
    Bins,
    Frames,
    bins_at,
    direction_of,
    patches_of,
)

# net: counts less background, photons; exposure: s sr; background: photons;
# floor: variance that does not depend on the model, photons^2;
# still: among all pairs; row: in the table of its pair;
# voxel: number in a VoxelIndex; -1: a row that can't be used;
# radial, direction, panel, patch: bins of the scaling model
ROW = np.dtype(
    [
        ("net", "f4"),
        ("exposure", "f4"),
        ("background", "f4"),
        ("floor", "f4"),
        ("still", "u4"),
        ("row", "u4"),
        ("voxel", "i4"),
        ("radial", "u2"),
        ("direction", "u2"),
        ("panel", "u2"),
        ("patch", "u2"),
    ],
    align=True,
)

COLUMNS = (
    "id",
    "panel",
    "voxel",
    "asu_voxel",
    "xyzobs.px.value",
    "bragg",
    "num_pixels.valid",
    "counts",
    "background",
    "background.variance",
    "exposure",
)

# Rows of a table that are read at a time
CHUNK = 1 << 19


class Photons(NamedTuple):
    """Columns of a table, (N,) float each: photons, photons, photons^2, s sr."""

    counts: np.ndarray
    background: np.ndarray
    variance: np.ndarray
    exposure: np.ndarray


class Kinds(NamedTuple):
    """Columns of a table that tell what a row is: (N,) int64 each, voxels (N, 3) int32."""

    ids: np.ndarray
    panel: np.ndarray
    n_pixels: np.ndarray
    bragg: np.ndarray
    voxel: np.ndarray


@dataclass
class Part:
    """Rows of a part of a table.

    Attributes:
        rows: (n,) of ROW, usable ones or all
        voxels: (n,) packed voxel of each
        n_pixels: (n,)
        n_bragg, n_not_finite: rows under the Bragg mask, and with values that are not finite
        masked_voxels, masked_exposure: of the rows under the Bragg mask that have an exposure, packed and s sr
    """

    rows: np.ndarray
    voxels: np.ndarray
    n_pixels: np.ndarray
    n_bragg: int
    n_not_finite: int
    masked_voxels: np.ndarray
    masked_exposure: np.ndarray


def check_columns(columns: Mapping[str, np.ndarray]) -> None:
    """Check that a table holds gridded observations.

    Raises:
        ValueError: columns are missing.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if "asu_voxel" in missing:
        raise ValueError(
            "The observations are not on a grid yet (no column asu_voxel): run dials.diffuse_grid first"
        )
    if missing:
        raise ValueError(
            f"The table lacks the column {missing[0]}: it is not the output of dials.diffuse_grid"
        )


def parts_of_table(
    columns: Mapping[str, np.ndarray],
    frames: Frames,
    bins: Bins,
    readout_noise: float = 0.0,
    everything: bool = False,
    n_threads: int = 1,
) -> Iterator[Part]:
    """The rows of a table, part by part in their order.

    Args:
        columns: of gridded observations, name -> (N,) or (N, 3); `id` counts the experiments of frames
        frames: of the experiments of the table
        bins: of the scaling model
        readout_noise: per pixel, photons
        everything: all rows; False: usable ones, which are finite, exposed and not under the Bragg mask
        n_threads: that share the work

    Raises:
        ValueError: a panel that a detector does not have.
    """
    n = len(columns["id"])
    read = partial(_read_part, columns, frames, bins, patches_of(bins), readout_noise, everything)
    return map_in_threads(read, range(0, n, CHUNK), n_threads)


def _read_part(columns, frames, bins, patches, readout_noise, everything, first) -> Part:
    chunk = slice(first, first + CHUNK)

    def column(name: str, kind) -> np.ndarray:
        return np.ascontiguousarray(columns[name][chunk], dtype=kind)

    whole = (column(name, np.int64) for name in ("id", "panel", "num_pixels.valid", "bragg"))
    kinds = Kinds(*whole, column("asu_voxel", np.int32))
    check_voxels(kinds.voxel)
    names = ("counts", "background", "background.variance", "exposure")
    photons = Photons(*(column(name, float) for name in names))
    rows, voxels = np.zeros(len(kinds.ids), dtype=ROW), np.empty(len(kinds.ids), dtype=np.int64)
    places = column("xyzobs.px.value", float), frames, bins, patches
    n, n_bragg, n_not_finite, bad = _fill_rows(
        kinds, photons, *places, readout_noise**2, everything, rows, voxels
    )
    if bad >= 0:
        number, panel = kinds.ids[bad], kinds.panel[bad]
        n_panels = np.count_nonzero(np.isfinite(frames.panels[frames.number[number], :, 0]))
        raise ValueError(
            f"Experiment {number} has observations on panel {panel}, its detector has {n_panels} panels"
        )
    rows = rows[:n]
    n_pixels = kinds.n_pixels[rows["row"]]
    rows["row"] += np.uint32(first)
    masked = (kinds.bragg != 0) & (kinds.n_pixels > 0) & (photons.exposure > 0)
    masked &= np.isfinite(photons.exposure)
    masked = pack_voxels(kinds.voxel[masked]), photons.exposure[masked]
    return Part(rows, voxels[:n], n_pixels, n_bragg, n_not_finite, *masked)


@njit(cache=True, nogil=True)
def _fill_rows(
    kinds, photons, px, frames, bins, patches, readout_variance, everything, out, voxels
):
    """Fill out (N,) of ROW and packed voxels (N,); returns (rows filled, Bragg rows, not finite, row of a wrong panel or -1).

    Rows that can't be used are left out, or get voxel -1 if everything is asked for.
    """
    n = n_bragg = n_not_finite = 0
    last_still = last_panel = -1
    beam, of_panel = frames.beams[0], frames.panels[0, 0]
    for k in range(len(kinds.ids)):
        still, bragg = kinds.ids[k], kinds.bragg[k] != 0
        net = photons.counts[k] - photons.background[k]
        sums = net + photons.variance[k] + photons.exposure[k]
        finite = np.isfinite(sums) and np.isfinite(px[k, 0] + px[k, 1])
        n_bragg += bragg
        n_not_finite += not finite
        measured = still >= 0 and kinds.n_pixels[k] > 0 and finite
        measured = measured and photons.exposure[k] > 0 and photons.variance[k] >= 0
        usable = measured and not bragg
        if not (usable or everything):
            continue
        row = out[n]
        row.row = k
        row.voxel = 0 if usable or (bragg and finite) else -1
        voxels[n] = pack_voxel(kinds.voxel[k, 0], kinds.voxel[k, 1], kinds.voxel[k, 2])
        n += 1
        if still < 0:
            continue
        panel = kinds.panel[k]
        if still != last_still or panel != last_panel:
            if panel < 0 or panel >= frames.panels.shape[1]:
                return n, n_bragg, n_not_finite, k
            frame = frames.number[still]
            beam, of_panel = frames.beams[frame], frames.panels[frame, panel]
            if np.isnan(of_panel[0]):
                return n, n_bragg, n_not_finite, k
            last_still, last_panel = still, panel
        x, y = direction_of(beam, of_panel, px[k, 0], px[k, 1])
        _, radial, direction = bins_at(bins, beam[9], x, y)
        row.still, row.panel, row.radial = still, panel, radial
        row.direction, row.patch = direction, patches[direction]
        row.net, row.exposure = net, photons.exposure[k]
        row.background = photons.background[k]
        floor = max(photons.background[k], 0.0) + photons.variance[k]
        row.floor = floor + kinds.n_pixels[k] * readout_variance
    return n, n_bragg, n_not_finite, -1
