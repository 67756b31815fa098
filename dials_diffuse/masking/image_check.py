"""Compare images with their masks: what Bragg scattering the masks leave."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from dials_diffuse.adapters.images import check_shape, read_raw, static_mask, trusted_bounds
from dials_diffuse.adapters.stills import Still, group_by_image, stills_of
from dials_diffuse.masking.bright.check import BrightGroups, bright_groups
from dials_diffuse.masking.bright.rings import N_RINGS, RingCache, add_profile
from dials_diffuse.masking.masker import RowMasker, trusted_pixels
from dials_diffuse.masking.spots.prediction import predict_spots
from dials_diffuse.masking.spots.sums import WIDEST, WIDEST_SIGMA
from dials_diffuse.masking.survey import spread_subset
from dials_diffuse.report.picture import image_with_masks

logger = logging.getLogger("dials.diffuse.masking.report")

# Bragg photons outside of the masks are looked for as many pixels from their edge
RIM = 2
# A larger part of them is warned of
MOST_SEEN = 0.02
# Panels that are listed and pictured one by one, at most
MANY_PANELS = 16


@dataclass
class ImageCheck:
    """An image compared with its mask.

    Attributes:
        path: of the image
        bragg: part of the trusted pixels that is under Bragg spots
        untrusted: number of good pixels outside of the trusted range
        before, after: bright groups of each panel without and with the Bragg mask
        seen_outside: what is seen on the rims of the masks above the rest of their rings, as a part of
            the Bragg photons under the masks. Thermal diffuse scattering that rises towards nodes counts
            too; nan without Bragg photons
        profiles: (2, N_RINGS) mean of each ring without and with the Bragg mask, ADU, nan where
            there are no pixels
        pictures: panel -> PNG
    """

    path: str
    bragg: float
    untrusted: int
    before: list[BrightGroups]
    after: list[BrightGroups]
    profiles: np.ndarray
    pictures: dict[int, bytes]
    seen_outside: float = np.nan


def rim_and_spots(values, trusted, bragg, ring) -> np.ndarray:
    """Scattering of a panel above the level of the rings, beside the masks and under them.

    The level of a ring is the mean of its trusted pixels further than RIM pixels from any mask; rings
    without such pixels don't count.

    Args:
        values, trusted, bragg, ring: (n_slow, n_fast) pixels, whether they can be used, whether they
            are masked, and their ring

    Returns:
        (2,) ADU: on the RIM pixels around masks, and under masks
    """
    rim = binary_dilation(bragg, iterations=RIM) & ~bragg
    total, number = np.zeros((2, N_RINGS))
    add_profile(values, trusted & ~bragg & ~rim, ring, total, number)
    excess = values - (total / np.maximum(number, 1))[ring]
    known = trusted & (number > 0)[ring]
    return np.array([excess[known & rim].sum(), excess[known & bragg].sum()])


def picture_size(n_panels: int) -> int:
    """Longest side of a picture of a panel, pixels."""
    return 1000 if n_panels == 1 else 400


def check_image(
    lattices: Sequence[Still], good, masker: RowMasker, cache: RingCache, pictures: bool
) -> ImageCheck:
    """Compare an image with its mask.

    Args:
        lattices: the stills on the image
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel
        masker: of the stills
        cache: of resolution rings
        pictures: draw the image with its mask

    Raises:
        ValueError: the image can't be read.
    """
    still = lattices[0]
    raw = read_raw(still.imageset, still.image_index)
    check_shape(raw, still)
    bragg = masker.bragg(lattices)
    rings = cache.get(still.detector, still.beam)
    nodes = [predict_spots(lattice, WIDEST, WIDEST_SIGMA, 0.0) for lattice in lattices]
    sums, numbers = np.zeros((2, 2, N_RINGS))
    check = ImageCheck(still.path, 0.0, 0, [], [], sums, {})
    n_trusted = n_masked = 0
    seen = np.zeros(2)
    for panel, values in enumerate(raw):
        trusted = trusted_pixels(values, good[panel], *trusted_bounds(still.detector[panel]))
        check.untrusted += int((good[panel] & ~trusted).sum())
        n_trusted += int(trusted.sum())
        n_masked += int((trusted & bragg[panel]).sum())
        seen += rim_and_spots(values, trusted, bragg[panel], rings[panel].number)
        centres = np.concatenate([rows.centre[rows.panel == panel] for rows in nodes])
        uses = trusted, trusted & ~bragg[panel]
        for step, (use, groups) in enumerate(zip(uses, (check.before, check.after))):
            add_profile(values, use, rings[panel].number, sums[step], numbers[step])
            groups.append(bright_groups(values, use, rings[panel].number, centres))
        if pictures and panel < MANY_PANELS:
            check.pictures[panel] = image_with_masks(
                values, ~trusted, bragg[panel], picture_size(len(raw))
            )
    check.bragg = n_masked / max(n_trusted, 1)
    check.seen_outside = float(seen[0] / seen[1]) if seen[1] > 0 else np.nan
    check.profiles = np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
    return check


def check_images(result, n_images: int, pictures: bool) -> list[ImageCheck]:
    """Compare some images, evenly spread over all, with their masks.

    Images that can't be read are left out and added to the failures of the result.

    Args:
        result: MaskResult
        n_images: how many
        pictures: draw the images with their masks
    """
    groups = group_by_image(stills_of(result.experiments))
    groups = [group for group in groups if group[0].path not in result.failures]
    masker, cache = RowMasker(result.reflections), RingCache()
    checks = []
    for group in spread_subset(groups, n_images) if n_images else []:
        try:
            good = static_mask(group[0].imageset) if result.own_masks else result.good
            checks.append(check_image(group, good, masker, cache, pictures))
        except ValueError as error:
            result.failures[group[0].path] = str(error)
            logger.warning("This image is not compared with its mask: %s", error)
    seen = [check.seen_outside for check in checks if np.isfinite(check.seen_outside)]
    if seen and np.median(seen) > MOST_SEEN:
        logger.warning(
            "%.2g %% of the Bragg photons are seen within %d pixels outside of the masks: spots reach "
            "further than they were measured to, or diffuse scattering rises towards the nodes. If the "
            "map has peaks at the nodes, use a larger bragg.n_sigma or bragg.padding",
            100 * np.median(seen),
            RIM,
        )
    return checks
