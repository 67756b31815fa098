"""Sums over images, pixel by pixel, from which faulty and shadowed pixels are found."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass
class PixelSums:
    """Sums over images, one (n_slow, n_fast) array a panel.

    Attributes:
        valid: images in which the pixel was trusted and not under Bragg
        high: of these, images in which it was above mean + 6 sigma of its ring
        near: images in which a node close to the sphere was predicted at the pixel
        negative, overloaded: images below and above the trusted range
        total: sum of the valid values; expected: of the ring means, ADU
        variance: sum of the rings' variances, ADU^2; all three are exact (see survey.EXACT), so that
            the order of the images makes no difference
        least, most: range of the valid values
        images: number of images
    """

    valid: list[np.ndarray]
    high: list[np.ndarray]
    near: list[np.ndarray]
    negative: list[np.ndarray]
    overloaded: list[np.ndarray]
    total: list[np.ndarray]
    expected: list[np.ndarray]
    variance: list[np.ndarray]
    least: list[np.ndarray]
    most: list[np.ndarray]
    images: int = 0

    @classmethod
    def empty(cls, sizes) -> PixelSums:
        """Nothing summed yet, for panels of (n_slow, n_fast)."""

        def arrays(dtype, value=0):
            return [np.full(size, value, dtype) for size in sizes]

        return cls(
            *(arrays(np.uint16) for _ in range(5)),
            *(arrays(np.float64) for _ in range(3)),
            arrays(np.float32, np.inf),
            arrays(np.float32, -np.inf),
        )

    def add(self, other: PixelSums) -> None:
        """Add the sums of other images, in place."""
        for field in fields(self):
            if field.name == "images":
                continue
            combine = {"least": np.minimum, "most": np.maximum}.get(field.name, np.add)
            for mine, theirs in zip(getattr(self, field.name), getattr(other, field.name)):
                combine(mine, theirs, out=mine)
        self.images += other.images
