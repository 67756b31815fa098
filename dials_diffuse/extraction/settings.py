"""Settings of dials.diffuse_extract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dials_diffuse.geometry.settings import GeometrySettings


@dataclass(frozen=True)
class ExtractionSettings(GeometrySettings):
    """Settings of an extraction, those of its geometry included.

    Attributes:
        subdivide: voxels per reciprocal cell edge
        d_min, d_max: resolution limits of pixels, Angstrom; None or 0 for none
        pixel_step: take every n-th pixel in fast and slow
        block: images of a sweep that are added before binning, None: as many as voxels allow
        exposure_time: s, None: that of scan or image header
        gain: ADU per photon, pedestal: ADU; None: those of panel or imageset
        min_intensity, max_intensity: limits of a pixel's intensity, photons/(s sr)
        background: name of the background, see load_background; None for none
        background_smoothing: see average_of_empty_shots
        background_exposure_time: s, None: that of the empty shots
    """

    scope: ClassVar[str] = "extract"
    subdivide: tuple[int, int, int]
    d_min: float | None
    d_max: float | None
    pixel_step: int
    block: int | None
    exposure_time: float | None
    gain: float | None
    pedestal: float | None
    min_intensity: float | None
    max_intensity: float | None
    background: str | None
    background_smoothing: str
    background_exposure_time: float | None

    def check(self) -> None:
        """Raises ValueError where a value makes no sense."""
        for name, unit in (("gain", "ADU per photon"), ("exposure_time", "seconds")):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be a positive number of {unit}")
        if self.d_min and self.d_max and self.d_min >= self.d_max:
            raise ValueError(f"d_min={self.d_min} must be smaller than d_max={self.d_max}")
