"""Settings of a simulation: one class for each scope of phil/simulate.py.

phil/simulate.py says what each of them is for, and holds the defaults. Lengths in reciprocal
space are in 1/Angstrom, |q| = 2 sin(theta) / wavelength.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

from dials_diffuse.adapters.parameters import settings_from


@dataclass(frozen=True)
class BeamSettings:
    """The incident beam: wavelength in Angstrom; jitter and bandwidth relative to it."""

    scope: ClassVar[str] = "simulate.beam"
    wavelength: float
    wavelength_jitter: float
    bandwidth: float
    polarization_fraction: float
    polarization_normal: tuple[float, float, float]


@dataclass(frozen=True)
class DetectorSettings:
    """The detector: lengths in mm, two_theta in degrees, readings in ADU, gain in ADU/photon."""

    scope: ClassVar[str] = "simulate.detector"
    type: str
    groups: tuple[int, int]
    distance: float
    distance_jitter: float
    pixel_size: float
    image_size: tuple[int, int]
    two_theta: float
    thickness: float
    parallax: bool
    gain: float
    pedestal: float
    readout_noise: float
    saturation: int


@dataclass(frozen=True)
class CrystalSettings:
    """The crystals in the beam: lengths in Angstrom, angles in degrees."""

    scope: ClassVar[str] = "simulate.crystal"
    unit_cell: tuple[float, ...]
    space_group: str
    orientation: str
    rotation_step: float
    rotation_samples: int
    drift: float
    cell_drift: float
    lattices: int
    cell_spread: float
    mosaicity: float
    domain_size: float


@dataclass(frozen=True)
class GoniometerSettings:
    """The goniometer: three numbers an axis, from the crystal outwards; angles in degrees."""

    scope: ClassVar[str] = "simulate.goniometer"
    axes: tuple[float, ...]
    angles: tuple[float, ...]
    scan_axis: int


@dataclass(frozen=True)
class ScanSettings:
    """The scan of a sweep: number of its first image, and where that starts, degrees."""

    scope: ClassVar[str] = "simulate.scan"
    first_image: int
    start_angle: float


@dataclass(frozen=True)
class TruthSettings:
    """The scattering of a unit cell besides its Bragg peaks.

    b_factor is in Angstrom^2, correlation_length in Angstrom, widths and positions in 1/Angstrom.
    """

    scope: ClassVar[str] = "simulate.truth"
    composition: str
    copies: float
    b_factor: float
    envelope: str
    width: float
    anisotropy: float
    terms: int
    correlation_length: float
    halo: float
    halo_width: float
    solvent: float
    solvent_position: float
    solvent_width: float
    compton: bool


@dataclass(frozen=True)
class BraggSettings:
    """The Bragg peaks: blur in pixels; extent and predict in standard deviations of a peak."""

    scope: ClassVar[str] = "simulate.bragg"
    enabled: bool
    intensities: str
    model: str | None
    uniform_b: bool
    scale: float
    blur: float
    extent: float
    predict: float
    strong: float
    partiality: str
    shoeboxes: bool


@dataclass(frozen=True)
class ScaleSettings:
    """Departures of a still from the mean still: a d (b I + c)."""

    scope: ClassVar[str] = "simulate.scale"
    spread: float
    values: tuple[float, ...] | None
    profile: str
    offset: float
    panel_spread: float
    sensitivity: float


@dataclass(frozen=True)
class ExposureSettings:
    """Dose of the stills: time in seconds, photons_per_electron2 in photons/(s sr)."""

    scope: ClassVar[str] = "simulate.exposure"
    mean_photons: float
    photons_per_electron2: float | None
    time: float
    time_spread: float
    transmission: float
    transmission_spread: float
    noise: bool


@dataclass(frozen=True)
class BackgroundSettings:
    """Scattering without a crystal: photons a pixel, air_width in 1/Angstrom, path in mm."""

    scope: ClassVar[str] = "simulate.background"
    air: float
    air_width: float
    flat: float
    angle_amplitude: float
    absorption: bool
    path: float | None
    empty_shots: int
    empty_step: float
    empty_time: float | None
    empty_transmission: float | None


@dataclass(frozen=True)
class DefectSettings:
    """Bad pixels and shadows of the detector: hot_counts in photons, lengths in mm."""

    scope: ClassVar[str] = "simulate.defects"
    hot: int
    dead: int
    negative: int
    hot_counts: float
    beam_stop: float
    beam_stop_arm: float


@dataclass(frozen=True)
class SimulationSettings:
    """All settings of a simulation; the result does not depend on nproc (None: all processors)."""

    scope: ClassVar[str] = "simulate"
    stills: int
    seed: int
    format: str
    nproc: int | None
    beam: BeamSettings
    detector: DetectorSettings
    crystal: CrystalSettings
    goniometer: GoniometerSettings
    scan: ScanSettings
    truth: TruthSettings
    bragg: BraggSettings
    scale: ScaleSettings
    exposure: ExposureSettings
    background: BackgroundSettings
    defects: DefectSettings

    def to_dict(self) -> dict:
        """Plain JSON, as truth.json holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> SimulationSettings:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a setting is missing.
        """

        def scope_of(values: dict) -> SimpleNamespace:
            return SimpleNamespace(
                **{k: scope_of(v) if isinstance(v, dict) else v for k, v in values.items()}
            )

        try:
            return settings_from(cls, scope_of(values))
        except AttributeError as error:
            raise ValueError(f"settings of a simulation are incomplete: {error}") from error
