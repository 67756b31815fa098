"""Settings of the geometry: the corrections that apply, the sensor, and the gas before the detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class CorrectionSettings:
    """The factors of the acceptance that apply; a factor that does not is 1.

    Attributes:
        solid_angle, polarization, efficiency, air: whether Omega, P, QE and A apply
        lorentz: "none", "inverse_q" or "sin_two_theta", see corrections.lorentz_factor
    """

    scope: ClassVar[str] = "extract.corrections"
    solid_angle: bool
    polarization: bool
    efficiency: bool
    air: bool
    lorentz: str


@dataclass(frozen=True)
class SensorSettings:
    """The sensor of all panels, where the detector model is not to be used (None: it is).

    Attributes:
        material: element or compound
        thickness: mm
        mu: attenuation coefficient, 1/mm
    """

    scope: ClassVar[str] = "extract.sensor"
    material: str | None
    thickness: float | None
    mu: float | None


@dataclass(frozen=True)
class FlightPathSettings:
    """The gas between sample and detector.

    Attributes:
        medium: "air", "helium" or "vacuum"
        length: of the path that the medium fills, mm; the rest is air. None: all of the way
        pressure: hPa
        temperature: K
    """

    scope: ClassVar[str] = "extract.flight_path"
    medium: str
    length: float | None
    pressure: float
    temperature: float


@dataclass(frozen=True)
class GeometrySettings:
    """All that q and acceptance of a pixel depend on beside detector and beam.

    Attributes:
        probe: "auto" (that of the beam model), "xray", "electron" or "neutron"
    """

    scope: ClassVar[str] = "extract"
    probe: str
    corrections: CorrectionSettings
    sensor: SensorSettings
    flight_path: FlightPathSettings
