"""Pixels within the trusted range."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def within_bounds(raw, good, low, high, out):
    """out = good where low <= raw <= high (arrays of one shape (n_slow, n_fast))."""
    for y in range(raw.shape[0]):
        for x in range(raw.shape[1]):
            value = raw[y, x]
            out[y, x] = good[y, x] and low <= value and value <= high


def trusted_pixels(raw: np.ndarray, good: np.ndarray, low: float, high: float) -> np.ndarray:
    """The good pixels whose value is within [low, high], a new (n_slow, n_fast) bool array."""
    out = np.empty(raw.shape, dtype=bool)
    within_bounds(raw, good, low, high, out)
    return out
