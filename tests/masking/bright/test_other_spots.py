"""Bright regions against the same search written with scipy over whole images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve, find_objects, label

from dials_diffuse.masking.bright.groups import ENOUGH
from dials_diffuse.masking.bright.other_spots import (
    BRIGHT,
    CHANCE,
    CONTRAST,
    EDGE,
    FRAME,
    SKEWNESS,
    bright_regions,
)
from dials_diffuse.masking.bright.rings import PanelRings, clipped_statistics

NINE = np.ones((3, 3))


def whole_image(pixels, blocked, ring, low, high, gain):
    """Bounding boxes, sorted: fast first, last + 1, slow first, last + 1"""
    with np.errstate(invalid="ignore"):
        use = ~blocked & (pixels >= low) & (pixels <= high)
    values = np.where(use, pixels, 0.0)
    number = convolve(use.astype(int), NINE, mode="constant")
    mean = convolve(values, NINE, mode="constant") / np.maximum(number, 1)
    valid = number >= ENOUGH
    m, sigma, _ = clipped_statistics(mean[valid].astype(np.float32), ring[valid])
    sigma = np.maximum(sigma, np.sqrt(np.maximum(m, 1e-3 * gain) * gain / 9))
    threshold = m + np.maximum(BRIGHT * sigma, CHANCE * sigma + SKEWNESS * gain)
    seeds = valid & (mean > threshold[ring])
    for y, x in np.argwhere(seeds):
        rows = slice(max(0, y - FRAME[1]), y + FRAME[1] + 1)
        columns = slice(max(0, x - FRAME[1]), x + FRAME[1] + 1)
        v, u = np.mgrid[: pixels.shape[0], : pixels.shape[1]][:, rows, columns]
        around = values[rows, columns][
            use[rows, columns] & (np.maximum(abs(u - x), abs(v - y)) >= FRAME[0])
        ]
        if len(around) >= 10 and np.mean(around < mean[y, x] / CONTRAST) <= 0.5:
            seeds[y, x] = False
    regions, _ = label(seeds | (valid & (mean > (m + EDGE * sigma)[ring])), structure=NINE)
    boxes = []
    for i, (rows, columns) in enumerate(find_objects(regions), 1):
        if seeds[regions == i].any():
            boxes.append((columns.start, columns.stop, rows.start, rows.stop))
    return sorted(boxes)


def image(kind, seed, shape=(150, 205)):
    """Noise on two levels, spots of some pixels on it and at its edges, blocked pixels and values not to be trusted"""
    generator = np.random.default_rng(seed)
    ring = np.zeros(shape, dtype=np.int16)
    ring[:, 90:] = 1
    ring[60:80, 100:150] = 7
    mean = np.array([4.0, 0.3, 0, 0, 0, 0, 0, 30.0])[ring]
    pixels = generator.poisson(mean).astype(kind)
    blocked = generator.random(shape) < 0.1
    blocked[40:44] = True
    # no group is on two levels, which would be a long region
    blocked[:, 87:93] = True
    blocked[56:84, 96:154] |= ring[56:84, 96:154] == 1
    places = [
        (0, 0),
        (149, 204),
        (0, 100),
        (75, 0),
        (149, 31),
        (20, 31),
        (21, 64),
        (38, 160),
        (45, 118),
    ]
    places += [tuple(place) for place in generator.integers(8, (142, 197), (12, 2))]
    for y, x in places:
        height = generator.choice([5, 15, 60, 400])
        spot = pixels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        spot += generator.poisson(height, spot.shape).astype(kind)
    pixels[100, 50:53] = 10**6
    pixels[110, 60] = -2
    if kind is np.float64:
        pixels[120, 70:73] = np.nan
        pixels[:] += generator.normal(0, 0.3, shape)
    return pixels, blocked, ring


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind, low, high", [(np.int32, 0, 10_000), (np.float64, -np.inf, 1e4)])
def test_regions_are_those_of_whole_images(kind, low, high, seed):
    pixels, blocked, ring = image(kind, seed)
    rings = PanelRings(ring, np.arange(ring.size, dtype=np.int32))
    expected = whole_image(pixels, blocked, ring, low, high, 1.0)
    found = sorted(map(tuple, bright_regions(pixels, blocked, rings, low, high).boxes.tolist()))
    assert len(expected) > 8
    assert found == expected


def test_a_halo_that_does_not_stand_out_is_left():
    """A smooth hill, as bright as a spot"""
    y, x = np.mgrid[:200, :200]
    mean = 2 + 60 * np.exp(-((x - 100) ** 2 + (y - 90) ** 2) / (2 * 15**2))
    pixels = np.random.default_rng(1).poisson(mean).astype(np.int32)
    ring = np.zeros(pixels.shape, dtype=np.int16)
    rings = PanelRings(ring, np.arange(ring.size, dtype=np.int32))
    blocked = np.zeros(pixels.shape, dtype=bool)
    assert len(bright_regions(pixels, blocked, rings, 0, 10**6).boxes) == 0
    pixels[30:33, 30:33] += 60
    assert len(bright_regions(pixels, blocked, rings, 0, 10**6).boxes) == 1


def test_a_group_between_runs_of_pixels():
    """What is not usable in it belongs to pixels of a much lower level, which are looked at with others"""
    generator = np.random.default_rng(3)
    ring = np.zeros((200, 96), dtype=np.int16)
    ring[:, 32:] = 1
    pixels = generator.poisson(np.array([0.05, 3.0])[ring]).astype(np.int32)
    blocked = np.zeros(pixels.shape, dtype=bool)
    blocked[:, 29:32] = True
    pixels[99:102, 32:34], pixels[98:103, 34] = 9, 3
    pixels[98, 32:34] = pixels[102, 32:34] = 3
    rings = PanelRings(ring, np.arange(ring.size, dtype=np.int32))
    expected = whole_image(pixels, blocked, ring, 0, 10**6, 1.0)
    assert [box[0] for box in expected] == [32]
    assert bright_regions(pixels, blocked, rings, 0, 10**6).boxes.tolist() == [list(expected[0])]


def test_panels_that_are_narrower_than_a_run():
    pixels = np.random.default_rng(2).poisson(1.0, (7, 5)).astype(np.int32)
    rings = PanelRings(
        np.zeros(pixels.shape, dtype=np.int16), np.arange(pixels.size, dtype=np.int32)
    )
    assert len(bright_regions(pixels, np.zeros(pixels.shape, dtype=bool), rings, 0, 100).boxes) == 0
    assert len(bright_regions(pixels, np.ones(pixels.shape, dtype=bool), rings, 0, 100).boxes) == 0
