"""Pixels that are bad in every image: by lookup masks, and by parameters of the user."""

from __future__ import annotations

import logging

import numpy as np

from dxtbx.format.image import ImageBool

import dials.util.masking

from dials_diffuse.adapters.beams import beside_pixel_centres
from dials_diffuse.adapters.images import static_mask
from dials_diffuse.adapters.tables import mask_as_flex, mask_as_numpy

logger = logging.getLogger("dials.diffuse.masking.static")


def check_same_panels(imagesets) -> None:
    """Raises:
    ValueError: the detectors differ in the number or size of panels, so that no mask fits all.
    """
    sizes = [[p.get_image_size() for p in s.get_detector()] for s in imagesets]
    for number, size in enumerate(sizes):
        if size != sizes[0]:
            raise ValueError(
                f"The detectors of {imagesets[0].get_path(0)} and {imagesets[number].get_path(0)} "
                "differ in their panels: mask and reduce them separately"
            )


def check_mask_parameters(params, detector) -> None:
    """Validate the parameters of dials.util.masking, whose own checks are assertions.

    Raises:
        ValueError: names the parameter.
    """
    if None not in (params.d_min, params.d_max) and params.d_min >= params.d_max:
        raise ValueError(f"d_min={params.d_min} must be smaller than d_max={params.d_max}")
    if params.border < 0:
        raise ValueError(f"border={params.border} must not be negative")
    smallest = min(min(panel.get_image_size()) for panel in detector)
    if 2 * params.border >= smallest:
        raise ValueError(f"border={params.border} leaves nothing of a panel of {smallest} pixels")
    for d_range in params.resolution_range:
        if d_range is not None and d_range[0] == d_range[1]:
            raise ValueError(f"resolution_range={d_range[0]},{d_range[1]} is empty")
    for region in params.untrusted:
        if region.panel is not None and not 0 <= region.panel < len(detector):
            raise ValueError(
                f"untrusted.panel={region.panel}: the panels are numbered 0 to {len(detector) - 1}"
            )
        if region.polygon is not None and (len(region.polygon) % 2 or len(region.polygon) < 6):
            raise ValueError(
                "untrusted.polygon needs pairs of coordinates, three corners at least: "
                f"{len(region.polygon)} numbers were given"
            )
        if region.pixel is not None:
            n_fast, n_slow = detector[region.panel or 0].get_image_size()
            if region.pixel[0] >= n_slow or region.pixel[1] >= n_fast:
                raise ValueError(f"untrusted.pixel={region.pixel} is not on the panel")


def parameter_mask(imageset, params) -> list[np.ndarray]:
    """The mask by the parameters of dials.util.masking, a (n_slow, n_fast) array a panel, True = good.

    Raises:
        ValueError: parameters that make no sense.
    """
    # An extract of the bare scope holds one region without any value
    names = ("panel", "circle", "rectangle", "polygon", "pixel")
    params.untrusted = [
        region
        for region in params.untrusted
        if any(getattr(region, name) is not None for name in names)
    ]
    check_mask_parameters(params, imageset.get_detector())
    masks = dials.util.masking.generate_mask(beside_pixel_centres(imageset), params)
    return [mask_as_numpy(mask) for mask in masks]


def lookup_masks(imagesets) -> list[np.ndarray]:
    """Good pixels by the imagesets' own lookup masks and the panels' untrusted
    rectangles; masks that differ between imagesets are combined.

    Raises:
        ValueError: a lookup mask has another shape than the detector.
    """
    combined, seen, seen_rectangles = None, set(), set()
    for imageset in imagesets:
        lookup = imageset.external_lookup.mask
        key = (lookup.filename, lookup.data.empty())
        # Nothing new: a file that was seen, or nothing besides rectangles that were
        rectangles = tuple(tuple(panel.get_mask()) for panel in imageset.get_detector())
        if key in seen and (
            lookup.filename or (lookup.data.empty() and rectangles in seen_rectangles)
        ):
            continue
        seen.add(key)
        seen_rectangles.add(rectangles)
        masks = static_mask(imageset)
        if combined is None:
            combined = masks
        else:
            combined = [a & b for a, b in zip(combined, masks)]
    if len(seen) > 1:
        logger.info("%d different lookup masks were combined", len(seen))
    return combined


def set_lookup_mask(imagesets, masks: list[np.ndarray], filename: str) -> tuple:
    """Make masks (True = good) the lookup mask of all imagesets.

    Returns:
        the tuple of flex.bool that belongs in the file, as DIALS keeps masks
    """
    as_flex = tuple(mask_as_flex(mask) for mask in masks)
    image = ImageBool(as_flex)
    for imageset in imagesets:
        imageset.external_lookup.mask.data = image
        imageset.external_lookup.mask.filename = filename
    return as_flex
