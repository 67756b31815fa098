"""Beam models: what they say on every version of dxtbx, and whether it makes sense."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dxtbx.model import Beam

logger = logging.getLogger("dials.diffuse.beams")

XRAY, ELECTRON, NEUTRON = "x-ray", "electron", "neutron"
# X-rays below this (200 keV) are not used for diffraction, electrons are: 0.025 at 200 kV (Angstrom)
_SHORTEST_XRAYS = 0.06
# Larger tilts of the polarisation normal out of the plane across the beam are warned of, degrees
_TOLERATED_TILT = 1.0
# A normal this close to the beam (sine of the angle) has no direction across it
_PARALLEL = 1e-3


def _knows_probes() -> bool:
    """Whether dxtbx keeps the probe of a beam, and has polychromatic ones (from 3.17 on)"""
    return hasattr(Beam, "get_probe_name")


def probe_of(beam) -> str:
    """What the beam consists of: "x-ray", "electron" or "neutron".

    Where the model says X-rays, or this dxtbx does not know, wavelengths below 0.06 Angstrom are
    those of electrons.
    """
    return probe_of_dict(beam.to_dict())


def probe_of_dict(beam: dict) -> str:
    """As probe_of, of a model as a dictionary."""
    name = beam.get("probe", XRAY)
    return ELECTRON if name == XRAY and 0 < beam["wavelength"] < _SHORTEST_XRAYS else name


def set_probe(beam, name: str) -> None:
    """Change what the beam consists of, where dxtbx can keep it."""
    if _knows_probes():
        beam.set_probe(beam.get_probe_from_name(name))


def check_beams(beams: Iterable[dict], where) -> None:
    """Refuse beams without one wavelength.

    Args:
        beams: models as dictionaries (to_dict(), or those of a .expt file)
        where: name of the file, for the message

    Raises:
        ValueError: a polychromatic beam.
    """
    if any(beam.get("__id__") == "polychromatic" for beam in beams):
        raise ValueError(
            f"{where} has a polychromatic beam (Laue, time of flight): a pixel has no single q there. "
            "Give stills with one wavelength each"
        )


def check_beams_of_file(path) -> None:
    """Find in a .expt file what this dxtbx would lose when it reads the file.

    Raises:
        ValueError: a polychromatic beam.
    """
    if _knows_probes():
        return
    text = Path(path).read_text(errors="replace")
    check_beams(
        ({"__id__": name} for name in re.findall(r'"__id__"\s*:\s*"(poly\w+)"', text)), path
    )
    if re.search(r'"probe"\s*:\s*"neutron"', text):
        logger.warning(
            "%s has a neutron beam, and this version of DIALS takes it for X-rays: give probe=neutron "
            "to dials.diffuse_extract",
            path,
        )


def polarization_normal(beam) -> np.ndarray:
    """Unit vector of the polarisation normal, perpendicular to the beam, (3,).

    The electric field is perpendicular to the beam. A normal that is not is projected.

    Raises:
        ValueError: it is zero, or parallel to the beam.
    """
    normal, _ = _projected(beam.to_dict())
    return normal


def _projected(beam: dict) -> tuple[np.ndarray, float]:
    """Normal across the beam, and the degrees by which it was tilted."""
    normal = np.array(beam.get("polarization_normal", (0, 1, 0)), dtype=float)
    direction = np.array(beam["direction"], dtype=float)
    length = np.linalg.norm(normal)
    if not (np.isfinite(length) and length > 0):
        raise ValueError(f"The polarization normal of the beam is {_numbers(normal)}: {_CORRECT}")
    normal /= length
    direction /= np.linalg.norm(direction)
    along = float(normal @ direction)
    across = normal - along * direction
    size = np.linalg.norm(across)
    if size < _PARALLEL:
        raise ValueError(
            f"The polarization normal of the beam, {_numbers(normal)}, is parallel to the beam: {_CORRECT}"
        )
    return across / size, float(np.degrees(np.arctan2(abs(along), size)))


_CORRECT = (
    "correct it (dials.modify_geometry polarization_normal=0,1,0 polarization_fraction=0.99), or give "
    "corrections.polarization=False"
)


def _numbers(values) -> str:
    return ",".join(f"{value:g}" for value in values)


def check_polarization(beams: Iterable[dict]) -> None:
    """Check what beams say of their polarisation, and warn of normals that will be projected.

    Args:
        beams: models as dictionaries

    Raises:
        ValueError: a normal that is zero or parallel to the beam, or a fraction outside of 0 to 1.
    """
    largest = 0.0
    for beam in beams:
        fraction = beam.get("polarization_fraction", 0.999)
        if not 0 <= fraction <= 1:
            raise ValueError(
                f"The polarization fraction of the beam is {fraction:g}, not between 0 and 1: {_CORRECT}"
            )
        largest = max(largest, _projected(beam)[1])
    if largest > _TOLERATED_TILT:
        logger.warning(
            "Warning: the polarization normal is tilted towards the beam by up to %.1f degrees: its part "
            "perpendicular to the beam is used",
            largest,
        )


# A beam this close to the centre of a pixel (pixels) is moved away by as much: 1e-3 pixels change no mask
_CLOSE = 1e-3


class _Geometry(NamedTuple):
    """The models of an imageset, as far as dials.util.masking asks for them."""

    detector: object
    beam: object

    def get_detector(self):
        return self.detector

    def get_beam(self):
        return self.beam


def beside_pixel_centres(imageset):
    """The models of an imageset, with the beam beside the centre of the pixel that it hits.

    A pixel with q = 0 has no resolution: DIALS 3.12 fails where it is asked for one.

    Returns:
        an object with get_detector() and get_beam(), as dials.util.masking takes it
    """
    detector, beam = imageset.get_detector(), imageset.get_beam()
    for panel in detector:
        try:
            hit = np.array(panel.get_ray_intersection_px(beam.get_s0()))
        except RuntimeError:
            continue
        offset = hit - np.floor(hit) - 0.5
        if np.abs(offset).max() < _CLOSE:
            away = panel.get_pixel_lab_coord(tuple(hit + 2 * _CLOSE))
            beam = copy.deepcopy(beam)
            beam.set_unit_s0(tuple(np.array(away) / np.linalg.norm(away)))
            break
    return _Geometry(detector, beam)
