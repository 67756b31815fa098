"""The loop over pixels: from the counts of a panel to sums by voxel, in one compiled pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

# A key packs the three voxel indices, 20 bits each, and the Bragg flag into 61 bits
_BITS = 20
_OFFSET = 1 << (_BITS - 1)
_MASK = (1 << _BITS) - 1
# What the columns of the sums are
N, COUNTS, BACKGROUND, SPREAD, SHARED, EXPOSURE, FAST, SLOW = range(8)


@dataclass(frozen=True)
class PanelSums:
    """Sums over the pixels of one panel by voxel and Bragg flag, in order of first pixel.

    Attributes:
        voxel: (N, 3) int32
        bragg: (N,) bool
        num_pixels: (N,) int32
        counts: (N,) sum of photons
        background: (N,) sum of the background photons
        background_variance: (N,) its variance: independent part of each pixel added up, plus the
            square of the sum of the parts that pixels share
        exposure: (N,) sum of E, sr
        fast, slow: (N,) mean position weighted by E, px (centre of the first pixel 0.5)
    """

    voxel: np.ndarray
    bragg: np.ndarray
    num_pixels: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    background_variance: np.ndarray
    exposure: np.ndarray
    fast: np.ndarray
    slow: np.ndarray

    def __len__(self) -> int:
        return len(self.num_pixels)


@njit(cache=True)
def _slot(keys, key):
    """Where a key is, or would be put, in an open-addressing table (size a power of two)."""
    last = keys.size - 1
    # Fibonacci hashing; the upper bits are the well mixed ones
    at = ((key * 0x9E3779B97F4A7C1) >> 24) & last
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & last
    return at


@njit(cache=True)
def _grown(keys, sums, size, at_least):
    """The same keys and sums with more room, and a table of at least twice as many slots."""
    slots = 4096
    while slots < 2 * at_least:
        slots *= 4
    keys_at = np.full(slots, -1, dtype=np.int64)
    row_at = np.empty(slots, dtype=np.int32)
    more_keys = np.empty(slots // 2, dtype=np.int64)
    more_sums = np.zeros((slots // 2, 8), dtype=np.float64)
    more_keys[:size] = keys[:size]
    more_sums[:size] = sums[:size]
    for row in range(size):
        slot = _slot(keys_at, keys[row])
        keys_at[slot] = keys[row]
        row_at[slot] = row
    return keys_at, row_at, more_keys, more_sums


@njit(cache=True)
def _row_keys(qx, qy, qz, matrix, use, raw, low, high, bragg, keys):
    """Keys of a row of pixels, -1 for those not to be used.

    Without a branch, and in a function of its own, so that the compiler makes vector code of it:
    half the time of the whole pass depends on that. So does adding an offset that makes
    everything positive, where cutting off the decimals is the floor.
    """
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    for j in range(keys.size):
        x, y, z = np.float64(qx[j]), np.float64(qy[j]), np.float64(qz[j])
        h = np.int32(m00 * x + m01 * y + m02 * z + (_OFFSET + 0.5))
        k = np.int32(m10 * x + m11 * y + m12 * z + (_OFFSET + 0.5))
        l = np.int32(m20 * x + m21 * y + m22 * z + (_OFFSET + 0.5))
        key = (
            (np.int64(h) << (2 * _BITS + 1))
            | (np.int64(k) << (_BITS + 1))
            | (np.int64(l) << 1)
            | np.int64(bragg[j])
        )
        # written so that NaN is not trusted
        good = use[j] & (raw[j] >= low) & (raw[j] <= high)
        keys[j] = key if good else -1


@njit(cache=True)
def _apply_limits(raw, efficiency, background, dose, gain, pedestal, lowest, highest, keys):
    """Set the keys of pixels with an intensity outside the limits to -1."""
    for j in range(keys.size):
        b = dose * background[j] if background.size else 0.0
        intensity = ((raw[j] - pedestal) / gain - b) / efficiency[j]
        if not (intensity >= lowest and intensity <= highest):
            keys[j] = -1


@njit(cache=True)
def _sum_row(values, first, last):
    total = 0.0
    for j in range(first, last):
        total += values[j]
    return total


@njit(cache=True)
def _sum_pixels(
    raw, use, bragg, low, high, planes, efficiency, matrix, background, spread, shared,
    dose, gain, pedestal, lowest, highest,
):  # fmt: skip
    """Sums by key; see sum_panel for the arguments. Returns keys (N,), sums (N, 8)."""
    n_slow, n_fast = use.shape
    has_bragg, has_background = bragg.size > 0, background.size > 0
    has_spread, has_shared = spread.size > 0, shared.size > 0
    limited = lowest > -np.inf or highest < np.inf
    no_bragg = np.zeros(n_fast, dtype=np.bool_)
    no_background = np.zeros(0, dtype=background.dtype)
    size = 0
    keys_at, row_at, keys, sums = _grown(
        np.empty(0, dtype=np.int64), np.empty((0, 8), dtype=np.float64), size, n_fast
    )
    row_keys = np.empty(n_fast + 1, dtype=np.int64)
    # Keys and rows of the ends of runs on the lines above: most runs continue one of them
    above_key = np.full(n_fast, -1, dtype=np.int64)
    above_at = np.zeros(n_fast, dtype=np.int64)
    for i in range(n_slow):
        use_i, raw_i, e_i = use[i], raw[i], efficiency[i]
        first, last = 0, n_fast
        while first < n_fast and not use_i[first]:
            first += 1
        if first == n_fast:
            continue
        while not use_i[last - 1]:
            last -= 1
        if 2 * (size + n_fast) > keys_at.size:
            keys_at, row_at, keys, sums = _grown(keys, sums, size, size + n_fast)
        bragg_i = bragg[i] if has_bragg else no_bragg
        _row_keys(
            planes[0, i, first:last], planes[1, i, first:last], planes[2, i, first:last], matrix,
            use_i[first:last], raw_i[first:last], low, high, bragg_i[first:last],
            row_keys[first:last],
        )  # fmt: skip
        if limited:
            _apply_limits(
                raw_i[first:last], e_i[first:last],
                background[i, first:last] if has_background else no_background,
                dose, gain, pedestal, lowest, highest, row_keys[first:last],
            )  # fmt: skip
        row_keys[last] = -2
        j = first
        while j < last:
            key = row_keys[j]
            if key == -1:
                j += 1
                continue
            # A run: neighbouring pixels of one voxel and Bragg flag
            start = j
            adu, exposure, weighted = 0.0, 0.0, 0.0
            while row_keys[j] == key:
                e = np.float64(e_i[j])
                adu += raw_i[j]
                exposure += e
                weighted += e * j
                j += 1
            n = j - start
            if above_key[start] == key:
                at = above_at[start]
            elif above_key[j - 1] == key:
                at = above_at[j - 1]
            else:
                slot = _slot(keys_at, key)
                if keys_at[slot] == -1:
                    keys_at[slot] = key
                    row_at[slot] = size
                    keys[size] = key
                    size += 1
                at = np.int64(row_at[slot])
            above_key[start] = key
            above_at[start] = at
            above_key[j - 1] = key
            above_at[j - 1] = at
            row = sums[at]
            row[0] += n
            row[1] += (adu - n * pedestal) / gain
            row[5] += exposure
            row[6] += weighted + 0.5 * exposure
            row[7] += (i + 0.5) * exposure
            if has_background:
                row[2] += dose * _sum_row(background[i], start, j)
            if has_spread:
                row[3] += dose * dose * _sum_row(spread[i], start, j)
            if has_shared:
                row[4] += dose * _sum_row(shared[i], start, j)
    return keys[:size].copy(), sums[:size].copy()


_NOTHING = np.zeros((0, 0), dtype=np.float32)
_NO_MASK = np.zeros((0, 0), dtype=bool)


def sum_panel(
    raw: np.ndarray,
    use: np.ndarray,
    trusted: tuple[float, float],
    panel,
    matrix: np.ndarray,
    bragg: np.ndarray | None = None,
    background: tuple[np.ndarray, np.ndarray | None, np.ndarray | None] | None = None,
    dose: float = 1.0,
    gain: float = 1.0,
    pedestal: float = 0.0,
    intensity: tuple[float, float] = (-np.inf, np.inf),
) -> PanelSums:
    """Sum the pixels of a panel by the voxel that they fall into.

    Args:
        raw: (n_slow, n_fast) int32 or float64 ADU
        use: (n_slow, n_fast) bool, pixels to use (static and dynamic mask, limits, step)
        trusted: smallest and largest value that counts, ADU
        panel: its PanelGeometry
        matrix: (3, 3) from q in 1/Angstrom to fine-grid coordinates: diag(n) A^-1; the voxel is
            floor(matrix q + 1/2)
        bragg: (n_slow, n_fast) bool, True under a Bragg spot: kept in rows of their own
        background: expected photons of each pixel, with the variance of what is each pixel's own
            error and the standard deviation of what neighbouring pixels share ((n_slow, n_fast)
            float32 each, None for none), all per unit of dose
        dose: what the background is multiplied by
        gain: ADU per photon
        pedestal: ADU
        intensity: limits of (photons - background)/E of a pixel

    Returns:
        the sums; positions in px, exposure in sr (not yet times the exposure time)

    Raises:
        ValueError: voxel indices beyond +-2^19.
    """
    mean, spread, shared = background or (None, None, None)
    if raw.dtype != np.int32:
        raw = np.ascontiguousarray(raw, dtype=np.float64)
    largest = np.abs(matrix).sum(axis=1).max() * _longest_q(panel)
    if not largest < _OFFSET - 1:
        raise ValueError(
            f"Voxel indices up to {largest:.3g} are beyond the limit of {_OFFSET - 1}: check the unit "
            "cell, or give a smaller subdivide"
        )
    keys, sums = _sum_pixels(
        raw, use, _NO_MASK if bragg is None else bragg, *map(float, trusted), panel.planes,
        panel.efficiency, np.ascontiguousarray(matrix, dtype=np.float64),
        *(_NOTHING if part is None else part for part in (mean, spread, shared)),
        float(dose), float(gain), float(pedestal), *map(float, intensity),
    )  # fmt: skip
    voxel = np.empty((len(keys), 3), dtype=np.int32)
    for axis, shift in enumerate((2 * _BITS + 1, _BITS + 1, 1)):
        voxel[:, axis] = ((keys >> shift) & _MASK) - _OFFSET
    with np.errstate(invalid="ignore", divide="ignore"):
        fast, slow = sums[:, FAST] / sums[:, EXPOSURE], sums[:, SLOW] / sums[:, EXPOSURE]
    return PanelSums(
        voxel=voxel,
        bragg=(keys & 1).astype(bool),
        num_pixels=sums[:, N].astype(np.int32),
        counts=sums[:, COUNTS].copy(),
        background=sums[:, BACKGROUND].copy(),
        background_variance=sums[:, SPREAD] + sums[:, SHARED] ** 2,
        exposure=sums[:, EXPOSURE].copy(),
        fast=fast,
        slow=slow,
    )


def _longest_q(panel) -> float:
    # |q| is convex on a flat panel: no pixel exceeds the corners by more than rounding
    corners = panel.planes[:, :: max(1, panel.shape[0] - 1), :: max(1, panel.shape[1] - 1)]
    return 1.01 * float(np.abs(corners).max()) + 1e-6
