"""The background as planes of expected photons and their errors, one a panel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dials_diffuse.adapters.images import panel_sizes, transmission
from dials_diffuse.extraction.photons import BackgroundPlanes


@dataclass(frozen=True)
class Background:
    """Expected background photons of every pixel.

    Attributes:
        mean: a (n_slow, n_fast) float32 array a panel, photons per unit of dose
        spread: variance of what is each pixel's own error, or None
        shared: standard deviation of the error that neighbouring pixels share, or None
        per_dose: True: the dose is exposure time (s) times transmission of the still;
            False: the photons are those of any one image, the dose is 1
    """

    mean: list[np.ndarray]
    spread: list[np.ndarray] | None = None
    shared: list[np.ndarray] | None = None
    per_dose: bool = False

    def panel(self, number: int) -> BackgroundPlanes:
        """(mean, spread, shared) of one panel, None where there is no such plane"""
        return (
            self.mean[number],
            None if self.spread is None else self.spread[number],
            None if self.shared is None else self.shared[number],
        )

    def dose(self, seconds: float, beam) -> float:
        """Factor of the background of a still with this exposure time and beam."""
        return seconds * transmission(beam) if self.per_dose else 1.0

    def without_holes(self) -> tuple[Background, list[np.ndarray | None]]:
        """The same with 0 for the pixels whose background is not known (NaN).

        Returns:
            (background, the pixels where it is known: an (n_slow, n_fast) bool array a panel, None
            for all of them)
        """
        pixels: list[np.ndarray | None] = []
        for number in range(len(self.mean)):
            finite = np.logical_and.reduce(
                [np.isfinite(plane) for plane in self.panel(number) if plane is not None]
            )
            pixels.append(None if finite.all() else finite)

        def filled(planes: list[np.ndarray] | None) -> list[np.ndarray] | None:
            return planes and [
                plane if where is None else np.where(where, plane, np.float32(0))
                for plane, where in zip(planes, pixels)
            ]

        names = ("mean", "spread", "shared")
        return replace(self, **{name: filled(getattr(self, name)) for name in names}), pixels

    def check_shapes(self, detector, name: str) -> None:
        """Check that the detector's panels have the size of the background.

        Args:
            detector: of a still
            name: of the background, for the message

        Raises:
            ValueError: they have not.
        """
        sizes, shapes = panel_sizes(detector), [mean.shape for mean in self.mean]
        if len(sizes) != len(shapes):
            raise ValueError(
                f"The background {name} has {len(shapes)} panels, the detector {len(sizes)}"
            )
        for number, (size, shape) in enumerate(zip(sizes, shapes)):
            if size != shape:
                raise ValueError(
                    f"The background {name} has {shape[::-1]} pixels on panel {number}, the detector {size[::-1]}"
                )
