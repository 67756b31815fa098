"""Masks of images whose pixels are at hand, by what other stills have told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.images import check_shape
from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.bragg_rows import integrated_spots
from dials_diffuse.masking.bright.other_spots import OtherSpots
from dials_diffuse.masking.spots.painting import ELLIPSE
from dials_diffuse.masking.spots.prediction import SpotRows
from dials_diffuse.masking.survey_file import MaskSurvey


class UnknownSpots(ValueError):
    """The spots of a lattice are not known: its image can't be masked.

    Args:
        reason: why
        index: of the still
    """

    def __init__(self, reason: str, index: int):
        super().__init__(reason)
        self.index = index


@dataclass
class ImageSpots:
    """What is masked on an image.

    Attributes:
        of_stills: Bragg rows of each still on it
        others: rows of what else is bright
    """

    of_stills: list[SpotRows]
    others: SpotRows


class ImageMasker:
    """Masks images as dials.diffuse_mask does, without reading them once more.

    Args:
        learnt: on other stills
        reflections: integrated ones, or None
        stills: all that may be asked for

    Raises:
        ValueError: the masks are of saved shoeboxes, or the stills have been masked already.
    """

    def __init__(self, learnt: MaskSurvey, reflections, stills: Sequence[Still]):
        if reflections is not None and ELLIPSE in reflections:
            raise ValueError(
                "These stills are masked already: leave out survey=, or give the integrated ones"
            )
        if learnt.method == "shoebox":
            raise ValueError(
                "The survey was made with bragg.method=shoebox: mask the stills with dials.diffuse_mask"
            )
        self._predictor = learnt.predictor
        self._integrated = integrated_spots(reflections, list(stills))
        self._others = OtherSpots(
            learnt.good, learnt.predictor.settings.padding if learnt.predictor else 0.0
        )

    def mask(
        self, stills: Sequence[Still], raw: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], ImageSpots]:
        """Pixels under spots.

        Args:
            stills: (lattices) on the image
            raw: its pixels, an (n_slow, n_fast) array a panel

        Returns:
            an (n_slow, n_fast) bool array a panel, True = under a spot; and the spots

        Raises:
            UnknownSpots: where they are can't be told.
            ValueError: the image is not one of the detector.
        """
        check_shape(raw, stills[0])
        rows, others = [SpotRows.none()] * len(stills), SpotRows.none()
        if self._predictor is not None:
            rows = [self._predicted(still) for still in stills]
        flat = self._others.painted(rows)
        if self._predictor is not None and self._predictor.settings.other_spots:
            others = self._others.find_in(raw, stills[0], flat)
            self._others.painted([others], flat)
        return self._others.of_panels(flat), ImageSpots(
            [part.for_table() for part in rows], others.for_table()
        )

    def _predicted(self, still: Still) -> SpotRows:
        try:
            return self._predictor.predict(still, self._integrated[still.index])
        except (ValueError, RuntimeError, np.linalg.LinAlgError) as error:
            raise UnknownSpots(str(error), still.index) from error
