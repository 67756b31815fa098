"""Crystals, orientations and doses of the stills: everything random about them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import numpy as np

from cctbx import uctbx
from dxtbx.model import Crystal, MosaicCrystalSauter2014
from scitbx import matrix

from dials_diffuse.simulation.settings import SimulationSettings
from dials_diffuse.simulation.truth import space_group_of

# Spawn keys of the independent random streams that all hang on settings.seed
TRUTH, WILSON, DETECTOR, STILL, NOISE, EMPTY = range(6)


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
        at_zero: of a rotation series, the crystal at the angle 0.
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
        start_angle, angle_width: degrees that the header tells: of a rotation
            series, else 0. The crystals are those in the middle of them.
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


def _about_x(angle: float):
    """Rotation by an angle in degrees about the lab's x axis, that of the goniometer."""
    return matrix.col((1, 0, 0)).axis_and_angle_as_r3_rotation_matrix(angle, deg=True)


def during_exposure(still: StillState, samples: int) -> list[Lattice]:
    """The crystals of a still at `samples` angles evenly spread over its rotation,
    each with its share of the scale: together they scatter as the crystals that turn."""
    if still.angle_width == 0 or samples == 1:
        return still.lattices
    moments = []
    for lattice in still.lattices:
        for sample in range(samples):
            turn = _about_x(still.angle_width * ((sample + 0.5) / samples - 0.5))
            crystal = copy.deepcopy(lattice.crystal)
            crystal.set_A(turn * matrix.sqr(crystal.get_A()))
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


def draw_stills(settings: SimulationSettings) -> list[StillState]:
    """The state of every still; each depends on the seed and its own number only,
    but for the scales' mean and the offsets' minimum.

    Raises:
        ValueError: settings that make no stills.
    """
    space_group = space_group_of(settings.crystal.space_group)
    first = [
        random_rotation(random_stream(settings.seed, STILL, 0, number))
        for number in range(settings.crystal.lattices)
    ]
    stills, drawn, offsets = [], [], []
    for index in range(settings.stills):
        generator = random_stream(settings.seed, STILL, 1, index)
        wavelength = settings.beam.wavelength * (
            1 + settings.beam.wavelength_jitter * generator.normal()
        )
        time = settings.exposure.time * np.exp(settings.exposure.time_spread * generator.normal())
        transmission = min(
            1.0,
            settings.exposure.transmission
            * np.exp(settings.exposure.transmission_spread * generator.normal()),
        )
        shift = settings.detector.distance_jitter * generator.normal()
        offsets.append(generator.uniform())
        still = StillState(index, float(wavelength), float(time), float(transmission), float(shift))
        if settings.crystal.orientation == "rotation":
            still.angle_width = settings.crystal.rotation_step
            still.start_angle = index * still.angle_width
        for number in range(settings.crystal.lattices):
            rotation = random_rotation(generator)
            if settings.crystal.orientation != "random":
                rotation = first[number]
            if settings.crystal.orientation == "rotation":
                turn = _about_x(still.start_angle + still.angle_width / 2)
                rotation = np.array(turn).reshape(3, 3) @ rotation
            cell = _cell(settings, space_group, generator)
            crystal = make_crystal(
                cell,
                space_group,
                rotation,
                settings.crystal.mosaicity,
                settings.crystal.domain_size,
            )
            still.lattices.append(Lattice(crystal, 1.0, len(drawn)))
            drawn.append(generator.normal())
            if settings.crystal.orientation == "rotation":
                still.lattices[-1].at_zero = make_crystal(
                    cell,
                    space_group,
                    first[number],
                    settings.crystal.mosaicity,
                    settings.crystal.domain_size,
                )
        stills.append(still)
    scales = _scales(settings, np.array(drawn))
    lowest, highest = min(offsets), max(offsets)
    for still, offset in zip(stills, offsets):
        if settings.scale.offset > 0 and highest > lowest:
            still.offset = (offset - lowest) / (highest - lowest)
        for lattice in still.lattices:
            lattice.scale = float(scales[lattice.experiment])
    return stills


def empty_stills(settings: SimulationSettings) -> list[StillState]:
    """The states of the empty shots."""
    time, transmission = settings.background.empty_time, settings.background.empty_transmission
    time = settings.exposure.time if time is None else time
    transmission = settings.exposure.transmission if transmission is None else transmission
    if time <= 0 or transmission <= 0:
        raise ValueError("background.empty_time and background.empty_transmission must be positive")
    return [
        StillState(index, settings.beam.wavelength, time, transmission)
        for index in range(settings.background.empty_shots)
    ]
