"""Pixels that do not count photons as their neighbours do, judged over many images.

A pixel is compared with its resolution ring in every image, and with the median of its
neighbours (7 x 7) over all of them: diffuse features and shadows are wider than a pixel.
Bragg spots are left out image by image, and what is bright in a minority of images only
is no fault of the pixel.
"""

from __future__ import annotations

import logging

import numba
import numpy as np

from dials_diffuse.masking.pixels.sums import PixelSums

logger = logging.getLogger("dials.diffuse.masking.dynamic")

CAUSES = ("negative", "overloaded", "hot", "cold", "stuck")
MIN_IMAGES = 3
# Probabilities below exp(-25) do not happen by chance in 1e9 pixels
IMPOSSIBLE = 25.0


@numba.njit(cache=True)
def _candidates(
    valid, high, total, expected, variance, least, most, photon, seen, fraction, mean, candidate
):
    """Mean of the valid values of every pixel, and whether its place among others must be looked at."""
    for y in range(valid.shape[0]):
        for x in range(valid.shape[1]):
            n = max(np.float32(valid[y, x]), np.float32(1))
            mean[y, x] = total[y, x] / n
            sigma = np.sqrt(variance[y, x] + photon * photon)
            candidate[y, x] = np.float32(valid[y, x]) >= seen and (
                high[y, x] > fraction * n
                or abs(total[y, x] - expected[y, x]) > np.float32(4) * sigma
                or least[y, x] == most[y, x]
            )


@numba.njit(cache=True)
def _neighbours(mean, valid, slow, fast, half, median, third):
    """Around the pixels at (slow, fast): median of the mean of valid neighbours (nan without five
    of them), and the third largest mean of the eight next to it."""
    n_slow, n_fast = mean.shape
    box = np.empty((2 * half + 1) ** 2, np.float32)
    next_to = np.empty(8, np.float32)
    for k in range(slow.shape[0]):
        y, x = slow[k], fast[k]
        n = m = 0
        for j in range(max(0, y - half), min(n_slow, y + half + 1)):
            for i in range(max(0, x - half), min(n_fast, x + half + 1)):
                if valid[j, i] > 0 and not (i == x and j == y):
                    box[n] = mean[j, i]
                    n += 1
                    if abs(i - x) <= 1 and abs(j - y) <= 1:
                        next_to[m] = mean[j, i]
                        m += 1
        median[k] = np.median(box[:n]) if n >= 5 else np.nan
        third[k] = np.sort(next_to[:m])[m - 3] if m >= 3 else np.nan


def judge_pixels(sums: PixelSums, fraction: float = 0.5) -> dict[str, list[np.ndarray]]:
    """Faulty pixels by cause.

    Args:
        sums: of a survey of images
        fraction: of the images in which a pixel must be odd

    Returns:
        cause -> (n_slow, n_fast) bool array a panel, True = faulty. negative and
        overloaded: outside of the trusted range in more than `fraction` of the images.
        hot: alone brighter than its neighbours by more than half and 10 sigma, or above
        6 sigma of its ring in more than `fraction` of the images and more than twice its
        neighbours. cold: less than half of its neighbours, by 6 sigma, or never a count where
        25 were expected. stuck: always the same value where counting noise forbids it.
    """
    found = {cause: [] for cause in CAUSES}
    for number in range(len(sums.valid)):
        for cause, mask in _judge_panel(sums, number, fraction).items():
            found[cause].append(mask)
    return found


def _judge_panel(sums: PixelSums, number: int, fraction: float) -> dict[str, np.ndarray]:
    every = {
        name: getattr(sums, name)[number]
        for name in ("valid", "high", "total", "expected", "variance", "least", "most")
    }
    enough = max(1.0, fraction * sums.images)
    none = np.zeros(every["valid"].shape, bool)
    result = {
        "negative": sums.negative[number] > fraction * sums.images,
        "overloaded": sums.overloaded[number] > fraction * sums.images,
        "hot": none,
        "cold": none.copy(),
        "stuck": none.copy(),
    }
    if sums.images < MIN_IMAGES:
        return result
    # One photon more is no surprise even where none is expected; ADU of a photon: for
    # counting noise, variance / mean
    expected, variance = every["expected"], every["variance"]
    counting = expected > max(np.median(expected), 0)
    photon = np.median(variance[counting] / expected[counting]) if counting.any() else 1.0
    photon = np.float32(photon)
    means = np.empty(none.shape, np.float32)
    candidate = np.empty(none.shape, bool)
    _candidates(
        *every.values(),
        photon,
        np.float32(min(MIN_IMAGES, enough)),
        np.float32(fraction),
        means,
        candidate,
    )
    places = np.nonzero(candidate)
    local = np.zeros(len(places[0]), np.float32)
    third = np.zeros(len(places[0]), np.float32)
    _neighbours(means, every["valid"], *places, 3, local, third)
    known = np.isfinite(local)
    places, local, third = tuple(axis[known] for axis in places), local[known], third[known]
    # From here on of the candidates only
    mean = means[places]
    high, near = every["high"][places], sums.near[number][places]
    total, expected, variance = (every[name][places] for name in ("total", "expected", "variance"))
    constant = every["least"][places] == every["most"][places]
    valid = every["valid"][places].astype(np.float32)
    n = np.maximum(valid, 1)
    sigma = np.sqrt(variance + photon**2)
    often_high = high > fraction * n
    # Spots and their tails that stay in place are wider than a pixel or two
    alone = ~(mean - local < 3 * (third - local))
    # and where pixels are wider than spots the nodes are known
    alone &= near <= fraction * n
    surplus = total - local * valid
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
    stuck = constant & (total != 0) & (improbable > IMPOSSIBLE) & ~hot & ~cold
    for cause, found in (("hot", hot), ("cold", cold), ("stuck", stuck)):
        result[cause][places] = found
    return result
