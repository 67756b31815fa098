"""From one image to the observations of the stills on it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cctbx import sgtbx

from dials_diffuse.adapters.beams import set_probe
from dials_diffuse.adapters.experiment_file import ExperimentFile
from dials_diffuse.adapters.images import exposure_time, has_dynamic_mask, read_raw, trusted_bounds
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import Still, stills_of
from dials_diffuse.adapters.sweeps import has_scan_points
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.extraction.background.planes import Background
from dials_diffuse.extraction.blocks import PanelBlock, blocks_of, middle_of
from dials_diffuse.extraction.kernel import VoxelSums
from dials_diffuse.extraction.observations import StillObservations, StoredObservations
from dials_diffuse.extraction.photons import PanelPixels, panel_gain, panel_pedestal
from dials_diffuse.extraction.pixels import corrected_pixels
from dials_diffuse.extraction.profile import radial_profile
from dials_diffuse.extraction.result import StillSummary
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.geometry.cache import GeometryCache, geometry_key
from dials_diffuse.geometry.panel import PanelGeometry
from dials_diffuse.geometry.probe import PROBE_NAMES
from dials_diffuse.grid.lattice_settings import LatticeSetting, index_transformation
from dials_diffuse.io.pixel_file import CorrectedDiffusePixelList
from dials_diffuse.masking.masker import ImageMask, Masker
from dials_diffuse.masking.spots.prediction import detector_d_min
from dials_diffuse.masking.spots.rows import SpotRows


@dataclass
class ExtractedStill:
    """The observations of one still.

    Attributes:
        index: the still's index in its file
        image_number: z of the still's rows
        summary: its numbers
        observations: None where extraction failed
        left_out: if it could not be masked, and so has no place in the files: the name that it is listed under
        spots: new rows of Bragg spots, see ImageMask, each with z of its image
        operator: the change of basis (xyz) from its crystal's setting to that of its voxels, None for none
        pixels: the corrected pixels outside the Bragg mask, if they were asked for
    """

    index: int
    image_number: float
    summary: StillSummary
    observations: StillObservations | StoredObservations | None = None
    left_out: str = ""
    spots: list[tuple[SpotRows, bool, float]] = field(default_factory=list)
    operator: str | None = None
    pixels: CorrectedDiffusePixelList | None = None


class _Image(NamedTuple):
    """An image in memory; an (n_slow, n_fast) array a panel.

    Attributes:
        raw: ADU
        bragg: bool, True under a Bragg spot
        dynamic: bool, True = not in a shadow that moves with the goniometer; None: there are none
    """

    raw: list[np.ndarray]
    bragg: list[np.ndarray]
    dynamic: list[np.ndarray] | None


class Extractor:
    """Extracts the stills of one pair of files, image by image.

    Pickled (where processes are started afresh), it carries the names of its files instead of
    their contents.

    Args:
        pair: the files
        settings: of the extraction
        masker: of all files, see Masker
        background: the background, None for none
        folder: where geometries lie that processes share, None for none
        keep_pixels: whether the corrected pixels themselves are wanted too
        setting: that the voxels of all stills shall have, None: those of their crystals

    Attributes:
        experiments: of the file, without images
        images: the stills to extract, those on one image together
        blocks: the same images, those together that are added up before binning

    Raises:
        ValueError: files that don't match, can't be masked, or don't hold stills.
    """

    def __init__(
        self,
        pair: DataPair,
        settings: ExtractionSettings,
        masker: Masker,
        background: Background | None = None,
        folder: str | os.PathLike | None = None,
        keep_pixels: bool = False,
        setting: LatticeSetting | None = None,
    ):
        self._arguments = (pair, settings, masker, background, folder, keep_pixels, setting)
        self._setting = setting
        self._settings = settings
        self._keep_pixels = keep_pixels
        self._background, self._background_pixels = None, None
        if background is not None:
            # NaN would spoil the sums of what follows in its row
            self._background, self._background_pixels = background.without_holes()
        # Models only: every image is opened when its turn comes, by the process that reads it
        self.experiments, reflections = pair.load(check_format=False)
        if settings.probe in PROBE_NAMES:
            # So that later steps know it
            for beam in self.experiments.beams():
                set_probe(beam, PROBE_NAMES[settings.probe])
        self._file = ExperimentFile(pair.experiments)
        if reflections is None:
            raise ValueError(
                f"{pair.experiments} came without its .refl: give both files that dials.diffuse_mask wrote"
            )
        self._masker = masker.for_pair(self.experiments, reflections)
        self.images = self._masker.images(self.experiments)
        sweeps = [image[0] for image in self.images if image[0].of_sweep]
        d_min = settings.d_min or 0.0
        if sweeps:
            d_min = max(d_min, detector_d_min(sweeps[0].detector, sweeps[0].beam))
        self.blocks = blocks_of(self.images, settings, d_min, keep_pixels)
        self._geometries = GeometryCache(settings, folder)
        self._keys = _geometry_keys(self.experiments, settings)
        self._use: dict[tuple, list[np.ndarray]] = {}
        self._sums = VoxelSums()
        self._open_sweeps: dict[int, object] = {}

    def __reduce__(self):
        return (Extractor, self._arguments)

    def share_geometries(self) -> None:
        """Put the geometries that several images have in common into the folder."""
        # all lattices of an image are one process's
        first = {stills[0].index: self._keys[stills[0].index] for stills in self.images}
        images = Counter(first.values())
        for index, key in first.items():
            if images.pop(key, 0) > 1:
                experiment = self.experiments[index]
                # Where it can't be computed, every still that needs it will say why
                with contextlib.suppress(ValueError):
                    self._geometries.store(experiment.detector, experiment.beam, key)

    def extract_block(self, number: int) -> list[ExtractedStill]:
        """Extract all stills (lattices) on one image, or the images of a sweep that make a block.

        Args:
            number: index in `blocks`

        Returns:
            the stills, one for the block; those that could not be extracted have an error
        """
        images = self.blocks[number]
        if len(images) > 1:
            return [self._extract_several([still for (still,) in images])]
        (stills,) = images
        try:
            stills, image, mask = self._read(stills)
        except (ValueError, OSError) as error:
            failed = []
            for still in stills:
                reason, left_out = self._masker.left_out(still, error)
                summary = StillSummary(still.path, reason)
                failed.append(
                    ExtractedStill(still.index, still.image_number, summary, left_out=left_out)
                )
            return failed
        extracted = []
        for still, rows in zip(mask.stills, mask.rows):
            try:
                result = self._extract_still(still, image)
            except (ValueError, OSError) as error:
                result = ExtractedStill(
                    still.index, still.image_number, StillSummary(still.path, str(error))
                )
            result.spots = [(part, other, still.image_number) for part, other in rows]
            extracted.append(result)
        return extracted

    def _read(self, stills: Sequence[Still]) -> tuple[list[Still], _Image, ImageMask]:
        """An image and its mask, and its stills with the image.

        Raises:
            ValueError, OSError: it can't be read or masked.
        """
        stills = self._opened(stills)
        imageset, index = stills[0].imageset, stills[0].image_index
        raw = read_raw(imageset, index)
        mask = self._masker.mask(stills, raw)
        dynamic = None
        if has_dynamic_mask(imageset):
            dynamic = [as_numpy(panel) for panel in imageset.get_mask(index)]
        return stills, _Image(raw, mask.bragg, dynamic), mask

    def _extract_several(self, stills: Sequence[Still]) -> ExtractedStill:
        """Extract the images of a block as one; those that can't be read are listed, and the rest goes on."""
        middle = middle_of(stills)
        geometry, use = None, []
        total, z, n, missing, spots = 0.0, 0.0, 0, [], []
        panels = [PanelBlock() for _ in middle.detector]
        for still in stills:
            try:
                (still,), image, mask = self._read([still])
                if geometry is None:
                    geometry = self._geometries.get(still.detector, still.beam, self._key(still))
                    use = self._usable(still, geometry)
                seconds = self._seconds(still)
                pixels = [
                    self._panel_pixels(still, i, image, use[i], seconds) for i in range(len(panels))
                ]
            except (ValueError, OSError) as error:
                missing.append(f"{still.path}: {self._masker.left_out(still, error)[0]}")
                continue
            for panel, values in zip(panels, pixels):
                panel.add(values, seconds)
            total, z, n = total + seconds, z + seconds * still.image_number, n + 1
            spots += [(part, other, still.image_number) for part, other in mask.rows[0]]
            middle = dataclasses.replace(middle, experiment=still.experiment)
        result = ExtractedStill(
            middle.index, middle.image_number, StillSummary(middle.path, "; ".join(missing))
        )
        if geometry is not None and n:
            blocks = [panel.result(own) for panel, own in zip(panels, geometry)]
            try:
                result = self._sum(middle, blocks, total, z / total, n)
            except ValueError as error:
                result.summary.error = str(error)
        result.summary.missing, result.spots = missing, spots
        return result

    def _seconds(self, still: Still) -> float:
        override = self._settings.exposure_time
        return exposure_time(still.experiment, still.image_index, override, still.scan_index)

    def _opened(self, stills: Sequence[Still]) -> list[Still]:
        """The same stills with their image.

        Raises:
            ValueError: it can't be opened.
        """
        if any(still.of_sweep for still in stills):
            return [self._opened_of_sweep(still) for still in stills]
        experiments = self._file.load([still.index for still in stills])
        return [
            dataclasses.replace(still, index=listed.index)
            for still, listed in zip(stills_of(experiments), stills)
        ]

    def _opened_of_sweep(self, still: Still) -> Still:
        """As _opened; the sweep stays open for its other images."""
        if still.index not in self._open_sweeps:
            self._open_sweeps[still.index] = self._file.load([still.index])[0]
        return dataclasses.replace(still, experiment=self._open_sweeps[still.index])

    def _extract_still(self, still: Still, image: _Image) -> ExtractedStill:
        """Sum photons and exposure of one still by voxel.

        Every pixel has photons = (ADU - pedestal)/gain, exposure = t E, t the exposure time and E the acceptance
        (Omega P QE A), and a place h = A^-1 q in the still's own reciprocal cell. Both are added up, with
        the expected background, by panel, Bragg flag and voxel floor(n h + 1/2): a row each.

        Raises:
            ValueError: no exposure time, a model that can't be used, or not a single usable pixel.
        """
        geometry = self._geometries.get(still.detector, still.beam, self._key(still))
        use = self._usable(still, geometry)
        seconds = self._seconds(still)
        panels = (
            (self._panel_pixels(still, number, image, use[number], seconds), panel)
            for number, panel in enumerate(geometry)
        )
        return self._sum(still, panels, seconds, still.image_number)

    def _sum(
        self,
        still: Still,
        panels: Iterable[tuple[PanelPixels, PanelGeometry]],
        seconds: float,
        z: float,
        n_images: int = 1,
    ) -> ExtractedStill:
        """As _extract_still.

        Args:
            still: with the orientation
            panels: its pixels
            seconds: exposure time of all its images
            z: of the rows
            n_images: how many images were added
        """
        settings, sums = self._settings, self._sums
        dose = 0.0
        if self._background is not None:
            self._background.check_shapes(still.detector, settings.background)
            dose = self._background.dose(seconds, still.beam)
        matrix, operator = self._to_voxels(still)
        sums.start(dose)
        kept = []
        for number, (pixels, panel) in enumerate(panels):
            sums.add_panel(number, pixels, panel, matrix)
            if self._keep_pixels:
                kept.append(corrected_pixels(number, pixels, panel, seconds, dose))
        if not len(sums):
            raise ValueError(
                f"Not a single usable pixel on {still.path} (mask, limits, trusted range)"
            )
        columns = sums.columns(seconds, z)
        if n_images > 1:
            columns["num_pixels.valid"] *= n_images
        profile = radial_profile(columns, np.linalg.inv(matrix))
        return ExtractedStill(
            still.index,
            still.image_number,
            StillSummary(
                still.path,
                num_observations=len(sums),
                num_pixels=profile.num_pixels,
                photons=float(profile.photons.sum()),
                exposure_time=seconds,
                profile=profile,
                reindexed="" if operator is None else operator.as_hkl(),
            ),
            StillObservations(columns, sums.repeated()),
            operator=None if operator is None else operator.as_xyz(),
            pixels=CorrectedDiffusePixelList.joined(kept) if kept else None,
        )

    def _to_voxels(self, still: Still) -> tuple[np.ndarray, sgtbx.change_of_basis_op | None]:
        """Matrix from q to voxels, (3, 3), and the change of basis that it contains."""
        inverse = _inverse_of_a(still)
        operator = self._setting and self._setting.operator_for(still.crystal)
        if operator is not None:
            inverse = np.linalg.solve(index_transformation(still.crystal, operator), inverse)
        return np.diag(self._settings.subdivide) @ inverse, operator

    def _panel_pixels(
        self, still: Still, number: int, image: _Image, use: np.ndarray, seconds: float
    ) -> PanelPixels:
        """The pixels of a panel, with what turns them into photons.

        Raises:
            ValueError: not of the panel's size, or gain or trusted range can't be used.
        """
        settings, raw = self._settings, image.raw[number]
        if raw.shape != use.shape:
            raise ValueError(
                f"{still.path} has {raw.shape[::-1]} pixels on panel {number}, "
                f"the detector model {use.shape[::-1]}"
            )
        low, high = settings.min_intensity, settings.max_intensity
        pixels = PanelPixels(
            raw,
            use if image.dynamic is None else use & image.dynamic[number],
            image.bragg[number],
            trusted_bounds(still.detector[number]),
            intensity=(
                -np.inf if low is None else low * seconds,
                np.inf if high is None else high * seconds,
            ),
        )
        if self._background is not None:
            pixels = pixels._replace(background=self._background.panel(number))
        return pixels.with_maps(
            panel_gain(still.imageset, number, settings.gain),
            panel_pedestal(still.imageset, number, settings.pedestal),
        )

    def _key(self, still: Still) -> str:
        """Of its geometry; where the beam moves, each image of a sweep has its own"""
        if not has_scan_points(still.experiment.beam):
            return self._keys[still.index]
        return geometry_key(still.detector, still.beam, self._settings)

    def _usable(self, still: Still, geometry: list[PanelGeometry]) -> list[np.ndarray]:
        """(n_slow, n_fast) bool a panel: pixels good in every image, within the limits and the step.

        Made once for stills with the same geometry and mask file.
        """
        name = (self._key(still), still.imageset.external_lookup.mask.filename)
        if name in self._use:
            return self._use[name]
        settings, step = self._settings, self._settings.pixel_step
        masks = self._masker.good_pixels(still.imageset)
        for number, (mask, panel) in enumerate(zip(masks, geometry)):
            panel.restrict(mask, settings.d_min, settings.d_max)
            if self._background_pixels and self._background_pixels[number] is not None:
                mask &= self._background_pixels[number]
            if step > 1:
                chosen = np.zeros_like(mask)
                chosen[step // 2 :: step, step // 2 :: step] = True
                mask &= chosen
        # One at a time is enough for stills that share it, and bounded for those that don't
        self._use = {name: masks}
        return masks


def _inverse_of_a(still: Still) -> np.ndarray:
    try:
        return np.linalg.inv(still.setting_matrix())
    except np.linalg.LinAlgError as error:
        raise ValueError(f"The crystal of experiment {still.index} has no volume") from error


def _geometry_keys(experiments, settings: ExtractionSettings) -> list[str]:
    """The geometry_key of every experiment, computed once for models that many of them share."""
    numbers = {}
    for name in ("detector", "beam"):
        numbers[name] = [-1] * len(experiments)
        for number, model in enumerate(getattr(experiments, f"{name}s")()):
            for index in experiments.where(**{name: model}):
                numbers[name][index] = number
    keys: dict[tuple[int, int], str] = {}
    models = list(zip(numbers["detector"], numbers["beam"]))
    for experiment, pair in zip(experiments, models):
        if pair not in keys:
            keys[pair] = geometry_key(experiment.detector, experiment.beam, settings)
    return [keys[pair] for pair in models]
