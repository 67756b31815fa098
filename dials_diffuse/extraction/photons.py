"""From the values of pixels to photons: gain and pedestal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dials_diffuse.adapters.images import read_raw, trusted_bounds
from dials_diffuse.adapters.tables import as_numpy

BackgroundPlanes = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


class PanelPixels(NamedTuple):
    """The pixels of one panel of an image, and what turns their values into photons.

    photons = (raw - pedestal)/gain

    Attributes:
        raw: (n_slow, n_fast) int32 or float64, ADU
        use: (n_slow, n_fast) bool, pixels to use (static and dynamic mask, limits, step)
        bragg: (n_slow, n_fast) bool, True under a Bragg spot
        trusted: smallest and largest value that counts, ADU
        gain: ADU per photon
        pedestal: ADU
        background: expected photons of each pixel, the variance of what is each pixel's own error, and the
            standard deviation of what neighbouring pixels share ((n_slow, n_fast) float32 each, finite
            everywhere, None for none), all per unit of dose
        intensity: limits of (photons - background)/E of a pixel, photons/sr
    """

    raw: np.ndarray
    use: np.ndarray
    bragg: np.ndarray
    trusted: tuple[float, float]
    gain: float = 1.0
    pedestal: float = 0.0
    background: BackgroundPlanes = (None, None, None)
    intensity: tuple[float, float] = (-np.inf, np.inf)

    def with_maps(self, gain, pedestal) -> PanelPixels:
        """The same with a gain and a pedestal, each a number or an (n_slow, n_fast) array.

        Where one is an array the values become photons, NaN for those not trusted.
        """
        if not (np.ndim(gain) or np.ndim(pedestal)):
            return self._replace(gain=float(gain), pedestal=float(pedestal))
        trusted = (self.raw >= self.trusted[0]) & (self.raw <= self.trusted[1])
        photons = np.where(trusted, (self.raw - pedestal) / gain, np.nan)
        return self._replace(raw=photons, trusted=(-np.inf, np.inf), gain=1.0, pedestal=0.0)


def photons_of_image(imageset, index: int, gain=None, pedestal=None) -> list[np.ndarray]:
    """Photons of every pixel of an image.

    Args:
        imageset: with the image
        index: of the image in it
        gain, pedestal: see panel_gain and panel_pedestal

    Returns:
        an (n_slow, n_fast) float64 array a panel, NaN where the value is not trusted
    """
    images = []
    for number, (panel, values) in enumerate(
        zip(imageset.get_detector(), read_raw(imageset, index))
    ):
        low, high = trusted_bounds(panel)
        photons = values - panel_pedestal(imageset, number, pedestal)
        photons = photons / panel_gain(imageset, number, gain)
        photons[~((values >= low) & (values <= high))] = np.nan
        images.append(photons)
    return images


def panel_gain(imageset, number: int, override: float | None = None):
    """Gain of a panel: the parameter, else the imageset's gain map, else the panel's.

    Args:
        imageset: of the image
        number: of the panel
        override: value of the parameter

    Returns:
        ADU per photon, a number or an (n_slow, n_fast) array

    Raises:
        ValueError: not positive.
    """
    gain = override
    if gain is None:
        gain = _lookup(imageset.external_lookup.gain, number)
    if gain is None:
        gain = imageset.get_detector()[number].get_gain()
    if not (np.isfinite(gain).all() and np.min(gain) > 0):
        raise ValueError(
            f"The gain of panel {number} is {np.min(gain)}, not a positive number: give gain= in ADU per photon"
        )
    return gain


def panel_pedestal(imageset, number: int, override: float | None = None):
    """Value of a pixel that counts nothing, ADU: the parameter, else the imageset's map, else the panel's.

    Arguments and result as of panel_gain.
    """
    if override is not None:
        return override
    pedestal = _lookup(imageset.external_lookup.pedestal, number)
    return imageset.get_detector()[number].get_pedestal() if pedestal is None else pedestal


def _lookup(item, number: int) -> np.ndarray | None:
    if item.data.empty():
        return None
    return as_numpy(item.data.tile(number).data())
