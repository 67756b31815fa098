"""Choose how far Bragg spots are masked, so that enough pixels are left."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.bragg_rows import UNPREDICTABLE, integrated_spots
from dials_diffuse.masking.spot_predictor import BraggMaskSettings, SpotPredictor
from dials_diffuse.masking.spots.flat_panels import FlatPanels
from dials_diffuse.masking.spots.size import SizeFit
from dials_diffuse.masking.survey import spread_subset

logger = logging.getLogger("dials.diffuse.masking")

# However many pixels that costs, no more than this part of the Bragg photons is left
MOST_BRAGG_LEFT = 0.003
# Images on which the cost in pixels is measured
LOSS_IMAGES = 5
# Bisections of the residual
LOSS_STEPS = 6


def masked_part(
    predictor: SpotPredictor, groups: Sequence[Sequence[Still]], integrated: dict, good
) -> float:
    """The part of the good pixels that is under Bragg spots: the mean over images.

    Images whose spots can't be predicted are left out of the mean. Arguments are as of
    choose_residual; integrated is from integrated_spots.
    """
    panels = FlatPanels([mask.shape for mask in good])
    good_pixels = np.concatenate([mask.ravel() for mask in good])
    parts = []
    for group in groups:
        try:
            rows = [predictor.predict(still, integrated[still.key]) for still in group]
        except UNPREDICTABLE:
            continue
        parts.append((panels.paint(rows) & good_pixels).sum() / good_pixels.sum())
    return float(np.mean(parts)) if parts else 0.0


def choose_residual(
    settings: BraggMaskSettings,
    fit: SizeFit | None,
    groups: Sequence[Sequence[Still]],
    reflections,
    good: Sequence[np.ndarray],
) -> float:
    """Choose how far spots are masked: to which residual of their scattering.

    The residual is the mean scattering of a spot at the edge of its mask, as a fraction of the
    scattering around the spot: a smaller residual means larger masks. The parameter bragg.residual is
    taken if the masks of some images then cover, on average, no more than the fraction bragg.max_loss
    of the good pixels. Else the residual is raised until they do, but only as far as at most
    MOST_BRAGG_LEFT of the Bragg photons are left outside of the masks. A raised residual is logged.

    Args:
        settings: parameters of the Bragg masks
        fit: size of the spots, measured on images; None: the parameter is taken
        groups: for each image, the stills (lattices) on it
        reflections: table of integrated reflections of the stills, whose bright spots are masked
            further out; None: there is none
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel

    Returns:
        the residual, at least bragg.residual
    """
    if fit is None or settings.n_sigma is not None:
        return settings.residual
    sample = spread_subset(groups, LOSS_IMAGES)
    integrated = integrated_spots(reflections, [still for group in sample for still in group])

    def affordable(residual: float) -> bool:
        predictor = SpotPredictor.from_fit(settings, fit, residual)
        return masked_part(predictor, sample, integrated, good) <= settings.max_loss

    if affordable(settings.residual):
        return settings.residual
    steps = np.geomspace(settings.residual, 1.0, 200)
    left = np.array([fit.bragg_left(step, settings.padding) for step in steps])
    low, high = settings.residual, steps[left <= max(MOST_BRAGG_LEFT, left[0])][-1]
    if affordable(high):
        for _ in range(LOSS_STEPS):
            middle = np.sqrt(low * high)
            low, high = (low, middle) if affordable(middle) else (middle, high)
    logger.info(
        "bragg.residual=%g would mask more than %g %% of the pixels (bragg.max_loss). Spots are "
        "masked until they have fallen to %.3g of the scattering around them",
        settings.residual,
        100 * settings.max_loss,
        high,
    )
    return float(high)
