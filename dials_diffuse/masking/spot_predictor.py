"""Predict the Bragg spots of stills to the extent to which they are masked."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dials.util import tabulate

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.spots.prediction import ObservedSpots, predict_spots
from dials_diffuse.masking.spots.rows import SpotRows
from dials_diffuse.masking.spots.shape import (
    FWHM_PER_SIGMA,
    SIGMA_TIMES_DOMAIN_SIZE,
    SpotShape,
    shape_of_model,
)
from dials_diffuse.masking.spots.size import MaskExtent, ResidualLevel, SizeFit

logger = logging.getLogger("dials.diffuse.masking")

# n_sigma where the images do not show the height of the spots
DEFAULT_N_SIGMA = 4.0


@dataclass(frozen=True)
class BraggMaskSettings:
    """Parameters of the scope bragg of dials.diffuse_mask."""

    scope: ClassVar[str] = "mask.bragg"

    method: str
    d_min: float | None
    n_sigma: float | None
    residual: float
    max_loss: float
    padding: float
    halo_radius: float
    size: str
    mosaicity: float | None
    domain_size: float | None
    bandwidth: float | None
    other_spots: bool
    multi_lattice: str

    @property
    def predicts(self) -> bool:
        """Whether spots are predicted."""
        return self.method in ("predicted", "halo")

    @property
    def needs_size(self) -> bool:
        """Whether the size of the spots has to be measured on images."""
        given = self.mosaicity is not None and self.domain_size is not None
        return self.predicts and self.size != "model" and not given


@dataclass(frozen=True)
class SpotPredictor:
    """Predicts the Bragg spots of one still after the other; picklable.

    Attributes:
        settings: parameters of the masks
        extent: how far spots are masked: a number of standard deviations, or one for each |q|
        fitted: shape measured on the images, None if it is not used
        residual_level: intensity to which bright spots are masked, None where it is not known
    """

    settings: BraggMaskSettings
    extent: float | MaskExtent
    fitted: SpotShape | None
    residual_level: ResidualLevel | None

    @classmethod
    def from_fit(
        cls, settings: BraggMaskSettings, fit: SizeFit | None, residual: float
    ) -> SpotPredictor:
        """Use the size and height of spots that were measured on images.

        Args:
            settings: parameters
            fit: None if nothing was measured
            residual: masked spots have fallen to this part of their surroundings (see the
                parameter bragg.residual, which it replaces)

        Raises:
            ValueError: the size is to be from the images, and nothing was measured.
        """
        if settings.size == "images" and fit is None:
            raise ValueError(
                "The images show no Bragg spots to measure their size: use bragg.size=model or "
                "give bragg.mosaicity and bragg.domain_size"
            )
        use_shape = fit is not None and (fit.reliable or settings.size == "images")
        extent, level = settings.n_sigma, None
        if extent is None and fit is not None:
            extent, level = fit.extent(residual), fit.residual_level(residual)
        elif extent is None:
            extent = DEFAULT_N_SIGMA
        return cls(settings, extent, fit.shape if use_shape else None, level)

    def shape(self, experiment) -> SpotShape:
        """The shape of a crystal's spots: from the parameters, else the images, else its models.

        Raises:
            ValueError: none of them gives a size.
        """
        settings = self.settings
        model = shape_of_model(experiment)
        shape = model if settings.size == "model" or self.fitted is None else self.fitted
        if settings.mosaicity is not None or settings.domain_size is not None:
            angle = shape.angle if shape else 0.0
            if settings.mosaicity is not None:
                angle = np.radians(settings.mosaicity) / FWHM_PER_SIGMA
            size = shape.size if shape else 0.0
            if settings.domain_size is not None:
                size = SIGMA_TIMES_DOMAIN_SIZE / settings.domain_size
            shape = SpotShape.isotropic(size, angle, source="parameters")
        if shape is None:
            raise ValueError(
                "The images show no Bragg spots to measure and the crystal model holds no "
                "mosaicity: give bragg.mosaicity and bragg.domain_size"
            )
        return shape if settings.bandwidth is None else shape.changed(along=settings.bandwidth)

    def predict(self, still: Still, integrated=None) -> SpotRows:
        """Predict the ellipses of a still's spots.

        Args:
            still: with crystal, beam and detector
            integrated: (miller_index (N, 3), counts (N,)) of its integrated reflections, or None

        Raises:
            ValueError: the size of its spots is not known.
        """
        settings, observed = self.settings, None
        if integrated and self.residual_level:
            observed = ObservedSpots(*integrated, self.residual_level)
        return predict_spots(
            still,
            self.shape(still.experiment),
            self.extent,
            settings.padding,
            settings.d_min,
            settings.halo_radius if settings.method == "halo" else 0.0,
            observed,
        )


def log_size(predictor: SpotPredictor, fit: SizeFit | None, residual: float, still: Still) -> None:
    """Log the measured size of the spots, the size that is used for a still, and what masks leave.

    Args:
        predictor, fit, residual: see SpotPredictor.from_fit
        still: an example
    """
    if fit is not None:
        header, *rows = fit.table()
        logger.info(
            "Standard deviations of the spots, measured on the images:\n%s", tabulate(rows, header)
        )
    try:
        shape = predictor.shape(still.experiment)
    except ValueError:
        pass
    else:
        across, towards = (np.degrees(np.sqrt(shape.across[i])) * FWHM_PER_SIGMA for i in (0, 2))
        logger.info(
            "Spots (size from %s): mosaicity %.3f deg across, %.3f deg towards the sphere (full "
            "width at half maximum), domain size %.0f A, relative bandwidth %.5f, detector %.2f px",
            shape.source,
            across,
            towards,
            SIGMA_TIMES_DOMAIN_SIZE / max(shape.size, 1e-9),
            shape.along,
            shape.point_spread,
        )
    if fit is not None:
        left = 100 * fit.bragg_left(residual, predictor.settings.padding)
        logger.info(
            "About %.2g %% of the Bragg photons are left if spots are of normal shape (what is seen "
            "outside of the masks of some images stands in their table)",
            left,
        )
