"""Corrected intensities pixel by pixel, for those who want more than the sums."""

from __future__ import annotations

import numpy as np

from dials_diffuse.io.pixel_file import CorrectedDiffusePixelList


def corrected_pixels(
    raw: np.ndarray,
    use: np.ndarray,
    trusted: tuple[float, float],
    geometry,
    panel: int,
    exposure_time: float,
    background: tuple = (None, None, None),
    dose: float = 1.0,
    gain: float = 1.0,
    pedestal: float = 0.0,
    intensity: tuple[float, float] = (-np.inf, np.inf),
) -> CorrectedDiffusePixelList:
    """Pixels of one panel as intensities.

    I = (photons - B)/(t E), sigma^2 = (photons + var(B))/(t E)^2: correction factors are
    taken as exact.

    Args:
        raw: (n_slow, n_fast) ADU
        use: (n_slow, n_fast) bool, pixels wanted
        trusted: smallest and largest value that counts, ADU
        geometry: PanelGeometry
        panel: its number
        exposure_time: t, s
        background: (mean, spread, shared) in photons per unit of dose, see VoxelSums.add_panel
        dose: what the background is multiplied by
        gain, pedestal: ADU per photon, ADU
        intensity: limits, photons/(s sr)
    """
    with np.errstate(invalid="ignore"):
        slow, fast = np.nonzero(use & (raw >= trusted[0]) & (raw <= trusted[1]))
    photons = (raw[slow, fast] - pedestal) / gain
    exposure = exposure_time * geometry.efficiency[slow, fast].astype(np.float64)
    expected = variance = 0.0
    mean, spread, shared = background
    if mean is not None:
        expected = dose * mean[slow, fast].astype(np.float64)
    if spread is not None:
        variance = variance + dose**2 * spread[slow, fast].astype(np.float64)
    if shared is not None:
        variance = variance + (dose * shared[slow, fast].astype(np.float64)) ** 2
    value = (photons - expected) / exposure
    sigma = np.sqrt(np.maximum(photons, 0) + variance) / exposure
    inside = (value >= intensity[0]) & (value <= intensity[1])
    slow, fast = slow[inside], fast[inside]
    return CorrectedDiffusePixelList(
        q=np.ascontiguousarray(geometry.planes[:, slow, fast].T),
        intensity=value[inside].astype(np.float32),
        sigma=sigma[inside].astype(np.float32),
        panel=np.full(len(slow), panel, dtype=np.uint16),
        fast=fast.astype(np.uint16),
        slow=slow.astype(np.uint16),
    )
