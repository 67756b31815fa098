"""The background as the average of images without the crystal."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from dials_diffuse.adapters.images import exposure_time, static_mask, transmission
from dials_diffuse.extraction.background.planes import Background
from dials_diffuse.extraction.background.smoothing import adaptive, radial
from dials_diffuse.extraction.photons import photons_of_image
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.geometry.panel import detector_geometry

logger = logging.getLogger("dials.diffuse.extraction.background")


@dataclass
class _EmptyShots:
    """Sums over empty shots.

    Attributes:
        photons: an (n_slow, n_fast) array a panel
        dose: of each pixel, an array a panel, s; 0 where it was never usable
        images: the images that were added
    """

    photons: list[np.ndarray] = field(default_factory=list)
    dose: list[np.ndarray] = field(default_factory=list)
    images: set[tuple[str, int]] = field(default_factory=set)

    def add_image(self, experiment, index: int, use, settings: ExtractionSettings) -> None:
        """Add an image of an experiment, unless it was added before.

        Args:
            index: of the image in the experiment's imageset
            use: (n_slow, n_fast) bool a panel, usable pixels

        Raises:
            ValueError: unreadable, without exposure time, or of another size than those before.
        """
        imageset = experiment.imageset
        name = (imageset.get_path(index), imageset.indices()[index])
        if name in self.images:
            return
        self.images.add(name)
        sizes = [mask.shape for mask in use]
        if not self.photons:
            self.photons = [np.zeros(size) for size in sizes]
            self.dose = [np.zeros(size) for size in sizes]
        elif sizes != [photons.shape for photons in self.photons]:
            raise ValueError("The background images differ in size from one another")
        seconds = exposure_time(experiment, index, settings.background_exposure_time)
        dose = seconds * transmission(experiment.beam)
        image = photons_of_image(imageset, index, settings.gain, settings.pedestal)
        for number, photons in enumerate(image):
            good = use[number] & np.isfinite(photons)
            self.photons[number] += np.where(good, photons, 0.0)
            self.dose[number] += dose * good


def average_of_empty_shots(
    experiments, settings: ExtractionSettings, usable: list[np.ndarray] | None = None
) -> Background:
    """Mean photons a pixel per second and unit transmission over all images of an experiment list.

    Args:
        experiments: stills or sweeps without the crystal
        settings: whose background_smoothing is "none": each pixel's own average, whose error is large where few
            photons were counted. "radial": photons/(Omega P QE A) as a function of |q|, a function a
            panel; the error is shared by the pixels of a bin. "adaptive": that, times what blocks of pixels
            (64 wide and smaller) significantly depart from it, as in the shadow of the beam stop.
        usable: see load_background

    Raises:
        ValueError: no image, images of different size, unreadable image, no exposure time.
    """
    shots = _EmptyShots()
    for experiment in experiments:
        imageset = experiment.imageset
        if imageset is None:
            raise ValueError("The background experiments have no images")
        use = static_mask(imageset)
        if usable is not None and [m.shape for m in usable] == [m.shape for m in use]:
            use = [mask & allowed for mask, allowed in zip(use, usable)]
        for index in range(len(imageset)):
            shots.add_image(experiment, index, use, settings)
    if not shots.images:
        raise ValueError("The background experiments have no images")
    logger.info("Background averaged over %d empty shots", len(shots.images))
    if settings.background_smoothing == "none":
        return _pixel_by_pixel(shots)
    smooth = {"radial": radial, "adaptive": adaptive}[settings.background_smoothing]
    first = next(experiment for experiment in experiments if len(experiment.imageset))
    geometry = detector_geometry(first.detector, first.beam, settings)
    panels = [smooth(*sums) for sums in zip(shots.photons, shots.dose, geometry)]
    return Background(
        [mean for mean, _ in panels], shared=[error for _, error in panels], per_dose=True
    )


def _pixel_by_pixel(shots: _EmptyShots) -> Background:
    # A pixel that was never good has no known background: NaN takes it out of the sums
    mean, spread = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for photons, dose in zip(shots.photons, shots.dose):
            mean.append((photons / dose).astype(np.float32))
            spread.append((np.maximum(photons, 0.0) / dose**2).astype(np.float32))
    return Background(mean, spread=spread, per_dose=True)
