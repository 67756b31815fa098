"""The result of dials.diffuse_mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.masking.bright.features import CrystalFeatures, RegionCounts
from dials_diffuse.masking.image_check import ImageCheck
from dials_diffuse.masking.spot_predictor import SpotPredictor
from dials_diffuse.masking.spots.size import SizeFit
from dials_diffuse.masking.survey import SurveySums


@dataclass
class MaskResult:
    """The masks of a set of stills.

    Attributes:
        experiments: the stills that are left
        reflections: Bragg rows of all of them
        mask: content of pixels.mask: a flex.bool a panel, True = good
        good: the same as (n_slow, n_fast) bool arrays
        causes: cause -> such arrays, True = removed by it
        survey: sums over some of the images, or None
        size_fit: size of the spots that was measured on them, or None
        predictor: of the spots, None where none are predicted
        failures: path of an image or identifier of a still -> why it can't be used
        features: tells which bright groups are the crystal's, None where none are looked for
        bright: path of an image -> numbers of its bright regions
        checks: images that were compared with their masks
        multi_lattice: number of images that were left out because they have several lattices
        own_masks: whether images have lookup masks of their own, which remove further pixels
        trusted_limit: where the trusted range ends because larger values mark overloads, ADU, or None
    """

    experiments: ExperimentList
    reflections: flex.reflection_table
    mask: tuple[flex.bool, ...]
    good: list[np.ndarray]
    causes: dict[str, list[np.ndarray]]
    survey: SurveySums | None
    size_fit: SizeFit | None
    predictor: SpotPredictor | None
    failures: dict[str, str]
    features: CrystalFeatures | None = None
    bright: dict[str, RegionCounts] = field(default_factory=dict)
    checks: list[ImageCheck] = field(default_factory=list)
    multi_lattice: int = 0
    own_masks: bool = False
    trusted_limit: float | None = None
