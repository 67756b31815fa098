"""Find the values by which a detector marks overloads and gaps, where the trusted range takes them for counts.

Many pixels share such a value, and no count is above it. Counts thin out towards their largest one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from dials_diffuse.adapters.images import check_shape, read_raw, trusted_bounds
from dials_diffuse.adapters.stills import Still

logger = logging.getLogger("dials.diffuse.masking.overload")

# Images that are searched, at most
N_IMAGES = 8
# Counters have 8 bits or more: values below are counts (ADU)
LEAST_VALUE = 200
# A marker is on so many pixels at least, and on so many times more than an average value of the
# upper half of the counts
LEAST_PIXELS = 10
TIMES_MORE = 10
# Some detectors have one marker for gaps, one for faulty and one for overloaded pixels
MOST_MARKERS = 4


class TopValues:
    """The largest trusted values of some images.

    Args:
        good: pixels that are good in every image, a (n_slow, n_fast) bool array a panel
    """

    def __init__(self, good: Sequence[np.ndarray]):
        self._good = [mask.ravel() for mask in good]
        self._first = np.cumsum([0, *(mask.size for mask in good)])
        self._values: list[np.ndarray] = []
        self._places: list[np.ndarray] = []
        self._largest = 0.0

    def add(self, raw: Sequence[np.ndarray], bounds: Sequence[tuple[float, float]]) -> None:
        """Add an image.

        Args:
            raw: its pixels, a (n_slow, n_fast) array a panel
            bounds: smallest and largest trusted value of each panel
        """
        for number, (pixels, (low, high)) in enumerate(zip(raw, bounds)):
            values = pixels.ravel()
            counted = self._good[number] & (values >= max(low, LEAST_VALUE)) & (values <= high)
            places = np.flatnonzero(counted)
            values = values[places]
            self._largest = max(self._largest, float(values.max(initial=0)))
            # A marker below the largest one is found as well, as long as it is not below a tenth of it
            upper = values >= 0.05 * self._largest
            self._values.append(values[upper].astype(np.float64))
            self._places.append(places[upper] + self._first[number])

    def markers(self) -> list[float]:
        """The values that are no counts, the largest first."""
        values = np.concatenate([*self._values, np.empty(0)])
        places = np.concatenate([*self._places, np.empty(0, dtype=np.int64)])
        found: list[float] = []
        while len(values) and len(found) < MOST_MARKERS:
            top = values.max()
            at_top = values == top
            below = np.unique(values[(values >= 0.5 * top) & ~at_top], return_counts=True)[1]
            usual = below.mean() if len(below) else 0.0
            n_pixels = len(np.unique(places[at_top]))
            if n_pixels < LEAST_PIXELS or at_top.sum() < TIMES_MORE * usual:
                break
            found.append(float(top))
            values, places = values[~at_top], places[~at_top]
        return found


def trusted_limit(groups: Sequence[list[Still]], good: Sequence[np.ndarray]) -> float | None:
    """Where the trusted range must end, because larger values mark overloads and gaps.

    Some images, evenly spread, are read. Those that can't be read are left to the survey.

    Args:
        groups: stills by image
        good: pixels that are good in every image, a (n_slow, n_fast) bool array a panel

    Returns:
        ADU, half a count below the smallest marker; None where the trusted range is right
    """
    top = TopValues(good)
    chosen = np.unique(np.linspace(0, len(groups) - 1, min(len(groups), N_IMAGES)).astype(int))
    highest = 0.0
    for number in chosen:
        still = groups[number][0]
        try:
            raw = read_raw(still.imageset, still.image_index)
            check_shape(raw, still)
            bounds = [trusted_bounds(panel) for panel in still.detector]
        except ValueError:
            continue
        highest = max(highest, max(high for _, high in bounds))
        top.add(raw, bounds)
    markers = top.markers()
    if not markers:
        return None
    limit = min(markers) - 0.5
    logger.warning(
        "Warning: many pixels share the value %s at the top of the range: it marks overloads and gaps, and is no "
        "count. The trusted range of the detector model ends at %g, which is a mistake: it ends at %.10g from now on",
        " or ".join(f"{value:.10g}" for value in markers),
        highest,
        limit,
    )
    return limit
