"""Detector images as PNG, with masks laid over them."""

from __future__ import annotations

import struct
import zlib

import numba
import numpy as np

# Masked pixels are tinted: blue-green for those bad in every image, orange for Bragg spots
# (both told apart from each other and from grey by colour-blind readers)
STATIC_COLOUR = (0, 114, 178)
BRAGG_COLOUR = (230, 120, 0)


def png(rgb: np.ndarray) -> bytes:
    """(height, width, 3) uint8 as the bytes of a PNG file (ISO/IEC 15948)."""
    height, width, _ = rgb.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = rgb.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 4))
        + chunk(b"IEND", b"")
    )


@numba.njit(cache=True)
def _sums_of_blocks(array, use, step, total, number):
    for y in range(total.shape[0] * step):
        for x in range(total.shape[1] * step):
            if use[y, x]:
                total[y // step, x // step] += array[y, x]
                number[y // step, x // step] += 1


def binned(array: np.ndarray, use: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of the used elements in blocks of step x step; the rim that fills no block is cut.

    Args:
        array, use: (height, width)

    Returns:
        float64 and int64 (height // step, width // step)
    """
    size = tuple(n // step for n in array.shape)
    total, number = np.zeros(size), np.zeros(size, np.int64)
    _sums_of_blocks(array, use, step, total, number)
    return total, number


def image_with_masks(pixels, bad, bragg=None, largest: int = 1000) -> bytes:
    """An image, dark where there are many counts, with masked pixels in colour.

    Args:
        pixels: (n_slow, n_fast) values
        bad: True = bad in every image; bragg: True = under a spot
        largest: side of the picture at most, pixels
    """
    step = max(1, -(-max(pixels.shape) // largest))
    value, number = binned(pixels, ~bad, step)
    mean = value / np.maximum(number, 1)
    shown = np.sqrt(np.maximum(mean, 0))
    seen = shown[number > 0]
    low, high = np.percentile(seen, [1, 99.5]) if seen.size else (0, 1)
    grey = 255 * (1 - np.clip((shown - low) / max(high - low, 1e-6), 0, 1))
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    for mask, colour in ((bad, STATIC_COLOUR), (bragg, BRAGG_COLOUR)):
        if mask is not None:
            part = binned(mask, mask, step)[1][:, :, None] / step**2 * 0.75
            rgb = rgb * (1 - part) + np.array(colour) * part
    return png(rgb.astype(np.uint8))
