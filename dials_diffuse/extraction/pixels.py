"""Corrected intensities pixel by pixel, beside the sums by voxel."""

from __future__ import annotations

import numpy as np

from dials_diffuse.extraction.photons import PanelPixels
from dials_diffuse.geometry.panel import PanelGeometry
from dials_diffuse.io.pixel_file import CorrectedDiffusePixelList


def corrected_pixels(
    number: int, pixels: PanelPixels, geometry: PanelGeometry, exposure_time: float, dose: float
) -> CorrectedDiffusePixelList:
    """The diffuse pixels of one panel as intensities.

    I = (photons - B)/(t E), sigma^2 = (photons + var(B))/(t E)^2: correction factors are
    taken as exact.

    Args:
        number: of the panel
        pixels: of the panel; those under Bragg spots are left out
        geometry: of the panel
        exposure_time: t, s
        dose: factor of the background
    """
    raw = pixels.raw
    with np.errstate(invalid="ignore"):
        trusted = (raw >= pixels.trusted[0]) & (raw <= pixels.trusted[1])
    slow, fast = np.nonzero(pixels.use & ~pixels.bragg & trusted)
    photons = (raw[slow, fast] - pixels.pedestal) / pixels.gain
    exposure = exposure_time * geometry.acceptance[slow, fast].astype(np.float64)
    mean, spread, shared = (
        0.0 if plane is None else plane[slow, fast].astype(np.float64)
        for plane in pixels.background
    )
    value = (photons - dose * mean) / exposure
    variance = dose**2 * spread + (dose * shared) ** 2
    sigma = np.sqrt(np.maximum(photons, 0) + variance) / exposure
    low, high = (limit / exposure_time for limit in pixels.intensity)
    inside = (value >= low) & (value <= high)
    slow, fast = slow[inside], fast[inside]
    return CorrectedDiffusePixelList(
        q=np.ascontiguousarray(geometry.planes[:, slow, fast].T),
        intensity=value[inside].astype(np.float32),
        sigma=sigma[inside].astype(np.float32),
        panel=np.full(len(slow), number, dtype=np.uint16),
        fast=fast.astype(np.uint16),
        slow=slow.astype(np.uint16),
    )
