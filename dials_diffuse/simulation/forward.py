"""The forward model: expected photons of every pixel, and images drawn from them.

    photons = t T ( E a d ( b (I(h) + S(|q|) + C(|q|) + Bragg) + c(|q|) ) K + B )

t exposure time (s), T transmission, E = solid angle (sr) * polarization *
efficiency * air, a and d sensitivity of place and panel, b and c of the still, I
diffuse, S solvent, C Compton scattering and Bragg peaks in electrons^2 per unit
cell, K photons/(s sr) that one electron^2 gives, B background (photons/s).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from dials_diffuse.simulation import atoms, bragg, crystals
from dials_diffuse.simulation.crystals import StillState, random_stream
from dials_diffuse.simulation.instrument.detectors import make_beam, make_detector, moved_along_beam
from dials_diffuse.simulation.instrument.pixels import PanelPixels, panel_pixels, rays_to_pixels
from dials_diffuse.simulation.settings import SimulationSettings, TruthSettings
from dials_diffuse.simulation.truth import DiffuseTruth

# Pixels of a panel that its mean dose is taken from, at least
DOSE_PIXELS = 200000

COMPONENTS = ("diffuse", "isotropic", "compton", "bragg", "offset", "background")


@dataclass
class Peaks:
    """Bragg peaks of one lattice that touch the Ewald sphere and hit the detector.

    Attributes:
        hkl: (N, 3).
        g: (N, 3) nodes, lab frame, 1/Angstrom.
        excitation: (N,) distance from the sphere along s1, 1/Angstrom.
        sigma: (N,) standard deviation of the peak in that direction.
        along, across: (N,) standard deviations along g and across it.
        intensity: (N,) |F|^2, electrons^2.
        panel: (N,).
        pixel: (N, 2) fast, slow, pixels.
        millimetre: (N, 2).
        s1: (N, 3) with the length of s0.
        pixels_per_q: (N,) largest number of pixels that 1/Angstrom covers.
    """

    hkl: np.ndarray
    g: np.ndarray
    excitation: np.ndarray
    sigma: np.ndarray
    along: np.ndarray
    across: np.ndarray
    intensity: np.ndarray
    panel: np.ndarray
    pixel: np.ndarray
    millimetre: np.ndarray
    s1: np.ndarray
    pixels_per_q: np.ndarray


class Simulator:
    """Evaluates stills; everything that all stills share is made once.

    Args:
        settings: of the simulation.

    Attributes:
        truth: the scattering of the unit cell.
        detector, beam: dxtbx models of the mean still.
        stills: state of every still.
        empties: state of every empty shot.
        photons_per_electron2: K, photons/(s sr) per electron^2 and unit cell.
        panel_gains: d, (panels,), mean ln d = 0.

    Raises:
        ValueError: settings that contradict each other.
    """

    def __init__(self, settings: SimulationSettings):
        self.settings = settings
        self.truth = DiffuseTruth(
            settings.crystal.unit_cell,
            settings.crystal.space_group,
            self._truth_settings(),
            settings.seed,
        )
        self.beam = make_beam(
            settings.beam, settings.beam.wavelength, settings.exposure.transmission
        )
        self.detector = make_detector(settings.detector, settings.beam.wavelength)
        self.stills = crystals.draw_stills(settings)
        self.empties = crystals.empty_stills(settings)
        self._pixels = [panel_pixels(panel, self.beam) for panel in self.detector]
        self.d_min = 0.97 * min(
            panel.get_max_resolution_at_corners(self.beam.get_s0()) for panel in self.detector
        )
        generator = random_stream(settings.seed, crystals.DETECTOR, 0)
        gains = generator.normal(size=len(self.detector)) * settings.scale.panel_spread
        self.panel_gains = np.exp(gains - gains.mean())
        self._draw_sensitivity(generator)
        self._draw_defects(random_stream(settings.seed, crystals.DETECTOR, 1))
        self.structure_factors = self._structure_factors() if settings.bragg.enabled else None
        self._set_dose()

    # What all stills share

    def _truth_settings(self) -> TruthSettings:
        """Those of the settings, with the model's composition if that is asked for."""
        settings = self.settings
        if settings.truth.composition.strip().lower() != "model":
            return settings.truth
        if not settings.bragg.model:
            raise ValueError("truth.composition=model needs bragg.model=, a PDB or mmCIF file")
        text = bragg.model_composition(bragg.read_structure(settings.bragg.model))
        return dataclasses.replace(settings.truth, composition=text, copies=1.0)

    def _structure_factors(self):
        settings = self.settings
        if settings.bragg.intensities == "wilson":
            seed = np.random.SeedSequence(settings.seed, spawn_key=(crystals.WILSON,))
            return bragg.wilson_intensities(self.truth, self.d_min, seed)
        if not settings.bragg.model:
            raise ValueError("bragg.intensities=model needs bragg.model=, a PDB or mmCIF file")
        b_factor = settings.truth.b_factor if settings.bragg.uniform_b else None
        return bragg.model_intensities(settings.bragg.model, self.truth, self.d_min, b_factor)

    def _draw_sensitivity(self, generator: np.random.Generator) -> None:
        """ln a: a few long waves in the components of s1 across the beam."""
        waves = generator.normal(size=(6, 2)) * 3.0
        phases = generator.uniform(0, 2 * np.pi, 6)
        self._sensitivity_waves = (waves, phases)
        if self.settings.scale.sensitivity == 0:
            return
        raw = [self._raw_sensitivity(pixels.directions) for pixels in self._pixels]
        all_values = np.concatenate([values.ravel() for values in raw])
        self._sensitivity_mean = all_values.mean()
        self._sensitivity_sigma = all_values.std()

    def _raw_sensitivity(self, directions: np.ndarray) -> np.ndarray:
        # the beam is along -z: x and y are the components of s1 across it
        waves, phases = self._sensitivity_waves
        total = np.zeros(directions.shape[:-1])
        for wave, phase in zip(waves, phases):
            total += np.cos(directions[..., 0] * wave[0] + directions[..., 1] * wave[1] + phase)
        return total

    def sensitivity(self, directions: np.ndarray) -> np.ndarray:
        """a of unit vectors (..., 3) towards pixels; mean ln a over the pixels is 0."""
        if self.settings.scale.sensitivity == 0:
            return np.ones(directions.shape[:-1])
        raw = self._raw_sensitivity(directions)
        standard = (raw - self._sensitivity_mean) / self._sensitivity_sigma
        return np.exp(self.settings.scale.sensitivity * standard)

    def _draw_defects(self, generator: np.random.Generator) -> None:
        defects = self.settings.defects
        sizes = [pixels.distance.size for pixels in self._pixels]
        wanted = defects.hot + defects.dead + defects.negative
        if wanted > sum(sizes):
            raise ValueError("defects: more bad pixels than pixels")
        chosen = generator.choice(sum(sizes), size=wanted, replace=False)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        kinds = {
            "hot": chosen[: defects.hot],
            "dead": chosen[defects.hot : defects.hot + defects.dead],
            "negative": chosen[defects.hot + defects.dead :],
        }
        self.defects: dict[str, list[np.ndarray]] = {}
        for kind, flat in kinds.items():
            self.defects[kind] = []
            for number, pixels in enumerate(self._pixels):
                here = flat[(flat >= starts[number]) & (flat < starts[number + 1])]
                mask = np.zeros(sizes[number], dtype=bool)
                mask[here - starts[number]] = True
                self.defects[kind].append(mask.reshape(pixels.shape))
        self.defects["shadow"] = [self._shadow(pixels) for pixels in self._pixels]

    def _shadow(self, pixels: PanelPixels) -> np.ndarray:
        defects = self.settings.defects
        position = pixels.directions * pixels.distance[..., None]
        shadow = np.zeros(pixels.shape, dtype=bool)
        if defects.beam_stop > 0:
            shadow |= np.hypot(position[..., 0], position[..., 1]) < defects.beam_stop
        if defects.beam_stop_arm > 0:
            shadow |= (np.abs(position[..., 1]) < defects.beam_stop_arm / 2) & (
                position[..., 0] > 0
            )
        return shadow

    def _set_dose(self) -> None:
        """K and the heights of the background, from means over the pixels."""
        settings = self.settings
        dose = settings.exposure.time * settings.exposure.transmission
        if dose <= 0:
            raise ValueError("exposure.time and exposure.transmission must be positive")
        signal = air = 0.0
        count = 0
        halo = self._mean_halo()
        for pixels in self._pixels:
            # of a large panel a regular selection will do for a mean
            step = max(1, int(np.sqrt(pixels.distance.size / DOSE_PIXELS)))
            pixels = pixels[::step, ::step]
            q = self._q_length(pixels, settings.beam.wavelength)
            efficiency = self.efficiency(pixels, settings.beam.wavelength)
            expected = (
                self.truth.envelope(q) * (1 + halo)
                + self.truth.isotropic(q)
                + self.truth.compton(q)
            )
            signal += float((efficiency * expected).sum()) * settings.crystal.lattices
            air += float((efficiency * self._air_profile(q)).sum())
            count += q.size
        if settings.exposure.photons_per_electron2 is not None:
            self.photons_per_electron2 = float(settings.exposure.photons_per_electron2)
        elif signal > 0:
            self.photons_per_electron2 = settings.exposure.mean_photons * count / (signal * dose)
        else:
            raise ValueError(
                "there is no diffuse scattering to set exposure.mean_photons by: give "
                "exposure.photons_per_electron2"
            )
        self._air_height = settings.background.air * count / (air * dose)
        self._flat_rate = settings.background.flat / dose

    def _mean_halo(self) -> float:
        if self.settings.truth.halo <= 0:
            return 0.0
        generator = random_stream(self.settings.seed, crystals.DETECTOR, 2)
        return self.settings.truth.halo * float(
            self.truth.halo(generator.uniform(0, 2, size=(20000, 3))).mean()
        )

    def _air_profile(self, q: np.ndarray) -> np.ndarray:
        return np.exp(-(q**2) / (2 * self.settings.background.air_width**2))

    # Geometry of one still

    def models(self, still: StillState):
        """(detector, beam) of a still; the shared detector where it did not move."""
        beam = make_beam(self.settings.beam, still.wavelength, still.transmission)
        if still.shift == 0:
            return self.detector, beam
        return moved_along_beam(self.detector, still.shift), beam

    def _pixels_of(self, still: StillState) -> list[PanelPixels]:
        if still.shift == 0:
            return self._pixels
        detector, beam = self.models(still)
        return [panel_pixels(panel, beam) for panel in detector]

    @staticmethod
    def _q_vectors(pixels: PanelPixels, wavelength: float) -> np.ndarray:
        return (pixels.directions - np.array((0.0, 0.0, -1.0))) / wavelength

    def _q_length(self, pixels: PanelPixels, wavelength: float) -> np.ndarray:
        return np.linalg.norm(self._q_vectors(pixels, wavelength), axis=-1)

    def q_lengths(self, still: StillState) -> list[np.ndarray]:
        """|q| at the pixels' centres, 1/Angstrom, one (S, F) array a panel."""
        return [self._q_length(pixels, still.wavelength) for pixels in self._pixels_of(still)]

    def efficiency(self, pixels: PanelPixels, wavelength: float) -> np.ndarray:
        """E = solid angle * polarization * sensor efficiency * air, sr, (S, F)."""
        result = pixels.solid_angle * pixels.polarization * pixels.efficiency
        background = self.settings.background
        if background.absorption:
            mu = atoms.air_attenuation(wavelength)
            path = pixels.distance if background.path is None else background.path
            result = result * np.exp(-mu * path)
        return result

    # Components of one still

    def expected(self, still: StillState) -> dict[str, list[np.ndarray]]:
        """Expected photons by cause, before noise, gain and bad pixels.

        Args:
            still: one of `stills` or `empties`.

        Returns:
            For each of COMPONENTS and "total" a list of one (S, F) array a panel, photons.
        """
        pixels_of_panels = self._pixels_of(still)
        lattices = crystals.during_exposure(still, self.settings.crystal.rotation_samples)
        peaks = [self.peaks(still, lattice) for lattice in lattices]
        result: dict[str, list[np.ndarray]] = {name: [] for name in (*COMPONENTS, "total")}
        for number, pixels in enumerate(pixels_of_panels):
            parts = self._panel_rates(still, number, pixels, lattices, peaks)
            dose = still.exposure_time * still.transmission
            lit = ~self.defects["shadow"][number]
            total = np.zeros(pixels.shape)
            for name in COMPONENTS:
                photons = parts[name] * dose * lit
                result[name].append(photons)
                total += photons
            result["total"].append(total)
        return result

    def _panel_rates(
        self, still, number: int, pixels: PanelPixels, lattices, peaks
    ) -> dict[str, np.ndarray]:
        q_vectors = self._q_vectors(pixels, still.wavelength)
        q = np.linalg.norm(q_vectors, axis=-1)
        response = (
            self.efficiency(pixels, still.wavelength)
            * self.sensitivity(pixels.directions)
            * self.panel_gains[number]
        )
        to_photons = response * self.photons_per_electron2
        parts = {name: np.zeros(pixels.shape) for name in COMPONENTS}
        flat_q = np.ascontiguousarray(q_vectors.reshape(-1, 3))
        for lattice, lattice_peaks in zip(lattices, peaks):
            hkl = flat_q @ np.linalg.inv(lattice.setting).T
            diffuse = self.truth.intensity(hkl).reshape(pixels.shape)
            parts["diffuse"] += lattice.scale * to_photons * diffuse
            parts["isotropic"] += lattice.scale * to_photons * self.truth.isotropic(q)
            parts["compton"] += lattice.scale * to_photons * self.truth.compton(q)
            if lattice_peaks is not None:
                image = self._draw(still, lattice, lattice_peaks, number, pixels)
                parts["bragg"] += lattice.scale * to_photons * image
        if still.offset > 0:
            parts["offset"] = to_photons * still.offset * self.offset_profile(q)
        air = self._air_height * response * self._air_profile(q)
        parts["background"] = still.background * (self._flat_rate + air)
        return parts

    def offset_profile(self, q: np.ndarray) -> np.ndarray:
        """c(|q|) of the still that has the most of it, electrons^2 per unit cell."""
        truth = self.settings.truth
        centre = np.array([truth.solvent_position])
        height = self.settings.scale.offset * float(
            (
                self.truth.envelope(centre)
                + self.truth.isotropic(centre)
                + self.truth.compton(centre)
            )[0]
        )
        return height * np.exp(-((q - centre) ** 2) / (2 * truth.solvent_width**2))

    def peaks(self, still: StillState, lattice) -> Peaks | None:
        """The Bragg peaks of a lattice; None where they are turned off."""
        if self.structure_factors is None:
            return None
        settings = self.settings
        shape = (settings.crystal.domain_size, settings.crystal.mosaicity, settings.beam.bandwidth)
        s0 = np.array((0.0, 0.0, -1.0)) / still.wavelength
        hkl, g, excitation, sigma = bragg.nodes_near_sphere(
            lattice.setting, s0, self.d_min, bragg.towards_sphere(s0, *shape), settings.bragg.extent
        )
        intensity = self.structure_factors(hkl) * settings.bragg.scale
        s1 = s0 + g
        s1 *= (np.linalg.norm(s0) / np.linalg.norm(s1, axis=1))[:, None]
        detector, _ = self.models(still)
        panel, pixel, millimetre = rays_to_pixels(detector, s1)
        keep = (panel >= 0) & (intensity > 0)
        along, across = bragg.peak_widths(np.linalg.norm(g, axis=1), *shape)
        normals = np.array([p.get_normal() for p in detector])[panel]
        sizes = np.array([p.get_pixel_size()[0] for p in detector])[panel]
        distances = np.array([p.get_distance() for p in detector])[panel]
        # one pixel spans at least (pixel / ray length) * cos(obliquity) of direction
        cosine = np.abs(np.einsum("ni,ni->n", s1, normals)) * still.wavelength
        pixels_per_q = still.wavelength * distances / (sizes * cosine**2)
        shape_of_peaks = (excitation, sigma, along, across, intensity)
        arrays = (hkl, g, *shape_of_peaks, panel, pixel, millimetre, s1, pixels_per_q)
        return Peaks(*(np.ascontiguousarray(array[keep]) for array in arrays))

    def _draw(self, still, lattice, peaks: Peaks, number: int, pixels: PanelPixels) -> np.ndarray:
        image = np.zeros(pixels.shape)
        here = peaks.panel == number
        widest = np.maximum(peaks.along, peaks.across)[here]
        half = self.settings.bragg.extent * widest * peaks.pixels_per_q[here] + 1.5
        # the volume of the reciprocal cell of this lattice, not of the mean one
        weight = peaks.intensity[here] * abs(np.linalg.det(lattice.setting))
        shapes = bragg.PeakShapes(
            peaks.pixel[here], half, peaks.g[here], peaks.along[here], peaks.across[here], weight
        )
        bragg.draw_peaks(
            shapes,
            float(self.settings.bragg.extent),
            pixels.directions,
            pixels.step_fast,
            pixels.step_slow,
            np.array((0.0, 0.0, -1.0)) / still.wavelength,
            still.wavelength,
            image,
        )
        if self.settings.bragg.blur > 0:
            # what leaves the panel is lost, as on a real one
            gaussian_filter(
                image, self.settings.bragg.blur, output=image, mode="constant", truncate=6.0
            )
        return image

    # Images

    def image(self, still: StillState, expected: dict | None = None) -> list[np.ndarray]:
        """The counts of a still, ADU.

        Args:
            still: one of `stills` or `empties`.
            expected: of `expected(still)`, if at hand.

        Returns:
            One (S, F) int32 array a panel.
        """
        settings = self.settings
        detector = settings.detector
        stream = crystals.NOISE if still.lattices else crystals.EMPTY
        generator = random_stream(settings.seed, stream, still.index)
        total = (expected or self.expected(still))["total"]
        images = []
        for number, panel in enumerate(total):
            photons = generator.poisson(panel) if settings.exposure.noise else panel
            hot = self.defects["hot"][number]
            photons = np.where(
                hot, generator.poisson(settings.defects.hot_counts, panel.shape), photons
            )
            photons = np.where(self.defects["dead"][number], 0, photons)
            adu = photons * detector.gain + detector.pedestal
            if detector.readout_noise > 0:
                adu = adu + generator.normal(0, detector.readout_noise, panel.shape)
            adu = np.where(self.defects["negative"][number], -2, adu)
            images.append(np.clip(np.rint(adu), -(2**31), 2**31 - 1).astype(np.int32))
        return images
