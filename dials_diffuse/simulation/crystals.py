"""Crystals, orientations and doses of the stills: everything random about them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import numpy as np

from cctbx import uctbx
from dxtbx.model import Crystal, MosaicCrystalSauter2014

from dials_diffuse.simulation.instrument.goniometers import (
    lab_axis,
    make_goniometer,
    rotation,
    turned,
)
from dials_diffuse.simulation.settings import SimulationSettings
from dials_diffuse.simulation.truth import space_group_of

# Spawn keys of the independent random streams that all hang on settings.seed
TRUTH, WILSON, DETECTOR, STILL, NOISE, EMPTY = range(6)
# About which the crystal of a sweep leans over, in its own frame at the goniometer's angles 0
LEAN_AXIS = (0.3, 0.5, 0.8)


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for each purpose and still, whatever runs before it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@dataclass
class Lattice:
    """One crystal on one image: one experiment.

    Attributes:
        crystal: dxtbx crystal.
        scale: b of this experiment.
        experiment: index of the experiment.
        at_zero: of a sweep, the crystal at the goniometer's angles 0 while this image is exposed.
    """

    crystal: object
    scale: float
    experiment: int
    at_zero: object | None = None

    @property
    def setting(self) -> np.ndarray:
        """A matrix (3, 3), 1/Angstrom."""
        return np.array(self.crystal.get_A()).reshape(3, 3)


@dataclass
class StillState:
    """All that is particular to one image.

    Attributes:
        index: of the image, from 0.
        wavelength: Angstrom.
        exposure_time: s.
        transmission: of the attenuator.
        shift: of the detector, mm further from the source.
        offset: amplitude of c(|q|), 0 to 1.
        start_angle, angle_width: degrees that the header tells: of a sweep, else 0. The crystals
            are those in the middle of them.
        axis: (3,) that the crystal turns about, lab frame.
        background: factor of the scattering without a crystal.
        lattices: the crystals in the beam; none on an empty shot.
    """

    index: int
    wavelength: float
    exposure_time: float
    transmission: float
    shift: float = 0.0
    offset: float = 0.0
    start_angle: float = 0.0
    angle_width: float = 0.0
    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)
    background: float = 1.0
    lattices: list[Lattice] = field(default_factory=list)


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """A rotation matrix, all orientations equally probable (unit quaternion with
    normal components; G. Marsaglia, Ann. Math. Stat. 43 (1972) 645)."""
    w, x, y, z = (q := generator.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def during_exposure(still: StillState, samples: int) -> list[Lattice]:
    """The crystals of a still at `samples` angles evenly spread over its rotation,
    each with its share of the scale: together they scatter as the crystals that turn."""
    if still.angle_width == 0 or samples == 1:
        return still.lattices
    moments = []
    for lattice in still.lattices:
        for sample in range(samples):
            turn = rotation(still.axis, still.angle_width * ((sample + 0.5) / samples - 0.5))
            crystal = copy.deepcopy(lattice.crystal)
            crystal.set_A((turn @ lattice.setting).ravel())
            moments.append(replace(lattice, crystal=crystal, scale=lattice.scale / samples))
    return moments


def make_crystal(
    unit_cell, space_group, rotation: np.ndarray, mosaicity: float, domain_size: float
):
    """A dxtbx crystal as dials.stills_process leaves it (mosaicity and domain size set)."""
    direct = np.array(unit_cell.orthogonalization_matrix()).reshape(3, 3)
    a, b, c = (tuple(rotation @ direct[:, i]) for i in range(3))
    crystal = MosaicCrystalSauter2014(Crystal(a, b, c, space_group))
    crystal.set_half_mosaicity_deg(mosaicity / 2)
    crystal.set_domain_size_ang(domain_size)
    return crystal


def _cell(settings: SimulationSettings, space_group, generator: np.random.Generator):
    parameters = np.array(settings.crystal.unit_cell, dtype=float)
    factors = 1 + settings.crystal.cell_spread * generator.normal(size=3)
    if settings.crystal.cell_spread == 0:
        return uctbx.unit_cell(tuple(parameters))
    parameters[:3] *= factors
    return space_group.average_unit_cell(uctbx.unit_cell(tuple(parameters)))


def _scales(settings: SimulationSettings, drawn: np.ndarray) -> np.ndarray:
    n = len(drawn)
    if settings.scale.values is not None:
        values = np.array(settings.scale.values, dtype=float)
        if len(values) != n or np.any(values < 0) or not np.any(values > 0):
            raise ValueError(
                f"scale.values holds {len(values)} numbers: {n} that are not negative, nor all 0, are needed, one a lattice and still"
            )
        return values
    values = np.exp(settings.scale.spread * drawn)
    if settings.scale.profile == "bell":
        position = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1)
        values = values * np.exp(-((position / 0.6) ** 2))
    return values / values.mean()


@dataclass
class _Turning:
    """How the crystals of a sweep move.

    Attributes:
        goniometer: dxtbx model.
        settings: of the simulation.
    """

    goniometer: object
    settings: SimulationSettings

    def at_zero(self, part: float, u: np.ndarray, cell, space_group):
        """The crystal at the goniometer's angle 0, when this part of the sweep is over.

        Args:
            part: 0 at the start of the first image, 1 at the end of the last.
            u: (3, 3) orientation at the start.
        """
        crystal = self.settings.crystal
        lean = rotation(LEAN_AXIS, crystal.drift * np.sin(np.pi * part))
        grown = np.array(cell.parameters())
        grown[:3] *= 1 + crystal.cell_drift * part
        return make_crystal(
            uctbx.unit_cell(tuple(grown)),
            space_group,
            lean @ u,
            crystal.mosaicity,
            crystal.domain_size,
        )

    def place(self, still: StillState, index: int, step: float) -> None:
        """Set angles, axis and background of image `index`, which turns by `step` degrees."""
        still.start_angle = self.settings.scan.start_angle + index * step
        still.angle_width = step
        still.axis = tuple(float(x) for x in lab_axis(self.goniometer))
        middle = np.radians(still.start_angle + step / 2)
        still.background = float(1 + self.settings.background.angle_amplitude * np.cos(middle))

    def lattice(self, still: StillState, u: np.ndarray, cell, space_group, number: int) -> Lattice:
        """The crystal in the middle of an image."""
        part = (still.index + 0.5) / self.settings.stills
        at_zero = self.at_zero(part, u, cell, space_group)
        crystal = copy.deepcopy(at_zero)
        turn = turned(self.goniometer, still.start_angle + still.angle_width / 2)
        crystal.set_A((turn @ np.array(at_zero.get_A()).reshape(3, 3)).ravel())
        return Lattice(crystal, 1.0, number, at_zero)


def _dose(settings: SimulationSettings, generator: np.random.Generator) -> tuple[float, ...]:
    """Wavelength, exposure time, transmission and shift of a still."""
    exposure = settings.exposure
    wavelength = settings.beam.wavelength * (
        1 + settings.beam.wavelength_jitter * generator.normal()
    )
    time = exposure.time * np.exp(exposure.time_spread * generator.normal())
    spread = np.exp(exposure.transmission_spread * generator.normal())
    transmission = min(1.0, exposure.transmission * spread)
    shift = settings.detector.distance_jitter * generator.normal()
    return float(wavelength), float(time), float(transmission), float(shift)


def first_orientations(settings: SimulationSettings) -> list[np.ndarray]:
    """U (3, 3) of each lattice at the start, where it does not change at random."""
    return [
        random_rotation(random_stream(settings.seed, STILL, 0, number))
        for number in range(settings.crystal.lattices)
    ]


def draw_stills(settings: SimulationSettings) -> list[StillState]:
    """The state of every still; each depends on the seed and its own number only,
    but for the scales' mean and the offsets' minimum.

    Raises:
        ValueError: settings that make no stills.
    """
    space_group = space_group_of(settings.crystal.space_group)
    first = first_orientations(settings)
    turning = None
    if settings.crystal.orientation == "rotation":
        turning = _Turning(make_goniometer(settings.goniometer), settings)
        if settings.crystal.cell_spread > 0:
            raise ValueError("crystal.cell_spread is for stills: a sweep has crystal.cell_drift")
    stills, drawn, offsets = [], [], []
    for index in range(settings.stills):
        generator = random_stream(settings.seed, STILL, 1, index)
        dose = _dose(settings, generator)
        offsets.append(generator.uniform())
        still = StillState(index, *dose)
        if turning is not None:
            turning.place(still, index, settings.crystal.rotation_step)
        for number in range(settings.crystal.lattices):
            u = random_rotation(generator)
            if settings.crystal.orientation != "random":
                u = first[number]
            cell = _cell(settings, space_group, generator)
            if turning is not None:
                lattice = turning.lattice(still, u, cell, space_group, len(drawn))
            else:
                widths = settings.crystal.mosaicity, settings.crystal.domain_size
                crystal = make_crystal(cell, space_group, u, *widths)
                lattice = Lattice(crystal, 1.0, len(drawn))
            still.lattices.append(lattice)
            drawn.append(generator.normal())
        stills.append(still)
    scales = _scales(settings, np.array(drawn))
    lowest, highest = min(offsets), max(offsets)
    for still, offset in zip(stills, offsets):
        if settings.scale.offset > 0 and highest > lowest:
            still.offset = (offset - lowest) / (highest - lowest)
        for lattice in still.lattices:
            lattice.scale = float(scales[lattice.experiment])
    return stills


def crystals_at_scan_points(settings: SimulationSettings, number: int) -> list:
    """The crystal of lattice `number` at the start of each image and the end of the last, at the goniometer's
    angles 0; one alone where it does not change."""
    space_group = space_group_of(settings.crystal.space_group)
    turning = _Turning(make_goniometer(settings.goniometer), settings)
    cell = uctbx.unit_cell(settings.crystal.unit_cell)
    u = first_orientations(settings)[number]
    changes = settings.crystal.drift != 0 or settings.crystal.cell_drift != 0
    points = np.arange(settings.stills + 1) if changes else np.zeros(1)
    return [turning.at_zero(point / settings.stills, u, cell, space_group) for point in points]


def empty_stills(settings: SimulationSettings) -> list[StillState]:
    """The states of the empty shots."""
    time, transmission = settings.background.empty_time, settings.background.empty_transmission
    time = settings.exposure.time if time is None else time
    transmission = settings.exposure.transmission if transmission is None else transmission
    if time <= 0 or transmission <= 0:
        raise ValueError("background.empty_time and background.empty_transmission must be positive")
    stills = [
        StillState(index, settings.beam.wavelength, time, transmission)
        for index in range(settings.background.empty_shots)
    ]
    if settings.background.empty_step > 0:
        turning = _Turning(make_goniometer(settings.goniometer), settings)
        for index, still in enumerate(stills):
            turning.place(still, index, settings.background.empty_step)
    return stills
