"""The pixels that are bad in every image, by the cause that removes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.pixels import static
from dials_diffuse.masking.pixels.dynamic import MIN_IMAGES, judge_pixels
from dials_diffuse.masking.pixels.shadow import find_shadows
from dials_diffuse.masking.pixels.sums import PixelSums

logger = logging.getLogger("dials.diffuse.masking")

# Name of a cause -> masks: a (n_slow, n_fast) bool array a panel, True = removed by it
Causes = dict[str, list[np.ndarray]]


def static_causes(imagesets, params) -> tuple[Causes, bool]:
    """The pixels that are bad in all images, without a look at them, and whether the images' own masks differ.

    Args:
        imagesets: of one detector
        params: with the parameters of dials.util.masking

    Raises:
        ValueError: the detectors differ, a lookup mask does not fit, or a parameter makes no sense.
    """
    static.check_same_panels(imagesets)
    lookup, differ = static.lookup_masks(imagesets)
    good = {
        "detector and lookup mask": lookup,
        "parameters": static.parameter_mask(imagesets[0], params),
    }
    return {cause: [~mask for mask in masks] for cause, masks in good.items()}, differ


def dynamic_causes(
    sums: PixelSums, good, detector, beam, params, stills: Sequence[Still] = ()
) -> Causes:
    """The faulty and the shadowed pixels, judged from sums over images.

    Args:
        sums: of a survey
        good: pixels that no other cause removes, a (n_slow, n_fast) bool array a panel
        detector, beam: dxtbx models
        params: extract of the scope dynamic of dials_diffuse.phil.mask
        stills: that were surveyed
    """
    causes: Causes = {}
    if params.enable:
        if sums.images < MIN_IMAGES:
            logger.info(
                "%d images are too few to find hot, cold and stuck pixels (%d are needed)",
                sums.images,
                MIN_IMAGES,
            )
        causes.update(judge_pixels(sums, params.fraction))
    if params.shadow:
        bad = {"known": [~mask for mask in good], **causes}
        clear = [~np.any(masks, axis=0) for masks in zip(*bad.values())]
        causes["shadow"] = find_shadows(sums, clear, detector, beam, stills)
    return causes


def remaining(causes: Causes) -> list[np.ndarray]:
    """The pixels that no cause removes, a (n_slow, n_fast) bool array a panel.

    Raises:
        ValueError: there are none.
    """
    good = [~np.any(masks, axis=0) for masks in zip(*causes.values())]
    if not any(mask.any() for mask in good):
        worst = max(causes, key=lambda cause: sum(mask.sum() for mask in causes[cause]))
        raise ValueError(
            f"The masks leave no pixel of the detector. Most are removed by: {worst}. "
            "Check the lookup mask, d_min, d_max, border, untrusted and dynamic"
        )
    return good
