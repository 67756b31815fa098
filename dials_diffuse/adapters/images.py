"""Read images, masks and headers through dxtbx, in the same way on every version."""

from __future__ import annotations

import functools

import numpy as np

from dxtbx import flumpy
from dxtbx.model import Panel

from dials.array_family import flex

from dials_diffuse.adapters.stills import Still


def read_raw(imageset, index: int) -> list[np.ndarray]:
    """The pixels of one image, a (n_slow, n_fast) array a panel, int32 or float64 as
    the format gives them.

    Raises:
        ValueError: the image is missing, unreadable or truncated; the message names the file.
    """
    try:
        raw = imageset.get_raw_data(index)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"Can't read image {index + 1} of {imageset.get_path(index)}: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    # An imageset keeps its last image; with a still an imageset that would be all of them
    imageset.clear_cache()
    if not isinstance(raw, tuple):
        raw = (raw,)
    return [flumpy.to_numpy(panel) for panel in raw]


def panel_sizes(detector) -> list[tuple[int, int]]:
    """(n_slow, n_fast) of every panel."""
    return [tuple(reversed(panel.get_image_size())) for panel in detector]


def check_shape(raw, still: Still) -> None:
    """Check that an image has the panels of its detector model.

    Args:
        raw: an (n_slow, n_fast) array a panel

    Raises:
        ValueError: it has not.
    """
    sizes = panel_sizes(still.detector)
    if [pixels.shape for pixels in raw] != sizes:
        raise ValueError(
            f"{still.path} holds panels of {[pixels.shape[::-1] for pixels in raw][:2]} pixels, "
            f"the detector model has {[size[::-1] for size in sizes][:2]}"
        )


@functools.lru_cache(maxsize=None)
def _trusted_range_is_inclusive() -> bool:
    panel = Panel()
    panel.set_image_size((1, 1))
    panel.set_trusted_range((0, 1))
    pixel = flex.int(flex.grid(1, 1), 1)
    return bool(panel.get_trusted_range_mask(pixel)[0])


def trusted_bounds(panel) -> tuple[float, float]:
    """Smallest and largest trusted pixel value, both inclusive, in ADU.

    dxtbx changed the meaning of the trusted range from open to closed (version 3.12),
    and a file may have been written by the other kind than the one that reads it. A lower
    bound of -1 or 0 is how either kind says that counts begin at zero, so both
    give 0: to lose the empty pixels would bias every mean upwards, and to keep -1 (gaps)
    downwards. Other bounds mean what this dxtbx takes them for.

    Raises:
        ValueError: no value is trusted.
    """
    low, high = panel.get_trusted_range()
    if not _trusted_range_is_inclusive():
        low, high = np.nextafter(low, np.inf), np.nextafter(high, -np.inf)
    if -1 <= panel.get_trusted_range()[0] <= 0:
        low = 0.0
    if not low <= high:
        raise ValueError(
            f"The trusted range {panel.get_trusted_range()} of panel {panel.get_name()} is empty: "
            "correct it (dials.modify_geometry or dials.import panel.trusted_range=)"
        )
    return float(low), float(high)


def lower_trusted_range(detectors, limit: float | None) -> None:
    """Let the trusted range of all panels end at a limit (ADU) at most, in place; None: as it does."""
    for detector in detectors if limit is not None else ():
        for panel in detector:
            low, high = panel.get_trusted_range()
            if high > limit:
                panel.set_trusted_range((low, limit))


def static_mask(imageset) -> list[np.ndarray]:
    """Pixels usable in every image: lookup mask and untrusted rectangles of the panels,
    without the trusted range. One (n_slow, n_fast) bool array a panel, True = good.

    Raises:
        ValueError: the lookup mask does not have the shape of the detector.
    """
    masks = []
    for panel in imageset.get_detector():
        n_fast, n_slow = panel.get_image_size()
        mask = np.ones((n_slow, n_fast), dtype=bool)
        for x0, y0, x1, y1 in panel.get_mask():
            mask[y0:y1, x0:x1] = False
        masks.append(mask)
    lookup = imageset.external_lookup.mask.data
    if not lookup.empty():
        if lookup.n_tiles() != len(masks):
            raise ValueError(
                f"The lookup mask {imageset.external_lookup.mask.filename} has {lookup.n_tiles()} "
                f"panels, the detector {len(masks)}"
            )
        for number, mask in enumerate(masks):
            tile = flumpy.to_numpy(lookup.tile(number).data())
            if tile.shape != mask.shape:
                raise ValueError(
                    f"The lookup mask {imageset.external_lookup.mask.filename} has {tile.shape[::-1]} "
                    f"pixels on panel {number}, the detector {mask.shape[::-1]}"
                )
            mask &= tile
    return masks


def has_dynamic_mask(imageset) -> bool:
    """True if shadows move with the goniometer: then only imageset.get_mask(index) knows them."""
    return bool(imageset.has_dynamic_mask())


def _scan_exposure(scan, image: int = 0) -> float | None:
    """Of an image of the scan; where it is 0, that of the first."""
    if scan is None:
        return None
    if hasattr(scan, "has_property") and not scan.has_property("exposure_time"):
        return None
    times = scan.get_exposure_times()
    known = [times[i] for i in (image, 0) if i < len(times) and times[i] > 0]
    return float(known[0]) if known else None


def exposure_time(
    experiment, image_index: int = 0, override: float | None = None, scan_index: int = 0
) -> float:
    """Exposure time of an image in s: the parameter, else the scan, else the image header.

    Args:
        experiment: dxtbx experiment
        image_index: index in the experiment's imageset
        override: value of the parameter exposure_time
        scan_index: index of the image in the experiment's scan

    Raises:
        ValueError: none of the three knows it.
    """
    if override is not None:
        return float(override)
    found = _scan_exposure(experiment.scan, scan_index)
    if found is None:
        found = _header_exposure(experiment.imageset, image_index)
    if found is None:
        raise ValueError(
            "The exposure time is neither in the scan nor in the header of "
            f"{experiment.imageset.get_path(image_index)}: give exposure_time= in seconds "
            "(exposure_time=1 for relative units)"
        )
    return found


def _header_exposure(imageset, image_index: int) -> float | None:
    format_class = imageset.get_format_class()
    try:
        instance = format_class.get_instance(
            imageset.get_path(image_index), **imageset.data().get_params()
        )
    except Exception:
        return None
    for arguments in ((imageset.indices()[image_index],), ()):
        try:
            found = _scan_exposure(instance.get_scan(*arguments))
        except (TypeError, AttributeError, LookupError, ValueError, RuntimeError):
            continue
        if found is not None:
            return found
    return None


def transmission(beam) -> float:
    """Attenuator transmission of a beam (1 where the model has none)."""
    value = beam.get_transmission() if hasattr(beam, "get_transmission") else 1.0
    return float(value) if value > 0 else 1.0
