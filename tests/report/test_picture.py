"""Pictures of images with masks, read back by another library."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dials_diffuse.report.picture import BRAGG_COLOUR, STATIC_COLOUR, binned, image_with_masks, png


def read(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def test_png_by_pillow():
    rgb = np.random.default_rng(1).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(png(rgb)), rgb)


def test_blocks_are_those_of_numpy():
    rng = np.random.default_rng(2)
    array, use = rng.normal(size=(10, 14)), rng.random((10, 14)) < 0.7
    total, number = binned(array, use, 3)
    # three whole blocks along the slow axis, four along the fast one
    blocks = (slice(0, 9), slice(0, 12))
    expected = np.where(use, array, 0)[blocks].reshape(3, 3, 4, 3).sum(axis=(1, 3))
    assert total == pytest.approx(expected)
    np.testing.assert_array_equal(number, use[blocks].reshape(3, 3, 4, 3).sum(axis=(1, 3)))


def test_bright_pixels_are_dark_and_masks_coloured():
    pixels = np.zeros((40, 60))
    pixels[10:20, 10:30] = 100.0
    bad, bragg = np.zeros(pixels.shape, bool), np.zeros(pixels.shape, bool)
    bad[:, 50:] = True
    pixels[:, 50:] = 1e9  # of bad pixels the value does not matter
    bragg[30:35, :5] = True
    picture = read(image_with_masks(pixels, bad, bragg)).astype(int)
    assert picture.shape == (40, 60, 3)
    assert picture[15, 20].tolist() == [0, 0, 0] and picture[0, 0].tolist() == [255, 255, 255]
    # a quarter of the grey below shows through
    for place, colour in (((0, 55), STATIC_COLOUR), ((32, 2), BRAGG_COLOUR)):
        assert picture[place] == pytest.approx(0.25 * 255 + 0.75 * np.array(colour), abs=1)
    assert not np.array_equal(picture[32, 2], read(image_with_masks(pixels, bad))[32, 2])


def test_large_images_are_made_smaller():
    pixels, bad = np.ones((250, 100)), np.zeros((250, 100), bool)
    assert read(image_with_masks(pixels, bad, largest=100)).shape == (83, 33, 3)
    # nothing to see is no error
    assert read(image_with_masks(pixels, ~bad, largest=100)).shape == (83, 33, 3)
