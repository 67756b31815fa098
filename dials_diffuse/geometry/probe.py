"""What differs between X-rays, electrons and neutrons in the acceptance of a pixel."""

from __future__ import annotations

import logging
from typing import NamedTuple

from dials_diffuse.adapters.beams import ELECTRON, NEUTRON, XRAY, check_polarization, probe_of
from dials_diffuse.geometry.settings import GeometrySettings

logger = logging.getLogger("dials.diffuse.geometry")


class Probe(NamedTuple):
    """A kind of radiation.

    Attributes:
        name: for the log
        polarized: whether the polarisation of the beam shows in the scattering
        attenuated: whether the tables of X-ray attenuation hold, for sensor and gas
    """

    name: str
    polarized: bool
    attenuated: bool


# Words of dxtbx; those of the parameter probe are the same without the hyphen
_PROBES = {
    XRAY: Probe("X-rays", True, True),
    ELECTRON: Probe("electrons", False, False),
    NEUTRON: Probe("neutrons", False, False),
}
PROBE_NAMES = {"xray": XRAY, "electron": ELECTRON, "neutron": NEUTRON}


def probe_for(beam, settings: GeometrySettings) -> Probe:
    """The probe that the parameter names, else that of the beam.

    Raises:
        ValueError: a kind that is not known here.
    """
    name = PROBE_NAMES.get(settings.probe) or probe_of(beam)
    if name not in _PROBES:
        raise ValueError(f"The probe of the beam is {name!r}: give probe=xray, electron or neutron")
    return _PROBES[name]


def check_probes(beams, settings: GeometrySettings) -> None:
    """Check beams, and say what is not corrected for electrons and neutrons.

    Args:
        beams: dxtbx models of all stills
        settings: of the geometry

    Raises:
        ValueError: different probes, a polarisation that makes no sense, or an X-ray property of the
            sensor for another probe.
    """
    probes = [(beam, probe_for(beam, settings)) for beam in beams if beam is not None]
    different = sorted({probe.name for _, probe in probes})
    if len(different) > 1:
        raise ValueError(
            f"The stills were taken with {' and '.join(different)}: reduce them apart, or give probe="
        )
    if settings.corrections.polarization:
        check_polarization(beam.to_dict() for beam, probe in probes if probe.polarized)
    if all(probe.attenuated for _, probe in probes):
        return
    (name,) = different
    sensor = settings.sensor
    if sensor.material is not None:
        raise ValueError(
            f"sensor.material={sensor.material}: absorption is tabulated for X-rays, not for {name}: give "
            "sensor.mu= and sensor.thickness="
        )
    logger.info(
        "The beam is of %s: no polarisation factor and no absorption in the gas apply, and the quantum efficiency "
        "is %s",
        name,
        "1 (sensor.mu= and sensor.thickness= give another)"
        if sensor.mu is None
        else f"that of sensor.mu={sensor.mu:g}",
    )
