"""Pixels that do not count photons as their neighbours do, judged over many images.

A pixel is compared with its resolution ring in every image, and with the median of its neighbours
(7 x 7) over all of them: diffuse features and shadows are wider than a pixel. Bragg spots are left
out image by image. A pixel that is bright in a minority of the images only is not faulty.
"""

from __future__ import annotations

import numba
import numpy as np

from dials_diffuse.masking.pixels.sums import PixelSums

_COMPARED = ("valid", "high", "near", "total", "expected", "variance", "least", "most")
CAUSES = ("negative", "overloaded", "hot", "cold", "stuck")
MIN_IMAGES = 3
# Probabilities below exp(-25) do not happen by chance in 1e9 pixels
IMPOSSIBLE = 25.0
# A pixel is compared with others up to this far away, pixels
HALF = 3


@numba.njit(cache=True)
def _neighbours(mean, valid, slow, fast):
    """Compare pixels at (slow, fast), (K,) each, with what is around them.

    Args:
        mean, valid: (n_slow, n_fast) mean of the valid values, and their number

    Returns:
        (K,) median of the means of the neighbours within HALF, nan without five valid ones, and (K,)
        third largest mean of the eight next to a pixel, nan without three valid ones
    """
    n_slow, n_fast = mean.shape
    median, third = np.empty(slow.size, np.float32), np.empty(slow.size, np.float32)
    box = np.empty((2 * HALF + 1) ** 2, np.float32)
    next_to = np.empty(8, np.float32)
    for k in range(slow.shape[0]):
        y, x = slow[k], fast[k]
        n = m = 0
        for j in range(max(0, y - HALF), min(n_slow, y + HALF + 1)):
            for i in range(max(0, x - HALF), min(n_fast, x + HALF + 1)):
                if valid[j, i] > 0 and not (i == x and j == y):
                    box[n] = mean[j, i]
                    n += 1
                    if abs(i - x) <= 1 and abs(j - y) <= 1:
                        next_to[m] = mean[j, i]
                        m += 1
        median[k] = np.median(box[:n]) if n >= 5 else np.nan
        third[k] = np.sort(next_to[:m])[m - 3] if m >= 3 else np.nan
    return median, third


def judge_pixels(sums: PixelSums, fraction: float) -> dict[str, list[np.ndarray]]:
    """Faulty pixels by cause.

    Args:
        sums: of a survey of images
        fraction: of the images in which a pixel must be odd

    Returns:
        cause -> (n_slow, n_fast) bool array a panel, True = faulty.

        - negative, overloaded: outside of the trusted range in more than `fraction` of the images
        - hot: alone brighter than its neighbours by more than half and 10 sigma, or above 6 sigma of
          its ring in more than `fraction` of the images and more than twice its neighbours
        - cold: less than half of its neighbours, by 6 sigma, or without a count where 25 were expected
        - stuck: always the same value where counting noise forbids it

        Hot, cold and stuck pixels are looked for in MIN_IMAGES images or more.
    """
    masks: dict[str, list[np.ndarray]] = {cause: [] for cause in CAUSES}
    for panel in range(len(sums.valid)):
        faulty = {
            "negative": sums.negative[panel] > fraction * sums.images,
            "overloaded": sums.overloaded[panel] > fraction * sums.images,
        }
        shape = sums.valid[panel].shape
        faulty.update({cause: np.zeros(shape, bool) for cause in ("hot", "cold", "stuck")})
        if sums.images >= MIN_IMAGES:
            _judge_by_neighbours(sums, panel, fraction, faulty)
        for cause in CAUSES:
            masks[cause].append(faulty[cause])
    return masks


def _adu_of_a_photon(expected, variance) -> np.float32:
    """Variance over mean, the median of the brighter half of the pixels; 1 where none expects a photon."""
    counting = expected > max(np.median(expected), 0)
    if not counting.any():
        return np.float32(1.0)
    return np.float32(np.median(variance[counting] / expected[counting]))


def _judge_by_neighbours(sums: PixelSums, panel: int, fraction: float, faulty) -> None:
    """Mark hot, cold and stuck pixels of a panel in the masks faulty, in place.

    Only candidates are compared with their neighbours: they are far from their ring or constant.
    """
    arrays = {name: getattr(sums, name)[panel] for name in _COMPARED}
    total, expected, variance = arrays["total"], arrays["expected"], arrays["variance"]
    # One photon more is no surprise even where none is expected
    photon = _adu_of_a_photon(expected, variance)
    valid = arrays["valid"].astype(np.float32)
    n = np.maximum(valid, 1)
    arrays["mean"] = (total / n).astype(np.float32)
    candidate = np.abs(total - expected) > 4 * np.sqrt(variance + photon * photon)
    candidate |= arrays["high"] > np.float32(fraction) * n
    candidate |= arrays["least"] == arrays["most"]
    candidate &= valid >= min(MIN_IMAGES, max(1.0, fraction * sums.images))
    places = np.nonzero(candidate)
    local, third = _neighbours(arrays["mean"], arrays["valid"], *places)
    known = np.isfinite(local)
    local, third = local[known], third[known]
    places = tuple(axis[known] for axis in places)
    hot, cold, stuck = _compare(
        {name: array[places] for name, array in arrays.items()}, local, third, photon, fraction
    )
    for cause, mask in (("hot", hot), ("cold", cold), ("stuck", stuck)):
        faulty[cause][places] = mask


def _compare(at: dict[str, np.ndarray], local, third, photon, fraction):
    """Which of K candidates are hot, cold and stuck, three (K,) bool arrays.

    Args:
        at: arrays of PixelSums, and the mean, at the candidates
        local, third: see _neighbours
        photon: ADU
        fraction: see judge_pixels
    """
    mean, total, variance = at["mean"], at["total"], at["variance"]
    valid = at["valid"].astype(np.float32)
    n = np.maximum(valid, 1)
    sigma = np.sqrt(variance + photon**2)
    # Spots and their tails that stay in place are wider than a pixel or two,
    alone = ~(mean - local < 3 * (third - local))
    # and where pixels are wider than spots the nodes are known
    alone &= at["near"] <= fraction * n
    surplus = total - local * valid
    often_high = at["high"] > fraction * n
    hot = alone & (
        ((mean > 1.5 * local) & (surplus > 10 * sigma))
        | (often_high & (mean > 2 * local) & (surplus > 6 * sigma))
    )
    # (local n)^2 / variance is the number of photons, whatever the gain
    with np.errstate(divide="ignore", invalid="ignore"):
        photons = np.where(variance > 0, (local * valid) ** 2 / variance, 0)
        per_image = np.where(valid > 0, variance / n, 0)
        improbable = (n - 1) * 0.5 * np.log(np.maximum(2 * np.pi * per_image, 1))
    cold = ((mean < 0.5 * local) & (surplus < -6 * sigma)) | ((total <= 0) & (photons > IMPOSSIBLE))
    constant = (at["least"] == at["most"]) & (total != 0)
    return hot, cold, constant & (improbable > IMPOSSIBLE) & ~hot & ~cold
