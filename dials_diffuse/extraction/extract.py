"""From images to observations: everything between reading a still and its table rows."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dials_diffuse.adapters.experiments import DataPair, ExperimentFile, read_again
from dials_diffuse.adapters.images import (
    exposure_time,
    has_dynamic_mask,
    read_raw,
    static_mask,
    transmission,
    trusted_bounds,
)
from dials_diffuse.adapters.stills import Still, group_by_image, stills_of
from dials_diffuse.adapters.system import map_in_processes
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.extraction.background import (
    Background,
    load_background,
    panel_gain,
    panel_pedestal,
    photons_of_image,
)
from dials_diffuse.extraction.kernel import VoxelSums
from dials_diffuse.extraction.observations import COLUMNS, StillObservations
from dials_diffuse.extraction.pixels import corrected_pixels
from dials_diffuse.extraction.profile import Profile, radial_profile
from dials_diffuse.geometry.corrections import CorrectionSettings
from dials_diffuse.geometry.panel import GeometryCache, geometry_key
from dials_diffuse.grid.reference_cell import common_space_group, reference_cell
from dials_diffuse.grid.symmetry import check_subdivide, laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.pixel_file import CorrectedDiffusePixelList
from dials_diffuse.io.scratch import ColumnScratch
from dials_diffuse.masking.image_masker import ImageMasker, UnknownSpots
from dials_diffuse.masking.lattices import other_lattice_unknown
from dials_diffuse.masking.spots.prediction import SpotRows
from dials_diffuse.masking.still_mask import StillMasker
from dials_diffuse.masking.survey_file import MaskSurvey

logger = logging.getLogger("dials.diffuse.extract")


@dataclass(frozen=True)
class ExtractionSettings:
    """What extraction does, apart from where its files are.

    Attributes:
        subdivide: voxels per reciprocal cell edge
        d_min, d_max: resolution limits of pixels, Angstrom
        pixel_step: take every n-th pixel in fast and slow
        corrections: see CorrectionSettings
        exposure_time: s, None: that of scan or image header
        gain: ADU per photon, pedestal: ADU; None: those of panel or imageset
        min_intensity, max_intensity: limits of a pixel's intensity, photons/(s sr)
        background: name of the background, see load_background
        background_smoothing: see average_of_empty_shots
        background_exposure_time: s, None: that of the empty shots
        pixels: whether the corrected pixels themselves are wanted too
    """

    subdivide: tuple[int, int, int] = (3, 3, 3)
    d_min: float | None = None
    d_max: float | None = None
    pixel_step: int = 1
    corrections: CorrectionSettings = field(default_factory=CorrectionSettings)
    exposure_time: float | None = None
    gain: float | None = None
    pedestal: float | None = None
    min_intensity: float | None = None
    max_intensity: float | None = None
    background: str | None = None
    background_smoothing: str = "adaptive"
    background_exposure_time: float | None = None
    pixels: bool = False

    def check(self) -> None:
        """Raises ValueError where a value makes no sense."""
        if self.gain is not None and not (np.isfinite(self.gain) and self.gain > 0):
            raise ValueError(f"gain={self.gain} must be a positive number of ADU per photon")
        if self.exposure_time is not None and not (
            np.isfinite(self.exposure_time) and self.exposure_time > 0
        ):
            raise ValueError(
                f"exposure_time={self.exposure_time} must be a positive number of seconds"
            )
        if self.d_min and self.d_max and self.d_min >= self.d_max:
            raise ValueError(f"d_min={self.d_min} must be smaller than d_max={self.d_max}")


@dataclass
class ExtractedStill:
    """One still's observations and what there is to say about it.

    Attributes:
        index: the still's index in its file
        path: of its image
        observations: None where extraction failed, or where they are stored
        place: in the ColumnScratch, where they are stored
        repeated: what is not stored, see StillObservations
        error: why it failed
        unmasked: if it could not be masked, and so has no place in the files: the name that it is listed under
            (identifier, or path of the image if that can't be read)
        spots, other_spots: Bragg rows of the still, and of what else is bright on its image (kept with the first
            still on it), where they were found on the way
        num_observations: rows of the table, Bragg ones included
        num_pixels, photons: of the diffuse observations
        exposure_time: s
        profile: see Profile
        pixels: the corrected pixels outside the Bragg mask, if they were asked for
    """

    index: int
    path: str
    observations: StillObservations | None = None
    place: int | None = None
    repeated: dict[str, float] = field(default_factory=dict)
    error: str = ""
    unmasked: str = ""
    spots: SpotRows | None = None
    other_spots: SpotRows | None = None
    num_observations: int = 0
    num_pixels: int = 0
    photons: float = 0.0
    exposure_time: float = 0.0
    profile: Profile | None = None
    pixels: CorrectedDiffusePixelList | None = None


def reference_grid(experiments, settings: ExtractionSettings) -> VoxelGrid:
    """The grid of all crystals: their common Laue group, and the median of their cells.

    The cell sets the scale of |q| only; the grid command replaces it by a robust average.

    Args:
        experiments: every experiment that will be extracted (a sequence)

    Raises:
        ValueError: different space groups, or a subdivision against the symmetry.
    """
    for index, experiment in enumerate(experiments):
        if experiment.crystal is None:
            raise ValueError(f"Experiment {index} has no crystal (index and integrate it first)")
    crystals = [experiment.crystal for experiment in experiments]
    space_group = common_space_group(crystals)
    laue_group = laue_group_of(space_group)
    check_subdivide(settings.subdivide, laue_group)
    cell = reference_cell([crystal.get_unit_cell() for crystal in crystals], space_group)
    return VoxelGrid(
        subdivide=settings.subdivide,
        unit_cell=cell.unit_cell,
        laue_group=laue_group,
        d_min=settings.d_min,
        d_max=settings.d_max,
    )


def model_numbers(experiments, name: str) -> list[int]:
    """For each experiment, which of the list's models of a kind ("detector", "beam") it has."""
    numbers = [-1] * len(experiments)
    for number, model in enumerate(getattr(experiments, f"{name}s")()):
        for index in experiments.where(**{name: model}):
            numbers[index] = number
    return numbers


class Extractor:
    """Extracts the stills of one pair of files, image by image.

    Pickled (where processes are started afresh), it carries the names of its files instead of
    their contents.

    Args:
        pair: the files
        settings: what to do
        background: the background, None for none
        folder: where geometries lie that processes share, None for none
        learnt: masks that other stills have told: the files hold integrated stills, which are masked by
            them as they are read; None: dials.diffuse_mask has masked them
    """

    def __init__(
        self,
        pair: DataPair,
        settings: ExtractionSettings,
        background: Background | None = None,
        folder: str | None = None,
        learnt: MaskSurvey | None = None,
    ):
        self._arguments = (pair, settings, background, folder, learnt)
        self.settings = settings
        # NaN would spoil the sums of what follows in its row
        self.background, self._background_known = (
            (None, None) if background is None else background.without_holes()
        )
        # Models only: every image is opened when its turn comes, by the process that reads it
        self.experiments, reflections = pair.load(check_format=False)
        self._file = ExperimentFile(pair.experiments)
        if reflections is None:
            raise ValueError(
                f"{pair.experiments} came without its .refl: give both files that dials.diffuse_mask wrote"
            )
        self.images = group_by_image(stills_of(self.experiments))
        self.learnt = learnt
        if learnt is None:
            self.masker = StillMasker(reflections)
        else:
            learnt.check(self.experiments)
            if learnt.multi_lattice == "exclude":
                self.images = [stills for stills in self.images if len(stills) == 1]
            self.image_masker = ImageMasker(
                learnt, reflections, [still for stills in self.images for still in stills]
            )
        self.geometries = GeometryCache(settings.corrections, folder)
        self._keys = self._geometry_keys()
        self._use: dict[tuple, list[np.ndarray]] = {}
        self._sums = VoxelSums()

    def __reduce__(self):
        return (Extractor, self._arguments)

    def _geometry_keys(self) -> list[str]:
        # A model that many experiments share is looked at once
        keys = [""] * len(self.experiments)
        detector_of = model_numbers(self.experiments, "detector")
        beam_of = model_numbers(self.experiments, "beam")
        known: dict[tuple[int, int], str] = {}
        for index, pair in enumerate(zip(detector_of, beam_of)):
            if pair not in known:
                experiment = self.experiments[index]
                known[pair] = geometry_key(
                    experiment.detector, experiment.beam, self.settings.corrections
                )
            keys[index] = known[pair]
        return keys

    def share_geometries(self) -> None:
        """Put the geometries that several stills have in common into the folder."""
        # all lattices of an image are one process's
        of_images = {stills[0].index: self._keys[stills[0].index] for stills in self.images}
        images = Counter(of_images.values())
        for index, key in of_images.items():
            if images.pop(key, 0) > 1:
                experiment = self.experiments[index]
                # Where it can't be computed, every still that needs it will say why
                with contextlib.suppress(ValueError):
                    self.geometries.store(experiment.detector, experiment.beam, key)

    def _usable(self, still: Still, key: str, geometry) -> list[np.ndarray]:
        """(n_slow, n_fast) bool a panel: static mask, limits and step; made once for stills with
        the same geometry and mask file."""
        filename = still.imageset.external_lookup.mask.filename
        known = (key, filename)
        if known in self._use:
            return self._use[known]
        settings, step = self.settings, self.settings.pixel_step
        if self.learnt is None:
            masks = static_mask(still.imageset)
        else:
            masks = [mask.copy() for mask in self.learnt.good]
        for number, (mask, panel) in enumerate(zip(masks, geometry.panels)):
            panel.restrict(mask, settings.d_min, settings.d_max)
            if self._background_known is not None and self._background_known[number] is not None:
                mask &= self._background_known[number]
            if step > 1:
                chosen = np.zeros_like(mask)
                chosen[step // 2 :: step, step // 2 :: step] = True
                mask &= chosen
        # One at a time is enough for stills that share it, and bounded for those that don't
        self._use = {known: masks}
        return masks

    def extract_image(self, number: int) -> list[ExtractedStill]:
        """Extract all stills (lattices) on one image; an unusable image gives stills with an error."""
        stills = self.images[number]
        try:
            stills = self._opened(stills)
            raw = read_raw(stills[0].imageset, stills[0].image_index)
            spots = None
            if self.learnt is None:
                bragg = self.masker.bragg(stills)
            else:
                bragg, spots = self.image_masker.mask(stills, raw)
                # Everything is as if they had been masked by a command of its own
                for still in stills:
                    still.experiment.crystal = read_again(still.crystal)
                stills = [dataclasses.replace(still) for still in stills]
            dynamic = None
            if has_dynamic_mask(stills[0].imageset):
                dynamic = [as_numpy(m) for m in stills[0].imageset.get_mask(stills[0].image_index)]
        except UnknownSpots as error:
            reasons = {error.index: str(error)}
            other = other_lattice_unknown(error.index)
            return [
                ExtractedStill(
                    s.index,
                    s.path,
                    error=reasons.get(s.index, other),
                    unmasked=s.experiment.identifier or s.path,
                )
                for s in stills
            ]
        except (ValueError, OSError) as error:
            return [
                ExtractedStill(
                    s.index,
                    s.path,
                    error=str(error),
                    unmasked="" if self.learnt is None else s.path,
                )
                for s in stills
            ]
        extracted = []
        for still in stills:
            try:
                extracted.append(self._extract_still(still, raw, bragg, dynamic))
            except (ValueError, OSError) as error:
                extracted.append(ExtractedStill(still.index, still.path, error=str(error)))
        if spots is not None:
            for still, rows in zip(extracted, spots.of_stills):
                still.spots = rows
            extracted[0].other_spots = spots.others
        return extracted

    def _opened(self, stills: list[Still]) -> list[Still]:
        """The same stills with their image.

        Raises:
            ValueError: it can't be opened.
        """
        experiments = self._file.load([still.index for still in stills])
        return [
            dataclasses.replace(still, index=listed.index)
            for still, listed in zip(stills_of(experiments), stills)
        ]

    def _extract_still(self, still: Still, raw, bragg, dynamic) -> ExtractedStill:
        settings, imageset = self.settings, still.imageset
        key = self._keys[still.index]
        geometry = self.geometries.get(still.detector, still.beam, key)
        use = self._usable(still, key, geometry)
        seconds = exposure_time(still.experiment, still.image_index, settings.exposure_time)
        if self.background is not None:
            self.background.check_shapes(still.detector, settings.background)
            dose = seconds * transmission(still.beam) if self.background.per_dose else 1.0
        else:
            dose = 0.0
        try:
            a_inverse = np.linalg.inv(still.setting_matrix())
        except np.linalg.LinAlgError as error:
            raise ValueError(f"The crystal of experiment {still.index} has no volume") from error
        matrix = np.diag(settings.subdivide) @ a_inverse
        limits = tuple(
            default if limit is None else limit * seconds
            for limit, default in (
                (settings.min_intensity, -np.inf),
                (settings.max_intensity, np.inf),
            )
        )
        sums, pixels = self._sums, []
        sums.start(dose)
        for panel_number, panel in enumerate(still.detector):
            values, trusted = raw[panel_number], trusted_bounds(panel)
            if values.shape != use[panel_number].shape:
                raise ValueError(
                    f"{still.path} has {values.shape[::-1]} pixels on panel {panel_number}, "
                    f"the detector model {use[panel_number].shape[::-1]}"
                )
            gain = panel_gain(imageset, panel_number, settings.gain)
            pedestal = panel_pedestal(imageset, panel_number, settings.pedestal)
            if np.ndim(gain) or np.ndim(pedestal):
                values = np.where(
                    (values >= trusted[0]) & (values <= trusted[1]),
                    (values - pedestal) / gain,
                    np.nan,
                )
                gain, pedestal, trusted = 1.0, 0.0, (-np.inf, np.inf)
            usable = use[panel_number]
            if dynamic is not None:
                usable = usable & dynamic[panel_number]
            background = (None, None, None)
            if self.background is not None:
                background = self.background.panel(panel_number)
            if settings.pixels:
                pixels.append(
                    corrected_pixels(
                        values,
                        usable & ~bragg[panel_number],
                        trusted,
                        geometry.panels[panel_number],
                        panel_number,
                        seconds,
                        background,
                        dose,
                        gain,
                        pedestal,
                        tuple(limit / seconds for limit in limits),
                    )
                )
            sums.add_panel(
                panel_number,
                values,
                usable,
                trusted,
                geometry.panels[panel_number],
                matrix,
                bragg[panel_number],
                background,
                gain,
                pedestal,
                limits,
            )
        if not len(sums):
            raise ValueError(
                f"Not a single usable pixel on {still.path} (mask, limits, trusted range)"
            )
        columns = sums.columns(seconds, still.image_number)
        profile = radial_profile(columns, np.linalg.inv(matrix))
        return ExtractedStill(
            index=still.index,
            path=still.path,
            observations=StillObservations(columns, sums.repeated()),
            num_observations=len(sums),
            num_pixels=profile.num_pixels,
            photons=float(profile.photons.sum()),
            exposure_time=seconds,
            profile=profile,
            pixels=CorrectedDiffusePixelList.joined(pixels) if pixels else None,
        )


# Of a worker process
_extractor: Extractor | None = None
_scratch: ColumnScratch | None = None


def _start_worker(extractor: Extractor, scratch: ColumnScratch | None) -> None:
    global _extractor, _scratch
    _extractor, _scratch = extractor, scratch


def _extract_image(task: tuple[int, list[int]]) -> list[ExtractedStill]:
    number, places = task
    stills = _extractor.extract_image(number)
    for still, place in zip(stills, places):
        still.place = place
        if still.observations is not None:
            still.repeated = still.observations.repeated
            _scratch.store(place, still.observations.columns, still.repeated)
            still.observations = None
    return stills


def observation_scratch(experiments, folder: str | os.PathLike) -> ColumnScratch:
    """Room for the observations of stills, which have no more rows than pixels, until they are written."""
    most = max(
        sum(int(np.prod(panel.get_image_size())) for panel in detector)
        for detector in experiments.detectors()
    )
    return ColumnScratch(folder, COLUMNS, most)


def _first_readable(file: ExperimentFile):
    """The first experiment whose image can be opened.

    Raises:
        ValueError: none can.
    """
    reason = None
    for index in range(len(file)):
        try:
            return file.load([index])[0]
        except ValueError as error:
            reason = reason or error
    raise reason


def background_for(
    pair: DataPair, settings: ExtractionSettings, learnt: MaskSurvey | None = None
) -> Background | None:
    """The background that the settings name, read once for all files.

    Args:
        learnt: masks of the stills, where the files do not know them yet

    Raises:
        ValueError: unreadable, or of another shape than the detector; no image of the stills can be
            opened.
    """
    if settings.background is None:
        return None
    first = _first_readable(ExperimentFile(pair.experiments))

    def photons_of(imageset, index):
        return photons_of_image(imageset, index, gain=settings.gain, pedestal=settings.pedestal)

    return load_background(
        settings.background,
        first.detector,
        settings.corrections,
        settings.background_smoothing,
        photons_of,
        settings.background_exposure_time,
        static_mask(first.imageset) if learnt is None else learnt.good,
    )


def extract_pair(
    pair: DataPair,
    settings: ExtractionSettings,
    background: Background | None = None,
    nproc: int = 1,
    scratch: ColumnScratch | None = None,
    learnt: MaskSurvey | None = None,
) -> Iterator[tuple[object, ExtractedStill]]:
    """Extract the stills of a pair of files.

    Args:
        scratch: where the observations are stored; None: every still brings its own along
        learnt: see Extractor

    Yields:
        (experiment, ExtractedStill) in the order of the file, whatever nproc

    Raises:
        ValueError: files that don't match, or don't hold stills.
    """
    with contextlib.ExitStack() as stack:
        folder = None
        if nproc > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="diffuse_extract-"))
        extractor = Extractor(pair, settings, background, folder, learnt)
        nproc = min(nproc, len(extractor.images))
        if nproc > 1:
            extractor.share_geometries()
        # Made one by one as they are wanted, when places may have become free
        tasks = (
            (number, [scratch.place() for _ in stills] if scratch is not None else [])
            for number, stills in enumerate(extractor.images)
        )
        results = map_in_processes(
            _extract_image, tasks, nproc, initializer=_start_worker, initargs=(extractor, scratch)
        )
        # Lattices of one image come together, but the file may list them apart
        early = {}
        order = iter(sorted(still.index for stills in extractor.images for still in stills))
        expected = next(order, None)
        for stills in results:
            for still in stills:
                early[still.index] = still
                if still.error and scratch is not None:
                    scratch.free(still.place)
            while expected in early:
                yield extractor.experiments[expected], early.pop(expected)
                expected = next(order, None)


def extract_pairs(
    pairs: Sequence[DataPair],
    settings: ExtractionSettings,
    background: Background | None = None,
    nproc: int = 1,
    scratch: ColumnScratch | None = None,
    learnt: MaskSurvey | None = None,
) -> Iterator[tuple[object, ExtractedStill]]:
    """extract_pair of one pair after the other, so that no two are in memory at once."""
    for pair in pairs:
        yield from extract_pair(pair, settings, background, nproc, scratch, learnt)


def settings_of(params) -> ExtractionSettings:
    """ExtractionSettings from the parameters of dials.diffuse_extract.

    Raises:
        ValueError: a value makes no sense.
    """
    corrections = CorrectionSettings(
        solid_angle=params.corrections.solid_angle,
        polarization=params.corrections.polarization,
        efficiency=params.corrections.efficiency,
        air=params.corrections.air,
        lorentz=params.corrections.lorentz,
        sensor_material=params.sensor.material,
        sensor_thickness=params.sensor.thickness,
        sensor_mu=params.sensor.mu,
        medium=params.flight_path.medium,
        flight_path_length=params.flight_path.length,
        pressure=params.flight_path.pressure,
        temperature=params.flight_path.temperature,
    )
    names = {f.name for f in dataclasses.fields(ExtractionSettings)} - {"corrections", "pixels"}
    values = {name: getattr(params, name) for name in names}
    settings = ExtractionSettings(
        **{**values, "subdivide": tuple(params.subdivide)},
        corrections=corrections,
        pixels=params.output.pixels is not None,
    )
    settings.check()
    return settings


def summary_rows(stills: Sequence[ExtractedStill]) -> list[list[str]]:
    """A table of the stills, column names first; failures with "-"."""
    rows = [
        ["still", "image", "pixels", "photons", "photons/pixel", "exposure (s)", "observations"]
    ]
    for number, still in enumerate(stills):
        name = Path(still.path).name
        if still.error:
            rows.append([str(number), name, "-", "-", "-", "-", "-"])
            continue
        rows.append(
            [
                str(number),
                name,
                f"{still.num_pixels}",
                f"{still.photons:.0f}",
                f"{still.photons / still.num_pixels:.3f}" if still.num_pixels else "-",
                f"{still.exposure_time:g}",
                f"{still.num_observations}",
            ]
        )
    return rows
