"""Look at some images for sharp features of the crystal, before bright groups are masked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.system import map_in_processes, resolve_nproc
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.masking.bragg_rows import UNPREDICTABLE, integrated_spots
from dials_diffuse.masking.bright.evidence import Evidence, ImageEvidence, image_evidence
from dials_diffuse.masking.bright.features import CrystalFeatures, feature_grid
from dials_diffuse.masking.bright.other_spots import OtherSpots, read_image
from dials_diffuse.masking.spot_predictor import SpotPredictor
from dials_diffuse.masking.spots.prediction import detector_d_min
from dials_diffuse.masking.survey import spread_subset

logger = logging.getLogger("dials.diffuse.masking")


@dataclass(frozen=True)
class _LookAtImage:
    """Collects what an image tells.

    Attributes:
        predictor: of spots
        others: finds bright groups
        grid: of voxels
        q_max: 1/Angstrom
    """

    predictor: SpotPredictor
    others: OtherSpots
    grid: VoxelGrid
    q_max: float

    def __call__(self, task) -> ImageEvidence | None:
        """task: (stills, integrated spots of each); None: the image can't be used."""
        stills, integrated = task
        try:
            rows = [self.predictor.predict(*pair) for pair in zip(stills, integrated)]
            raw = read_image(stills[0])
        except UNPREDICTABLE:
            return None
        known = self.others.painted(rows)
        return image_evidence(stills, raw, known, self.others, self.grid, self.q_max)


def learn_features(
    groups: Sequence[list[Still]],
    n_images: int,
    reflections,
    predictor: SpotPredictor,
    good,
    nproc: int | None,
) -> CrystalFeatures:
    """Learn from some of the images, evenly spread over all, what bright groups are the crystal's.

    The result is the same whatever the number of processes.

    Args:
        groups: stills by image
        n_images: how many of them
        reflections: integrated ones of the stills, or None
        predictor: of their spots
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel
        nproc: number of processes, None for as many as there are processors
    """
    subset = spread_subset(groups, n_images)
    integrated = integrated_spots(reflections, [still for group in subset for still in group])
    still = subset[0][0]
    q_max = 1 / detector_d_min(still.detector, still.beam)
    others = OtherSpots(good, predictor.settings.padding)
    grid = feature_grid(still)
    evidence = Evidence(grid, q_max)
    found = map_in_processes(
        _LookAtImage(predictor, others, grid, q_max),
        ((group, [integrated[still.key] for still in group]) for group in subset),
        resolve_nproc(nproc, len(subset)),
    )
    for image in found:
        if image is not None and not evidence.full:
            evidence.add(image)
    return evidence.learn()
