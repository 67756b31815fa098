"""Pixels that are bad in every image: by lookup masks, and by parameters of the user."""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dxtbx.format.image import ImageBool

import dials.util.masking

from dials_diffuse.adapters.beams import beside_pixel_centres
from dials_diffuse.adapters.images import static_mask
from dials_diffuse.adapters.tables import mask_as_flex, mask_as_numpy
from dials_diffuse.io.atomic import replacing

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


def own_masks(imagesets) -> Iterator[tuple[object, list[np.ndarray]]]:
    """The lookup mask of each imageset with the untrusted rectangles of its panels.

    Where imagesets are open without their images, the mask file is read. A file is read once for imagesets
    that follow each other.

    Yields:
        (imageset, a (n_slow, n_fast) bool array a panel, True = good)

    Raises:
        ValueError: a lookup mask that can't be read, or has another shape than the detector.
    """
    known, masks = None, []
    for imageset in imagesets:
        lookup = imageset.external_lookup.mask
        if lookup.filename and lookup.data.empty():
            lookup.data = ImageBool(_read_mask(lookup.filename))
        rectangles = tuple(tuple(panel.get_mask()) for panel in imageset.get_detector())
        key = (lookup.filename, lookup.data.empty(), rectangles)
        if key != known or (not lookup.filename and not lookup.data.empty()):
            known, masks = key, static_mask(imageset)
        yield imageset, masks


def _read_mask(filename: str):
    try:
        with open(filename, "rb") as handle:
            return pickle.load(handle, encoding="bytes")
    except (OSError, ValueError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"Can't read the lookup mask {filename}: {error}") from error


def lookup_masks(imagesets) -> tuple[list[np.ndarray], bool]:
    """The pixels that are good in some image, by the imagesets' own lookup masks and the panels'
    untrusted rectangles.

    Returns:
        (a (n_slow, n_fast) bool array a panel, whether the masks of the imagesets differ)

    Raises:
        ValueError: a lookup mask has another shape than the detector.
    """
    some: list[np.ndarray] = []
    every: list[np.ndarray] = []
    for _, masks in own_masks(imagesets):
        some = [a | b for a, b in zip(some, masks)] if some else masks
        every = [a & b for a, b in zip(every, masks)] if every else masks
    differ = not all(np.array_equal(a, b) for a, b in zip(some, every))
    if differ:
        logger.info(
            "The lookup masks of the images differ: each image keeps its own (%d pixels are masked on some of them)",
            sum(int((a & ~b).sum()) for a, b in zip(some, every)),
        )
    return some, differ


def set_lookup_mask(imagesets, masks: list[np.ndarray], filename: str) -> tuple:
    """Make masks (True = good) the lookup mask of all imagesets.

    An imageset whose own lookup mask removes further pixels keeps them: it gets a file of its own, beside
    the other, which is written here. Imagesets with equal masks share it.

    Returns:
        the tuple of flex.bool that belongs in the file, as DIALS keeps masks
    """
    as_flex = tuple(mask_as_flex(mask) for mask in masks)
    images = {filename: ImageBool(as_flex)}
    for imageset, own in own_masks(imagesets):
        name = filename
        if any((mask & ~kept).any() for mask, kept in zip(masks, own)):
            both = [mask & kept for mask, kept in zip(masks, own)]
            name = _write_beside(filename, both)
            if name not in images:
                # One at a time: each may be of another image
                images = {filename: images[filename]}
                images[name] = ImageBool(tuple(mask_as_flex(mask) for mask in both))
        imageset.external_lookup.mask.data = images[name]
        imageset.external_lookup.mask.filename = name
    return as_flex


def _write_beside(filename: str, masks: list[np.ndarray]) -> str:
    """Write a mask as <name>_<digest of its content><suffix>, and return this name."""
    digest = hashlib.sha1(b"".join(np.packbits(mask).tobytes() for mask in masks)).hexdigest()
    path = Path(filename)
    path = path.with_name(f"{path.stem}_{digest[:12]}{path.suffix}")
    if not path.is_file():
        with replacing(path) as temporary, open(temporary, "wb") as handle:
            content = tuple(mask_as_flex(mask) for mask in masks)
            pickle.dump(content, handle, pickle.HIGHEST_PROTOCOL)
    return str(path)
