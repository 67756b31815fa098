from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.masking.pixels.dynamic import CAUSES, judge_pixels
from dials_diffuse.masking.pixels.sums import PixelSums

SHAPE = (50, 60)
MEAN = 5.0


def sums_of(images, trusted=(0, 1000), gain=1.0) -> PixelSums:
    """Sums as a survey has them, where the mean of all rings is MEAN photons."""
    sums = PixelSums.empty([SHAPE])
    for image in images * gain:
        valid = (image >= trusted[0] * gain) & (image <= trusted[1] * gain)
        sums.negative[0] += image < trusted[0] * gain
        sums.overloaded[0] += image > trusted[1] * gain
        sums.valid[0] += valid
        sums.high[0] += valid & (image > gain * (MEAN + 6 * np.sqrt(MEAN)))
        sums.total[0] += np.where(valid, image, 0)
        sums.expected[0] += gain * MEAN * valid
        sums.variance[0] += gain**2 * MEAN * valid
        sums.least[0] = np.where(valid, np.minimum(sums.least[0], image), sums.least[0])
        sums.most[0] = np.where(valid, np.maximum(sums.most[0], image), sums.most[0])
        sums.images += 1
    return sums


@pytest.fixture
def images():
    """Images with one faulty pixel of each kind, and bright pixels that are not faulty."""
    images = np.random.default_rng(3).poisson(MEAN, (20, *SHAPE)).astype(float)
    images[:, 5, 5] = -1
    images[:12, 10, 10] = 5000
    images[:, 15, 15] *= 6
    images[:, 20, 20] //= 10
    images[:, 25, 25] = 5
    images[:8, 30, 30] = 900  # a spot in a minority of the images only is hot all the same
    images[:9, 35, 35] = -1  # not in more than half of the images
    images[:, 40:44, 40:44] *= 6  # wider than a pixel
    return images


FAULTY = {"negative": [[5, 5]], "overloaded": [[10, 10]], "cold": [[20, 20]], "stuck": [[25, 25]]}


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_each_faulty_pixel_is_found_for_its_cause(images, gain):
    faulty = judge_pixels(sums_of(images, gain=gain), 0.5)
    assert tuple(faulty) == CAUSES
    for cause, places in FAULTY.items():
        assert np.argwhere(faulty[cause][0]).tolist() == places, cause
    assert np.argwhere(faulty["hot"][0]).tolist() == [[15, 15], [30, 30]]


def test_a_pixel_at_predicted_nodes_is_not_hot(images):
    sums = sums_of(images)
    sums.near[0][15, 15] = 11
    hot = judge_pixels(sums, 0.5)["hot"][0]
    assert np.argwhere(hot).tolist() == [[30, 30]]
    sums.near[0][15, 15] = 10
    assert judge_pixels(sums, 0.5)["hot"][0][15, 15]


def test_a_smaller_fraction_finds_pixels_that_flicker(images):
    assert judge_pixels(sums_of(images), 0.4)["negative"][0][35, 35]


def test_two_images_show_only_what_is_not_trusted(images):
    faulty = judge_pixels(sums_of(images[:2]), 0.5)
    assert faulty["negative"][0].sum() == 2 and faulty["overloaded"][0].sum() == 1
    assert not any(faulty[cause][0].any() for cause in ("hot", "cold", "stuck"))
