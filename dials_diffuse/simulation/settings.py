"""What can be set in a simulation: one dataclass a subject, all with defaults.

The defaults make the demonstration set: 30 stills of random orientation of a
crystal of a small protein, five photons a pixel, Bragg spots on, all else ideal.
The names are those of the PHIL scope (`phil/simulate.py`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

# Bovine pancreatic trypsin inhibitor, hydrogens included, as atoms of one molecule
TRYPSIN_INHIBITOR = "C 284 H 432 N 84 O 79 S 7"


@dataclass
class BeamSettings:
    """The incident beam.

    Attributes:
        wavelength: mean wavelength, Angstrom.
        wavelength_jitter: relative standard deviation from still to still.
        bandwidth: relative standard deviation of the wavelength within a still.
        polarization_fraction: part of the beam with its electric field in the
            plane normal to `polarization_normal`.
        polarization_normal: normal of the plane of polarization, lab frame.
    """

    wavelength: float = 1.0
    wavelength_jitter: float = 0.0
    bandwidth: float = 0.0
    polarization_fraction: float = 0.99
    polarization_normal: tuple[float, float, float] = (0.0, 1.0, 0.0)


@dataclass
class DetectorSettings:
    """The detector.

    Attributes:
        type: "single" (one panel normal to the beam), "tilted" (groups of
            panels, each group and each panel tilted) or "pilatus_6m".
        groups: of "tilted": number of groups and of panels in each.
        distance: sample to detector, mm.
        distance_jitter: standard deviation of the distance from still to still, mm.
        pixel_size: mm.
        image_size: fast, slow pixels of the whole detector ("tilted": of all
            panels together, without the gaps).
        two_theta: swing of the whole detector about the lab's x axis, degrees.
        thickness: of the silicon sensor, mm; 0 for an ideal sensor (no
            parallax, all photons counted).
        parallax: let the sensor's thickness displace the image.
        gain: ADU per photon.
        pedestal: ADU at no photon.
        readout_noise: standard deviation of a pixel's reading, ADU.
        saturation: highest trusted reading, ADU.
    """

    type: str = "single"
    groups: tuple[int, int] = (2, 2)
    distance: float = 200.0
    distance_jitter: float = 0.0
    pixel_size: float = 0.4
    image_size: tuple[int, int] = (300, 300)
    two_theta: float = 0.0
    thickness: float = 0.45
    parallax: bool = True
    gain: float = 1.0
    pedestal: float = 0.0
    readout_noise: float = 0.0
    saturation: int = 1000000


@dataclass
class CrystalSettings:
    """The crystals in the beam.

    Attributes:
        unit_cell: Angstrom and degrees.
        space_group: symbol.
        orientation: "random" (each still its own), "fixed" (all the same) or
            "rotation" (one orientation turned by `rotation_step` about x).
        rotation_step: degrees per still.
        rotation_samples: number of angles that stand for that rotation while an image
            is exposed; 1: the crystal stands still in the middle of it.
        lattices: number of crystals in the beam on every image.
        cell_spread: relative standard deviation of the cell lengths from still to still.
        mosaicity: full width at half maximum of the orientations' spread, degrees.
        domain_size: Angstrom.
    """

    unit_cell: tuple[float, ...] = (57.9, 57.9, 38.1, 90.0, 90.0, 90.0)
    space_group: str = "P 43 21 2"
    orientation: str = "random"
    rotation_step: float = 0.5
    rotation_samples: int = 1
    lattices: int = 1
    cell_spread: float = 0.0
    mosaicity: float = 0.1
    domain_size: float = 1000.0


@dataclass
class TruthSettings:
    """The scattering of a unit cell besides its Bragg peaks, electrons^2.

    Attributes:
        composition: elements and numbers of atoms, as "C 613 N 193", or "model":
            all atoms that `bragg.model` puts into the unit cell.
        copies: how many times that composition is in the unit cell (not for "model").
        b_factor: B of all atoms, Angstrom^2; sets how the scattering is
            shared between Bragg peaks and diffuse scattering.
        envelope: "debye_waller", sum f^2 (1 - exp(-B q^2 / 2)); "gaussian",
            sum f(0)^2 exp(-q^2 / 2 width^2); "constant", sum f(0)^2.
        width: of the gaussian envelope, 1/Angstrom.
        anisotropy: standard deviation of the diffuse intensity about its
            shell mean, relative to it; 0 for none.
        terms: number of random waves that make the anisotropic part.
        correlation_length: longest of the displacements that the waves
            belong to, Angstrom. Short means smooth in reciprocal space.
        halo: height of a halo around each Bragg node, relative to the envelope.
        halo_width: its standard deviation, 1/Angstrom.
        solvent: height of the isotropic solvent ring, relative to sum f^2 at its place.
        solvent_position: 1/Angstrom.
        solvent_width: 1/Angstrom.
        compton: include incoherent scattering.
    """

    composition: str = TRYPSIN_INHIBITOR
    copies: float = 8.0
    b_factor: float = 20.0
    envelope: str = "debye_waller"
    width: float = 0.3
    anisotropy: float = 0.4
    terms: int = 20
    correlation_length: float = 14.0
    halo: float = 0.0
    halo_width: float = 0.006
    solvent: float = 0.2
    solvent_position: float = 0.31
    solvent_width: float = 0.05
    compton: bool = True


@dataclass
class BraggSettings:
    """The Bragg peaks.

    Attributes:
        enabled: draw them.
        intensities: "wilson" (random, mean sum f^2 exp(-B q^2 / 2)) or "model"
            (|F|^2 of `model`).
        model: PDB or mmCIF file; its cell and space group must be the crystal's.
        uniform_b: give all atoms of the model `truth.b_factor`, so that Bragg and
            diffuse scattering add up to sum f^2 at high q.
        scale: multiplies all |F|^2.
        blur: standard deviation, in pixels, by which spots are wider on the
            detector for the size of crystal and beam and the point spread.
        extent: peaks are drawn out to this many standard deviations.
        predict: reflections within this many standard deviations of the Ewald
            sphere go into the reflection table.
        strong: reflections with I/sigma above this are flagged strong and indexed.
        partiality: "excitation" (height of the peak's profile at the Ewald
            sphere, 1 on the node) or "ones" (as dials.stills_process writes).
        shoeboxes: save them.
    """

    enabled: bool = True
    intensities: str = "wilson"
    model: str | None = None
    uniform_b: bool = True
    scale: float = 1.0
    blur: float = 0.5
    extent: float = 5.0
    predict: float = 2.5
    strong: float = 5.0
    partiality: str = "ones"
    shoeboxes: bool = False


@dataclass
class ScaleSettings:
    """Departures of a still from the mean still: a d (b I + c).

    Attributes:
        spread: standard deviation of ln b; b is divided by its mean.
        values: b of every experiment, instead of random ones.
        profile: "random", or "bell" (b follows a crystal through the beam).
        offset: largest c(|q|) of a still, relative to the mean intensity at
            its place; 0 for none. The smallest of all stills is 0.
        panel_spread: standard deviation of ln d.
        sensitivity: standard deviation of ln a over the detector.
    """

    spread: float = 0.3
    values: list[float] | None = None
    profile: str = "random"
    offset: float = 0.0
    panel_spread: float = 0.0
    sensitivity: float = 0.0


@dataclass
class ExposureSettings:
    """Dose of the stills.

    Attributes:
        mean_photons: crystal's expected photons a pixel, Bragg peaks not
            counted, mean over the detector and the orientations, at b = 1,
            `time` and `transmission`.
        photons_per_electron2: instead of mean_photons: photons/(s sr) that
            one electron^2 per unit cell gives at b = 1.
        time: exposure time, s.
        time_spread: standard deviation of ln(time) from still to still.
        transmission: of the attenuator.
        transmission_spread: standard deviation of ln(transmission).
        noise: Poisson noise; without it images hold the expected photons, rounded.
    """

    mean_photons: float = 5.0
    photons_per_electron2: float | None = None
    time: float = 0.1
    time_spread: float = 0.0
    transmission: float = 1.0
    transmission_spread: float = 0.0
    noise: bool = True


@dataclass
class BackgroundSettings:
    """What is there without a crystal.

    Attributes:
        air: photons a pixel of scattering by air, mean over the detector.
        air_width: standard deviation of its gaussian profile, 1/Angstrom.
        flat: photons a pixel, the same in every pixel.
        absorption: attenuate by air between sample and detector.
        path: length of that air, mm; None for all of the way.
        empty_shots: number of images without crystal (background.expt).
        empty_time: exposure time of an empty shot, s; None for that of the stills.
        empty_transmission: transmission of an empty shot; None for that of the stills.
    """

    air: float = 0.0
    air_width: float = 0.12
    flat: float = 0.0
    absorption: bool = True
    path: float | None = None
    empty_shots: int = 0
    empty_time: float | None = None
    empty_transmission: float | None = None


@dataclass
class DefectSettings:
    """What is wrong with the detector.

    Attributes:
        hot, dead, negative: number of such pixels (hot: about `hot_counts`
            photons whatever the exposure; dead: 0; negative: -2).
        hot_counts: photons.
        beam_stop: radius of its shadow on the detector, mm; 0 for none.
        beam_stop_arm: width of the arm that holds it, mm; 0 for none.
    """

    hot: int = 0
    dead: int = 0
    negative: int = 0
    hot_counts: float = 300.0
    beam_stop: float = 0.0
    beam_stop_arm: float = 0.0


@dataclass
class Settings:
    """All of a simulation.

    Attributes:
        stills: number of images.
        seed: of everything random.
        format: "cbf" (miniCBF, one file an image), "nexus" (NXmx) or "auto":
            cbf for one panel, nexus for several.
        nproc: processes, None for one a processor; the result does not depend on it.
    """

    stills: int = 30
    seed: int = 20
    format: str = "auto"
    nproc: int | None = 1
    beam: BeamSettings = field(default_factory=BeamSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    crystal: CrystalSettings = field(default_factory=CrystalSettings)
    truth: TruthSettings = field(default_factory=TruthSettings)
    bragg: BraggSettings = field(default_factory=BraggSettings)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    exposure: ExposureSettings = field(default_factory=ExposureSettings)
    background: BackgroundSettings = field(default_factory=BackgroundSettings)
    defects: DefectSettings = field(default_factory=DefectSettings)

    def to_dict(self) -> dict:
        """Plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Settings:
        """The inverse of `to_dict`; keys that are missing keep their defaults.

        Raises:
            ValueError: a name is not a setting.
        """
        settings = cls()
        _fill(settings, values, "")
        return settings


def _fill(target, values: dict, where: str) -> None:
    for name, value in values.items():
        if not hasattr(target, name):
            raise ValueError(f"{where}{name} is not a setting of the simulation")
        current = getattr(target, name)
        if dataclasses.is_dataclass(current):
            _fill(current, value, f"{where}{name}.")
        else:
            setattr(target, name, tuple(value) if isinstance(current, tuple) else value)


def settings_from_params(params) -> Settings:
    """Settings from extracted PHIL parameters, which have the same names."""
    import libtbx

    def fill(target, scope) -> None:
        for item in dataclasses.fields(target):
            value = getattr(scope, item.name)
            current = getattr(target, item.name)
            if dataclasses.is_dataclass(current):
                fill(current, value)
            elif item.name == "nproc":
                # None is all processors
                target.nproc = None if value is libtbx.Auto else value
            else:
                setattr(target, item.name, tuple(value) if isinstance(current, tuple) else value)

    settings = Settings()
    fill(settings, params)
    return settings
