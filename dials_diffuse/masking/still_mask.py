"""The Bragg mask of a still, painted from the rows of diffuse_masked.refl."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_diffuse.adapters.images import panel_sizes, read_raw, static_mask, trusted_bounds
from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.spots.painting import BraggRows


class StillMasker:
    """Gives the Bragg mask of any still of a table; rows are sorted once, here.

    Args:
        reflections: table written by dials.diffuse_mask

    Raises:
        ValueError: the table has neither ellipses nor shoeboxes.
    """

    def __init__(self, reflections):
        self._rows = BraggRows(reflections)

    def bragg(self, stills: Sequence[Still]) -> list[np.ndarray]:
        """Pixels under Bragg spots of the stills (lattices) on one image.

        Returns:
            a (n_slow, n_fast) bool array a panel, True = under Bragg
        """
        return self._rows.paint([still.index for still in stills], panel_sizes(stills[0].detector))


def trusted_pixels(raw: np.ndarray, good: np.ndarray, low: float, high: float) -> np.ndarray:
    """The good pixels whose value is within [low, high], a new (n_slow, n_fast) bool array."""
    # Compared in double precision, whatever the type of the image
    bounds = np.array([[low], [high]])
    return good & (bounds[0] <= raw) & (raw <= bounds[1])


def complete_mask(
    stills: Sequence[Still], masker: StillMasker, raw=None, static=None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Good pixels and Bragg pixels of one image.

    Args:
        stills: all stills (lattices) on the image
        masker: of their table
        raw: pixels of the image, one array a panel; read when not given
        static: pixels good in every image; from the imageset when not given

    Returns:
        (good, bragg), a (n_slow, n_fast) bool array a panel each. good: usable and
        trusted; bragg: under a spot. Diffuse scattering is good & ~bragg.

    Raises:
        ValueError: unreadable image, or a lookup mask of another shape.
    """
    still = stills[0]
    raw = read_raw(still.imageset, still.image_index) if raw is None else raw
    static = static_mask(still.imageset) if static is None else static
    good = [
        trusted_pixels(pixels, mask, *trusted_bounds(panel))
        for pixels, mask, panel in zip(raw, static, still.detector)
    ]
    return good, masker.bragg(stills)
