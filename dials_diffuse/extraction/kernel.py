"""The loop over pixels: from the values of a panel to sums by voxel, in one compiled pass.

A key packs the three voxel indices and the Bragg flag of a pixel. Neighbouring pixels of one key are a run; the sums
of a run are differences of sums along the row of pixels, and are added to those of its key, which a hash
table finds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dials_diffuse.extraction.observations import COLUMNS
from dials_diffuse.extraction.photons import PanelPixels
from dials_diffuse.geometry.panel import PanelGeometry

# Indices are within +-_LARGEST_INDEX: shifted to begin at zero they take 20 bits each
_OFFSET = np.int32(1 << 19)
_LARGEST_INDEX = (1 << 19) - 2
_BITS = np.int64((1 << 20) - 1)
_H, _K, _L = np.int64(41), np.int64(21), np.int64(1)  # the bit that each index begins at
_UNUSED = np.int64(-1)
# Keys are looked up in blocks of 4 x 4 x 4 voxels, with their Bragg flags. A row of pixels meets mostly blocks that
# the rows before it have met, so that what is looked up lies in a fast cache, new voxels included: 37 ms an image of
# 6 million pixels, where a table of single keys takes 54
_BLOCK = 4 * 4 * 4 * 2
_IN_BLOCK = np.int64(3 << _H | 3 << _K | 3 << _L | 1)
# Columns of the sums
_N, _ADU, _EXPOSURE, _FAST, _SLOW, _BACKGROUND, _SPREAD, _SHARED = range(8)
_COLUMNS = 8
# Columns of the sums along a row of pixels: of ADU, of E, of these sums of E themselves, of the background's planes
_A, _E, _E_SUMS, _B, _V, _S = range(6)
_LARGEST = float(np.finfo(np.float64).max)

# Fibonacci hashing; the upper bits of the product are the well mixed ones
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(36)


class _Blocks(NamedTuple):
    """The blocks of voxels met on a panel.

    Attributes:
        table: (a power of two,) int32 hash table (open addressing) of numbers of blocks, 0 for none
        keys: (m,) int64 of each block, of which number 0 is none
        rows: (m, _BLOCK) int32 of the sums of each key in a block, 0 for none
    """

    table: np.ndarray
    keys: np.ndarray
    rows: np.ndarray


class _Sums(NamedTuple):
    """Sums of a still, of which row 0 is none.

    Attributes:
        keys: (n,) int64
        values: (n, _COLUMNS) float64
    """

    keys: np.ndarray
    values: np.ndarray


class _Runs(NamedTuple):
    """Runs of a row of n pixels, of which number 0 is none.

    Attributes:
        ends: (n + 1,) int32 last pixel of each run, -1 for number 0
        sums: (n + 1, 6) float64 over the row up to that pixel, 0 for number 0
    """

    ends: np.ndarray
    sums: np.ndarray


@njit(cache=True)
def _row_keys(q, matrix, pixels, i, first, last, keys):
    """Keys of the pixels first to last of row i, filled in place, _UNUSED for those not to be used.

    The loop has no branch, so that the compiler makes vector code of it.
    """
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    qx, qy, qz = q[0, i, first:last], q[1, i, first:last], q[2, i, first:last]
    use, bragg, raw = (
        pixels.use[i, first:last],
        pixels.bragg[i, first:last],
        pixels.raw[i, first:last],
    )
    low, high = pixels.trusted
    for j in range(keys.size):
        x, y, z = qx[j], qy[j], qz[j]
        h = np.int32(np.floor(m00 * x + m01 * y + m02 * z + 0.5)) + _OFFSET
        k = np.int32(np.floor(m10 * x + m11 * y + m12 * z + 0.5)) + _OFFSET
        l = np.int32(np.floor(m20 * x + m21 * y + m22 * z + 0.5)) + _OFFSET
        key = np.int64(h) << _H | np.int64(k) << _K | np.int64(l) << _L | np.int64(bragg[j])
        # written so that NaN is not trusted
        good = use[j] & (raw[j] >= low) & (raw[j] <= high)
        keys[j] = key if good else _UNUSED


@njit(cache=True)
def _apply_limits(raw, acceptance, background, dose, pixels, keys):
    """Set the keys of a row of pixels with an intensity outside the limits to _UNUSED, in place."""
    lowest, highest = pixels.intensity
    for j in range(keys.size):
        b = 0.0
        if background is not None:
            b = dose * background[j]
        intensity = ((raw[j] - pixels.pedestal) / pixels.gain - b) / acceptance[j]
        if not (intensity >= lowest and intensity <= highest):
            keys[j] = _UNUSED


@njit(cache=True)
def _find_runs(keys, raw, acceptance, background, spread, shared, runs):
    """Find the runs of a row, and the sums of the row up to each one's end.

    The ends of runs are irregular, and a branch that the processor predicts wrongly costs as much as several
    pixels. So there is no branch: every pixel overwrites the end of its run, and the last one's stays.
    Pixels that are not used are runs of their own.

    Args:
        keys, raw, acceptance: of the pixels
        background, spread, shared: of the pixels; None where there is no such plane
        runs: filled in place

    Returns:
        number of runs
    """
    run = np.uint64(1)
    last = keys[0]
    adu = exposure = sums_of_exposure = b = v = s = 0.0
    for j in range(keys.size):
        key = keys[j]
        run += np.uint64(key != last)
        last = key
        # NaN would spoil the sum of all that follow
        adu += np.float64(raw[j]) if key != _UNUSED else 0.0
        exposure += np.float64(acceptance[j])
        sums_of_exposure += exposure
        runs.ends[run] = j
        runs.sums[run, _A] = adu
        runs.sums[run, _E] = exposure
        runs.sums[run, _E_SUMS] = sums_of_exposure
        if background is not None:
            b += np.float64(background[j])
            runs.sums[run, _B] = b
        if spread is not None:
            v += np.float64(spread[j])
            runs.sums[run, _V] = v
        if shared is not None:
            s += np.float64(shared[j])
            runs.sums[run, _S] = s
    return np.int64(run)


@njit(cache=True)
def _block_of(block_key, blocks, n_blocks):
    """Number of a block, which becomes n_blocks, the next free one, if it is not there yet."""
    mask = np.uint64(blocks.table.size - 1)
    slot = ((np.uint64(block_key) * _GOLDEN) >> _SHIFT) & mask
    while True:
        block = np.uint64(blocks.table[slot])
        if block == 0:
            blocks.table[slot] = n_blocks
            blocks.keys[n_blocks] = block_key
            blocks.rows[n_blocks] = 0
            return np.uint64(n_blocks)
        if blocks.keys[block] == block_key:
            return block
        slot = (slot + np.uint64(1)) & mask


@njit(cache=True)
def _add_runs(n_runs, runs, keys, first, line, blocks, n_blocks, sums, size):
    """Add the runs of a row to the sums of their keys, in place.

    Args:
        n_runs, runs: see _find_runs
        keys: of the pixels
        first: fast index of their first pixel; line: slow index of the row
        blocks, sums: with room for all runs
        n_blocks, size: rows of blocks and sums that are in use

    Returns:
        (n_blocks, size) that are in use then
    """
    for run in range(np.uint64(1), np.uint64(n_runs + 1)):
        before = run - np.uint64(1)
        begin, end = np.int64(runs.ends[before]) + 1, np.int64(runs.ends[run])
        key = keys[np.uint64(end)]
        if key == _UNUSED:
            continue
        block = _block_of(key & ~_IN_BLOCK, blocks, n_blocks)
        n_blocks = max(n_blocks, np.int64(block) + 1)
        cell = np.uint64((key >> _H & 3) << 5 | (key >> _K & 3) << 3 | key & 7)
        row = np.uint64(blocks.rows[block, cell])
        if row == 0:
            row = np.uint64(size)
            blocks.rows[block, cell] = size
            sums.keys[row] = key
            sums.values[row] = 0.0
            size += 1
        now, then, into = runs.sums[run], runs.sums[before], sums.values[row]
        exposure = now[_E] - then[_E]
        # The sum of E j by parts, from the sums of E
        weighted = end * now[_E] - begin * then[_E] - (now[_E_SUMS] - now[_E] - then[_E_SUMS])
        into[_N] += end + 1 - begin
        into[_ADU] += now[_A] - then[_A]
        into[_EXPOSURE] += exposure
        into[_FAST] += weighted + (first + 0.5) * exposure
        into[_SLOW] += (line + 0.5) * exposure
        into[_BACKGROUND] += now[_B] - then[_B]
        into[_SPREAD] += now[_V] - then[_V]
        into[_SHARED] += now[_S] - then[_S]
    return n_blocks, size


@njit(cache=True)
def _longer(array, n, room):
    """The array with its first n rows kept, at least twice as long and with room for that many more."""
    longer = np.empty((max(2 * len(array), n + room), *array.shape[1:]), dtype=array.dtype)
    longer[:n] = array[:n]
    return longer


@njit(cache=True)
def _more_blocks(blocks, n_blocks, room):
    """Blocks with room for that many more, which then fill at most half of the table."""
    table, keys, rows = blocks
    if n_blocks + room > keys.size:
        keys, rows = _longer(keys, n_blocks, room), _longer(rows, n_blocks, room)
    if 2 * (n_blocks + room) > table.size:
        slots = table.size
        while slots < 2 * (n_blocks + room):
            slots *= 2
        table = np.zeros(slots, dtype=np.int32)
        mask = np.uint64(slots - 1)
        for block in range(1, n_blocks):
            slot = ((np.uint64(keys[block]) * _GOLDEN) >> _SHIFT) & mask
            while table[slot] != 0:
                slot = (slot + np.uint64(1)) & mask
            table[slot] = block
    return _Blocks(table, keys, rows)


@njit(cache=True)
def _part(plane, line, first, last):
    """Pixels of a row, None where there is no plane."""
    if plane is None:
        return None
    return plane[line, first:last]


@njit(cache=True)
def _sum_pixels(pixels, q, acceptance, matrix, dose, blocks, sums, size):
    """Add the pixels of a panel to the sums of a still.

    Args:
        pixels: PanelPixels
        q, acceptance: of its PanelGeometry
        matrix: (3, 3), see VoxelSums.add_panel
        dose: factor of the background
        blocks: without contents; changed in place
        sums: of which `size` rows are in use; changed in place

    Returns:
        (blocks, sums, size), others where they had to grow
    """
    n_slow, n_fast = pixels.use.shape
    limited = pixels.intensity[0] > -np.inf or pixels.intensity[1] < np.inf
    row_keys = np.empty(n_fast, dtype=np.int64)
    runs = _Runs(np.empty(n_fast + 1, dtype=np.int32), np.zeros((n_fast + 1, 6)))
    runs.ends[0] = -1
    n_blocks = 1
    for i in range(n_slow):
        use = pixels.use[i]
        first, last = 0, n_fast
        while first < n_fast and not use[first]:
            first += 1
        if first == n_fast:
            continue
        while not use[last - 1]:
            last -= 1
        if size + n_fast > sums.keys.size:
            sums = _Sums(_longer(sums.keys, size, n_fast), _longer(sums.values, size, n_fast))
        if 2 * (n_blocks + n_fast) > blocks.table.size or n_blocks + n_fast > blocks.keys.size:
            blocks = _more_blocks(blocks, n_blocks, n_fast)
        keys, raw, e = row_keys[first:last], pixels.raw[i, first:last], acceptance[i, first:last]
        b = _part(pixels.background[0], i, first, last)
        v = _part(pixels.background[1], i, first, last)
        s = _part(pixels.background[2], i, first, last)
        _row_keys(q, matrix, pixels, i, first, last, keys)
        if limited:
            _apply_limits(raw, e, b, dose, pixels, keys)
        n_runs = _find_runs(keys, raw, e, b, v, s, runs)
        n_blocks, size = _add_runs(n_runs, runs, keys, first, i, blocks, n_blocks, sums, size)
    return blocks, sums, size


class _Panel(NamedTuple):
    """A panel whose pixels were summed: its number, the first row of its sums, gain and pedestal."""

    number: int
    start: int
    gain: float
    pedestal: float


@njit(cache=True)
def _fill_columns(keys, values, panel, dose, seconds, image_number, columns):
    """Fill columns of the observations of a panel in place; a quarter of the time that numpy takes.

    Args:
        keys, values: see _Sums
        columns: arrays with a row for each key, in the order of COLUMNS
    """
    number, voxel, position, bragg, num_pixels, counts, background, variance, exposure = columns
    for row in range(keys.size):
        key, sums = keys[row], values[row]
        number[row] = panel.number
        voxel[row, 0] = (key >> _H & _BITS) - _OFFSET
        voxel[row, 1] = (key >> _K & _BITS) - _OFFSET
        voxel[row, 2] = (key >> _L & _BITS) - _OFFSET
        position[row, 0] = sums[_FAST] / sums[_EXPOSURE]
        position[row, 1] = sums[_SLOW] / sums[_EXPOSURE]
        position[row, 2] = image_number
        bragg[row] = (key & 1) == 1
        num_pixels[row] = np.int32(sums[_N])
        counts[row] = (sums[_ADU] - sums[_N] * panel.pedestal) / panel.gain
        background[row] = dose * sums[_BACKGROUND]
        shared = dose * sums[_SHARED]
        variance[row] = dose * dose * sums[_SPREAD] + shared * shared
        exposure[row] = sums[_EXPOSURE] * seconds


class VoxelSums:
    """Sums over the pixels of one still by panel, voxel and Bragg flag.

    The memory is kept from still to still: to get it anew from the system costs more than to add up
    the pixels of several rows.
    """

    def __init__(self):
        self._blocks = _Blocks(
            np.zeros(1 << 12, dtype=np.int32),
            np.empty(1 << 10, dtype=np.int64),
            np.empty((1 << 10, _BLOCK), dtype=np.int32),
        )
        self._sums = _Sums(np.empty(1 << 12, dtype=np.int64), np.empty((1 << 12, _COLUMNS)))
        self.start(1.0)

    def start(self, dose: float) -> None:
        """Forget everything, for a new still.

        Args:
            dose: factor of the background
        """
        self._dose = float(dose)
        self._size = 1
        self._panels: list[_Panel] = []
        self._has_background = False

    def __len__(self) -> int:
        return self._size - 1

    def add_panel(
        self, number: int, pixels: PanelPixels, geometry: PanelGeometry, matrix: np.ndarray
    ) -> None:
        """Sum the pixels of a panel by the voxel that they fall into.

        Args:
            number: of the panel; at most once for each still
            pixels: of the panel; a voxel has two rows if some of its pixels are under a Bragg spot
                and some are not
            geometry: of the panel, see compute_panel
            matrix: (3, 3) diag(n) A^-1, with n subdivisions of a reciprocal cell edge and A = U B of the
                still; the voxel of a pixel is floor(matrix q + 1/2), with q = s1 - s0 in 1/Angstrom

        Raises:
            ValueError: voxel indices beyond +-2^19.
        """
        largest = float(np.linalg.norm(matrix, axis=1).max()) * geometry.largest_q + 0.5
        if not largest < _LARGEST_INDEX:
            raise ValueError(
                f"Voxel indices up to {largest:.3g} are beyond the limit of {_LARGEST_INDEX}: check the unit "
                "cell, or give a smaller subdivide"
            )
        gain, pedestal = float(pixels.gain), float(pixels.pedestal)
        self._panels.append(_Panel(int(number), self._size, gain, pedestal))
        self._has_background |= any(plane is not None for plane in pixels.background)
        self._blocks.table[:] = 0
        self._blocks, self._sums, self._size = _sum_pixels(
            _prepared(pixels),
            geometry.planes,
            geometry.acceptance,
            np.ascontiguousarray(matrix),
            self._dose,
            self._blocks,
            self._sums,
            self._size,
        )

    def columns(self, exposure_time: float, image_number: float) -> dict[str, np.ndarray]:
        """The columns of the observations, in order of panels and of first pixel, all but the id.

        Args:
            exposure_time: s
            image_number: z of xyzobs.px.value

        Returns:
            name -> (N,) or (N, 3) array; background.variance is that of what each pixel has by itself
            added up, plus the square of the sum of what pixels share; positions are means
            weighted by E, px (centre of the first pixel 0.5)
        """
        columns = {
            name: np.empty((len(self), *shape), dtype=kind)
            for name, (kind, shape) in COLUMNS.items()
        }
        ends = [panel.start for panel in self._panels[1:]] + [self._size]
        for panel, end in zip(self._panels, ends):
            filled = tuple(column[panel.start - 1 : end - 1] for column in columns.values())
            keys, values = (array[panel.start : end] for array in self._sums)
            _fill_columns(
                keys, values, panel, self._dose, float(exposure_time), float(image_number), filled
            )
        return columns

    def repeated(self) -> dict[str, float]:
        """Columns whose rows are all alike, and their value: of one panel, without a background."""
        values: dict[str, float] = {}
        if len(self._panels) == 1:
            values["panel"] = self._panels[0].number
        if not self._has_background:
            values["background"] = values["background.variance"] = 0.0
        return values


def _prepared(pixels: PanelPixels) -> PanelPixels:
    """The same with the types that the compiled loop takes, and finite trusted limits."""
    raw = pixels.raw
    # An infinite value would spoil the sums of the rest of its row
    low, high = max(pixels.trusted[0], -_LARGEST), min(pixels.trusted[1], _LARGEST)
    if raw.dtype != np.int32:
        raw = np.ascontiguousarray(raw, dtype=np.float64)
    else:
        # Whole numbers are compared faster with their like
        limits = np.iinfo(np.int32)
        low, high = (
            np.int32(np.clip(x, limits.min, limits.max)) for x in (np.ceil(low), np.floor(high))
        )
    intensity = (float(pixels.intensity[0]), float(pixels.intensity[1]))
    return pixels._replace(
        raw=raw,
        trusted=(low, high),
        gain=float(pixels.gain),
        pedestal=float(pixels.pedestal),
        intensity=intensity,
    )
