"""Bragg masks of images while they are read: from the rows of diffuse_masked.refl, or by a survey.

Both ways have the protocol Masker, so that who reads the images need not know which it is.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dials_diffuse.adapters.experiments import as_read_from_file
from dials_diffuse.adapters.images import (
    check_shape,
    lower_trusted_range,
    panel_sizes,
    read_raw,
    static_mask,
    trusted_bounds,
)
from dials_diffuse.adapters.stills import Still, group_by_image, stills_of
from dials_diffuse.grid.lattice_settings import LatticeSetting
from dials_diffuse.io.atomic import replacing
from dials_diffuse.masking.bragg_rows import integrated_spots
from dials_diffuse.masking.bright.other_spots import OtherSpots
from dials_diffuse.masking.lattices import only_one_lattice, other_lattice_unknown
from dials_diffuse.masking.pixels.static import own_masks, set_lookup_mask
from dials_diffuse.masking.spots.painting import BraggRows
from dials_diffuse.masking.spots.rows import ELLIPSE, CollectedSpots, SpotRows
from dials_diffuse.masking.survey_file import MaskSurvey

logger = logging.getLogger("dials.diffuse.mask")


class ImageMask(NamedTuple):
    """The Bragg mask of one image.

    Attributes:
        stills: (lattices) on the image, with the crystals that are to be used
        bragg: an (n_slow, n_fast) bool array a panel, True = under a spot
        rows: for each still the new rows of spots that were found on the way, each with True if they are not of
            its lattice
    """

    stills: list[Still]
    bragg: list[np.ndarray]
    rows: list[list[tuple[SpotRows, bool]]]


class Masker(Protocol):
    """Masks images that are in memory.

    What methods do by default is right for stills whose masked files are there already.

    Attributes:
        setting: that the voxels of all stills shall have, None: the most frequent one
    """

    setting: LatticeSetting | None = None

    def for_pair(self, experiments, reflections) -> Masker:
        """A masker for one pair of files; only this has `mask`.

        Args:
            experiments: the .expt file, without images
            reflections: its table

        Raises:
            ValueError: the files can't be masked in this way.
        """

    def mask(self, stills: Sequence[Still], raw: Sequence[np.ndarray]) -> ImageMask:
        """The mask of an image.

        Args:
            stills: (lattices) on the image
            raw: its pixels, an (n_slow, n_fast) array a panel

        Raises:
            ValueError: it can't be masked; see `left_out`.
        """

    def images(self, experiments) -> list[list[Still]]:
        """The stills that are to be used, those on one image together."""
        return group_by_image(stills_of(experiments))

    def good_pixels(self, imageset) -> list[np.ndarray]:
        """Pixels usable in every image, a new (n_slow, n_fast) bool array a panel."""
        return static_mask(imageset)

    def left_out(self, still: Still, error: Exception) -> tuple[str, str]:
        """What becomes of a still whose image can't be read or masked.

        Returns:
            (reason, name that it is listed under as left out; "" if it stays in the files, without
            observations)
        """
        return str(error), ""

    def restore(self, experiments) -> None:
        """Give experiments, in place, the crystals that they would have in their masked files."""

    def write(self, experiments, spots: CollectedSpots, expt: str, refl: str) -> None:
        """Write the masked files, if they are not there yet.

        Args:
            experiments: the stills, changed in place as by `restore`
            spots: their rows
            expt, refl: names of the files
        """

    def failures(self, left_out: dict[str, str]) -> dict:
        """Entries of output.json about stills that were left out.

        Args:
            left_out: name -> reason
        """
        return {}


class RowMasker(Masker):
    """Paints the rows that dials.diffuse_mask wrote.

    Args:
        reflections: its table; None: only what is common to all files can be used

    Raises:
        ValueError: the table has neither ellipses nor shoeboxes.
    """

    def __init__(self, reflections=None):
        self._rows = None if reflections is None else BraggRows(reflections)

    def for_pair(self, experiments, reflections) -> RowMasker:
        return RowMasker(reflections)

    def bragg(self, stills: Sequence[Still]) -> list[np.ndarray]:
        """Pixels under Bragg spots of the stills (lattices) on one image.

        Returns:
            an (n_slow, n_fast) bool array a panel, True = under Bragg
        """
        return self._rows.paint([still.key for still in stills], panel_sizes(stills[0].detector))

    def mask(self, stills: Sequence[Still], raw: Sequence[np.ndarray]) -> ImageMask:
        return ImageMask(list(stills), self.bragg(stills), [[] for _ in stills])


class UnknownSpots(ValueError):
    """The spots of a lattice are not known: its image can't be masked.

    Args:
        reason: why
        index: of the still
    """

    def __init__(self, reason: str, index: int):
        super().__init__(reason)
        self.index = index


class SurveyMasker(Masker):
    """Masker of integrated stills: predicts their spots with a survey while their images are read.

    `mask` gives the mask of an image and the rows of its spots. The results of an extraction are, to the
    last bit, those of dials.diffuse_mask followed by dials.diffuse_extract. To that end each crystal is
    passed through to_dict() and from_dict(), as if it had been written to the masked .expt file and
    read again.

    Args:
        survey: of stills with the same detector and symmetry as those to be masked
        integrated: integrated reflections of each still of one .expt and .refl pair, see
            integrated_spots
    """

    def __init__(self, survey: MaskSurvey, integrated: dict | None = None):
        self._survey = survey
        self._integrated = integrated or {}
        self.setting = survey.setting

    @functools.cached_property
    def _others(self) -> OtherSpots:
        survey = self._survey
        padding = survey.predictor.settings.padding if survey.predictor else 0.0
        return OtherSpots(survey.good, padding, survey.features)

    def for_pair(self, experiments, reflections) -> SurveyMasker:
        self._survey.check(experiments)
        if ELLIPSE in reflections:
            raise ValueError(
                "These stills are masked already: leave out survey=, or give the integrated ones"
            )
        if self._survey.method == "shoebox":
            raise ValueError(
                "The survey was made with bragg.method=shoebox: mask the stills with dials.diffuse_mask"
            )
        lower_trusted_range(experiments.detectors(), self._survey.trusted_limit)
        stills = stills_of(experiments)
        return SurveyMasker(self._survey, integrated_spots(reflections, stills))

    def images(self, experiments) -> list[list[Still]]:
        groups = super().images(experiments)
        if self._survey.multi_lattice == "exclude":
            return only_one_lattice(groups)
        return groups

    def good_pixels(self, imageset) -> list[np.ndarray]:
        ((_, own),) = own_masks([imageset])
        return [mask & kept for mask, kept in zip(self._survey.good, own)]

    def mask(self, stills: Sequence[Still], raw: Sequence[np.ndarray]) -> ImageMask:
        check_shape(raw, stills[0])
        lower_trusted_range([still.detector for still in stills], self._survey.trusted_limit)
        others = SpotRows.none()
        spots = [self._predicted(still) for still in stills]
        flat = self._others.painted(spots)
        if self._survey.needs_images:
            others = self._others.find_in(raw, stills, flat).rows
            self._others.painted([others], flat)
        rows = [[(own.for_table(), False)] for own in spots]
        rows[0].append((others.for_table(), True))
        self.restore([still.experiment for still in stills])
        # New ones: a still keeps the matrix of the crystal that it had
        stills = [dataclasses.replace(still) for still in stills]
        return ImageMask(stills, self._others.of_panels(flat), rows)

    def _predicted(self, still: Still) -> SpotRows:
        """Raises UnknownSpots."""
        if self._survey.predictor is None:
            return SpotRows.none()
        try:
            return self._survey.predictor.predict(still, self._integrated[still.key])
        except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
            raise UnknownSpots(str(error), still.index) from error

    def left_out(self, still: Still, error: Exception) -> tuple[str, str]:
        if not isinstance(error, UnknownSpots):
            return str(error), still.path
        own = error.index == still.index
        reason = str(error) if own else other_lattice_unknown(error.index)
        return reason, still.name or still.path

    def restore(self, experiments) -> None:
        for experiment in experiments:
            experiment.crystal = experiment.crystal and as_read_from_file(experiment.crystal)

    def write(self, experiments, spots: CollectedSpots, expt: str, refl: str) -> None:
        set_lookup_mask(experiments.imagesets(), self._survey.good, self._survey.mask)
        logger.info("Saving %d rows of Bragg spots to %s and %s", len(spots), expt, refl)
        with replacing(expt) as new_expt, replacing(refl) as new_refl:
            experiments.as_file(new_expt)
            spots.write(new_refl, dict(enumerate(experiments.identifiers())))
        self.restore(experiments)

    def failures(self, left_out: dict[str, str]) -> dict:
        return {"failures": left_out}


def masker_for(survey: str | None) -> Masker:
    """The masker that the parameter survey stands for.

    Args:
        survey: name of a file that output.survey of dials.diffuse_mask wrote; None: the stills are masked

    Raises:
        ValueError: unreadable file.
    """
    return SurveyMasker(MaskSurvey.from_file(survey)) if survey else RowMasker()


def trusted_pixels(raw: np.ndarray, good: np.ndarray, low: float, high: float) -> np.ndarray:
    """The good pixels whose value is within [low, high], a new (n_slow, n_fast) bool array."""
    # Compared in double precision, whatever the type of the image
    bounds = np.array([[low], [high]])
    return good & (bounds[0] <= raw) & (raw <= bounds[1])


def complete_mask(
    stills: Sequence[Still], masker: RowMasker, raw=None, static=None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Good pixels and Bragg pixels of one image.

    Args:
        stills: all stills (lattices) on the image
        masker: of their table
        raw: pixels of the image, one array a panel; read when not given
        static: pixels good in every image; from the imageset when not given

    Returns:
        (good, bragg), an (n_slow, n_fast) bool array a panel each. good: usable and
        trusted; bragg: under a spot. Diffuse scattering is good & ~bragg.

    Raises:
        ValueError: unreadable image, or a lookup mask of another shape.
    """
    still = stills[0]
    raw = read_raw(still.imageset, still.image_index) if raw is None else raw
    static = static_mask(still.imageset) if static is None else static
    good = [
        trusted_pixels(pixels, mask, *trusted_bounds(panel))
        for pixels, mask, panel in zip(raw, static, still.detector)
    ]
    return good, masker.bragg(stills)
