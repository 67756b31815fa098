"""Blocks: consecutive images of a sweep, added pixel by pixel before their pixels are binned.

Counts and exposures are additive, so that a block measures what its images do, but for the voxel of pixels at
its edges: all images take the orientation of the middle of their block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numba import njit

from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.sweeps import has_scan_points
from dials_diffuse.extraction.photons import PanelPixels
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.geometry.panel import PanelGeometry


def automatic_block(still: Still, subdivide: Sequence[int], d_min: float) -> int:
    """Images that keep the voxel index of every pixel right to half a voxel.

    From the middle of a block of N images of width w to its ends, the crystal turns by N w/2. The index n A^-1 q
    then changes by at most N w/2 |n A^-1 (e x q)| <= N w/2 |n a| / d_min on each axis, with e the axis
    of rotation and q perpendicular to it the worst case.

    Args:
        still: one of the images
        subdivide: voxels per reciprocal cell edge
        d_min: Angstrom, of the outermost pixels
    """
    rows = np.diag(subdivide) @ np.linalg.inv(still.setting_matrix())
    # of n A^-1 [e x] only what is perpendicular to the axis turns
    moved = np.linalg.norm(np.cross(rows, still.rotation_axis), axis=1).max() / d_min
    return max(1, int(1.0 / max(still.rotation_width * moved, 1e-9)))


def blocks_of(
    images: Sequence[list[Still]], settings: ExtractionSettings, d_min: float, single: bool = False
) -> list[list[list[Still]]]:
    """Divide images into blocks of consecutive ones.

    A block ends at gaps in the scan, and at the end of a sweep. Stills, images with several lattices, and sweeps with
    a moving beam are blocks of their own.

    Args:
        images: stills by image
        settings: block, subdivide; limits of a pixel's intensity make blocks of one image
        d_min: Angstrom, of the outermost pixels
        single: no block of several images

    Returns:
        the images of each block
    """
    limits = settings.min_intensity, settings.max_intensity
    single = single or limits != (None, None)
    blocks: list[list[list[Still]]] = []
    sizes: dict[int, int] = {}
    for image in images:
        still = image[0]
        last = blocks[-1][-1] if blocks else image
        if (
            single
            or len(image) > 1
            or len(last) > 1
            or not still.of_sweep
            or has_scan_points(still.experiment.beam)
            or last[0].key != (still.index, still.key[1] - 1)
        ):
            blocks.append([image])
            continue
        if still.index not in sizes:
            sizes[still.index] = settings.block or automatic_block(still, settings.subdivide, d_min)
        if len(blocks[-1]) < sizes[still.index]:
            blocks[-1].append(image)
        else:
            blocks.append([image])
    return blocks


def middle_of(stills: Sequence[Still]) -> Still:
    """A still in the middle of a block, which has the block's orientation."""
    if len(stills) == 1:
        return stills[0]
    middle = stills[len(stills) // 2]
    z = 0.5 * (stills[0].image_number + stills[-1].image_number)
    return dataclasses.replace(middle, array_index=z - 0.5)


@njit(cache=True)
def _add_image(raw, use, low, high, pedestal, seconds, total, time):
    """Add the usable pixels of an image to the sums of a block, in place."""
    for i in range(raw.shape[0]):
        for j in range(raw.shape[1]):
            # written so that NaN is not trusted
            if use[i, j] and raw[i, j] >= low and raw[i, j] <= high:
                total[i, j] += raw[i, j] - pedestal
                time[i, j] += seconds


class PanelBlock:
    """Sums over the images of a block, on one panel."""

    def __init__(self):
        self._total = self._time = self._bragg = None
        self._last: PanelPixels | None = None
        self._seconds = 0.0

    def add(self, pixels: PanelPixels, seconds: float) -> None:
        """Add an image: its own mask and trusted range say which of its pixels count.

        Args:
            pixels: of the panel
            seconds: exposure time
        """
        if self._total is None:
            self._total, self._time = np.zeros((2, *pixels.raw.shape))
            self._bragg = np.zeros(pixels.raw.shape, dtype=bool)
        low, high = pixels.trusted
        _add_image(
            pixels.raw,
            pixels.use,
            float(low),
            float(high),
            float(pixels.pedestal),
            float(seconds),
            self._total,
            self._time,
        )
        self._bragg |= pixels.bragg
        self._seconds += seconds
        self._last = pixels

    def result(self, geometry: PanelGeometry) -> tuple[PanelPixels, PanelGeometry]:
        """The pixels of the block as those of one image of all its exposure time.

        Pixels that some of the images do not have are exposed for less: their acceptance and background are
        smaller by the part of the time that they have. A pixel under a Bragg spot on one image is so in all.

        Raises:
            ValueError: no image was added.
        """
        pixels = self._last
        if pixels is None:
            raise ValueError("No image of the block can be used")
        use = self._time > 0
        background = pixels.background
        partial = use & (self._time != self._seconds)
        if partial.any():
            part = np.where(use, self._time / self._seconds, 1.0).astype(np.float32)
            geometry = PanelGeometry(geometry.planes, geometry.acceptance * part)
            powers = (1, 2, 1)
            background = tuple(
                None if plane is None else plane * part**power
                for plane, power in zip(background, powers)
            )
        summed = pixels._replace(
            raw=self._total,
            use=use,
            bragg=self._bragg,
            trusted=(-np.inf, np.inf),
            pedestal=0.0,
            background=background,
        )
        return summed, geometry
