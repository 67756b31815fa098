"""The loop over pixels: from the counts of a panel to sums by voxel, in one compiled pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from dials_diffuse.extraction.observations import COLUMNS

# A key packs what the three voxel indices are above the lowest that there can be on the panel, and the Bragg flag. Where
# that is 31 bits or less, keys are computed in single precision, which is good to 1e-4 voxels for indices of 10 bits
_LARGEST_INDEX = (1 << 19) - 2  # of either sign: three make a key of 61 bits
_SHORT = 30  # bits of three indices that make a short key
_UNUSED = -1
# Keys are looked up in blocks of 4 x 4 x 4 voxels, with their Bragg flags. A row of pixels meets mostly blocks that
# the rows before it have met, so that what is looked up lies in a fast cache, new voxels included
_BLOCK = 4 * 4 * 4 * 2
# What the columns of the sums are
_N, _ADU, _EXPOSURE, _FAST, _SLOW, _BACKGROUND, _SPREAD, _SHARED = range(8)
_COLUMNS = 8
# Columns of the sums along a row of pixels: of ADU, of E, of these sums themselves, of the background and its errors
_A, _E, _E_SUMS, _B, _V, _S = range(6)
_LARGEST = float(np.finfo(np.float64).max)

_ONE = np.uint64(1)
# Fibonacci hashing; the upper bits of the product are the well mixed ones
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(36)


@njit(cache=True)
def _row_keys(qx, qy, qz, matrix, lowest, shifts, use, raw, low, high, bragg, keys):
    """Keys of a row of pixels, -1 for those not to be used.

    Without a branch, and in a function of its own, so that the compiler makes vector code of it.

    Args:
        matrix: (3, 3), of the precision to work in
        lowest, shifts: (3,) of the type of the keys, see _Packing
        keys: (n,) int32 or int64, filled
    """
    whole, half = keys.dtype.type, matrix.dtype.type(0.5)
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    h0, k0, l0 = lowest
    # What shifts by these bits, on 32 bits where keys have no more
    of_h, of_k, of_l = whole(1 << shifts[0]), whole(1 << shifts[1]), whole(1 << shifts[2])
    for j in range(keys.size):
        x, y, z = qx[j], qy[j], qz[j]
        h = np.int32(np.floor(m00 * x + m01 * y + m02 * z + half))
        k = np.int32(np.floor(m10 * x + m11 * y + m12 * z + half))
        l = np.int32(np.floor(m20 * x + m21 * y + m22 * z + half))
        key = whole(
            whole(whole(h - h0) * of_h)
            + whole(whole(k - k0) * of_k)
            + whole(whole(l - l0) * of_l)
            + whole(bragg[j])
        )
        # written so that NaN is not trusted
        good = use[j] & (raw[j] >= low) & (raw[j] <= high)
        keys[j] = key if good else whole(_UNUSED)


@njit(cache=True)
def _apply_limits(raw, efficiency, background, dose, gain, pedestal, lowest, highest, keys):
    """Set the keys of pixels with an intensity outside the limits to -1."""
    for j in range(keys.size):
        b = 0.0
        if background is not None:
            b = dose * background[j]
        intensity = ((raw[j] - pedestal) / gain - b) / efficiency[j]
        if not (intensity >= lowest and intensity <= highest):
            keys[j] = _UNUSED


@njit(cache=True)
def _find_runs(keys, raw, efficiency, background, spread, shared, ends, so_far):
    """Runs of a row (neighbouring pixels of one key), and the sums of the row up to each one's end.

    Where a run ends can't be foretold, and a wrong guess of the processor costs as much as several
    pixels. So there is no branch: every pixel writes where its run ends so far, and the last one's stays.
    Pixels that are not used are runs of their own.

    Args:
        keys: of the pixels
        raw, efficiency, background, spread, shared: of the same pixels; None for what there isn't
        ends: (n,) int32, filled with the last pixel of each run
        so_far: (n, 6) filled with the sums over the row up to that pixel of raw, of efficiency, of those sums, and
            of the background's planes

    Returns:
        number of runs
    """
    run = np.uint64(0)
    last = keys[0]
    adu = exposure = sums_of_exposure = b = v = s = 0.0
    for j in range(keys.size):
        key = keys[j]
        run += np.uint64(key != last)
        last = key
        # NaN would spoil the sum of all that follow
        adu += np.float64(raw[j]) if key != _UNUSED else 0.0
        exposure += np.float64(efficiency[j])
        sums_of_exposure += exposure
        ends[run] = j
        so_far[run, _A] = adu
        so_far[run, _E] = exposure
        so_far[run, _E_SUMS] = sums_of_exposure
        if background is not None:
            b += np.float64(background[j])
            so_far[run, _B] = b
        if spread is not None:
            v += np.float64(spread[j])
            so_far[run, _V] = v
        if shared is not None:
            s += np.float64(shared[j])
            so_far[run, _S] = s
    return np.int64(run) + 1


@njit(cache=True)
def _add_runs(
    n_runs,
    first,
    line,
    row_keys,
    shifts,
    ends,
    so_far,
    background,
    spread,
    shared,
    table,
    block_keys,
    rows,
    n_blocks,
    oldest,
    keys,
    sums,
    size,
):
    """Add the runs of a row to the sums of their keys.

    Args:
        n_runs: number of runs
        first: fast index of their first pixel; line: slow index of the row
        row_keys, ends, so_far: see _find_runs; shifts: see _Packing
        background, spread, shared: None for what there isn't
        table: hash table (open addressing, size a power of two) of the numbers of blocks; what is
            below `oldest` is as good as empty
        block_keys, rows: (m,), (m, 128) of each block its key, and the rows of the keys in it (0: none yet)
        n_blocks: number of blocks that there are
        keys, sums: (n,), (n, 8), with room for all runs
        size: number of keys that there are

    Returns:
        numbers of blocks and of keys that there are then
    """
    mask = np.uint64(table.size - 1)
    of_h, of_k = np.uint64(shifts[0]), np.uint64(shifts[1])
    in_block = np.int64(3 << of_h | 3 << of_k | 7)
    start = 0
    adu = exposure = sums_of_exposure = b = v = s = 0.0
    for run in range(np.uint64(n_runs)):
        end = np.int64(ends[run])
        n, begin, start = end + 1 - start, start, end + 1
        run_adu, adu = so_far[run, _A] - adu, so_far[run, _A]
        # The sum of E j by parts, from the sums of E
        weighted = (
            end * so_far[run, _E]
            - begin * exposure
            - (so_far[run, _E_SUMS] - so_far[run, _E] - sums_of_exposure)
        )
        run_exposure, exposure, sums_of_exposure = (
            so_far[run, _E] - exposure,
            so_far[run, _E],
            so_far[run, _E_SUMS],
        )
        run_b = run_v = run_s = 0.0
        if background is not None:
            run_b, b = so_far[run, _B] - b, so_far[run, _B]
        if spread is not None:
            run_v, v = so_far[run, _V] - v, so_far[run, _V]
        if shared is not None:
            run_s, s = so_far[run, _S] - s, so_far[run, _S]
        key = np.int64(row_keys[np.uint64(end)])
        if key == _UNUSED:
            continue
        block_key = key & ~in_block
        slot = ((np.uint64(block_key) * _GOLDEN) >> _SHIFT) & mask
        while True:
            block = np.uint64(table[slot])
            if block < oldest:
                block = np.uint64(n_blocks)
                table[slot] = n_blocks
                block_keys[block] = block_key
                rows[block] = 0
                n_blocks += 1
                break
            if block_keys[block] == block_key:
                break
            slot = (slot + _ONE) & mask
        place = (
            (((np.uint64(key) >> of_h) & np.uint64(3)) << np.uint64(5))
            | (((np.uint64(key) >> of_k) & np.uint64(3)) << np.uint64(3))
            | (np.uint64(key) & np.uint64(0x07))
        )
        at = np.uint64(rows[block, place])
        if at == 0:
            at = np.uint64(size)
            rows[block, place] = size
            keys[at] = key
            sums[at] = 0.0
            size += 1
        sums[at, _N] += n
        sums[at, _ADU] += run_adu
        sums[at, _EXPOSURE] += run_exposure
        sums[at, _FAST] += weighted + (first + 0.5) * run_exposure
        sums[at, _SLOW] += (line + 0.5) * run_exposure
        if background is not None:
            sums[at, _BACKGROUND] += run_b
        if spread is not None:
            sums[at, _SPREAD] += run_v
        if shared is not None:
            sums[at, _SHARED] += run_s
    return n_blocks, size


@njit(cache=True)
def _more_keys(keys, sums, size, room):
    """Keys and sums with the same contents and room for that many keys more."""
    more = max(2 * keys.size, size + room)
    more_keys = np.empty(more, dtype=np.int64)
    more_sums = np.empty((more, _COLUMNS), dtype=np.float64)
    more_keys[:size] = keys[:size]
    more_sums[:size] = sums[:size]
    return more_keys, more_sums


@njit(cache=True)
def _more_blocks(table, block_keys, rows, n_blocks, oldest, room):
    """Table, keys and rows of blocks with the same contents and room for that many blocks more, at most half of
    the table full of this panel's."""
    slots = table.size
    while slots < 2 * (n_blocks - oldest + room):
        slots *= 2
    if slots > table.size:
        table = np.zeros(slots, dtype=np.int32)
        mask = np.uint64(slots - 1)
        for block in range(oldest, n_blocks):
            slot = ((np.uint64(block_keys[block]) * _GOLDEN) >> _SHIFT) & mask
            while table[slot] >= oldest:
                slot = (slot + _ONE) & mask
            table[slot] = block
    if block_keys.size < n_blocks + room:
        more = max(2 * block_keys.size, n_blocks + room)
        more_keys = np.empty(more, dtype=np.int64)
        more_rows = np.empty((more, _BLOCK), dtype=np.int32)
        more_keys[:n_blocks] = block_keys[:n_blocks]
        more_rows[:n_blocks] = rows[:n_blocks]
        block_keys, rows = more_keys, more_rows
    return table, block_keys, rows


@njit(cache=True)
def _part(plane, line, first, last):
    """Pixels of a row, None where there is no plane."""
    if plane is None:
        return None
    return plane[line, first:last]


@njit(cache=True)
def _sum_pixels(
    raw,
    use,
    bragg,
    low,
    high,
    planes,
    efficiency,
    matrix,
    least,
    shifts,
    background,
    spread,
    shared,
    dose,
    gain,
    pedestal,
    lowest,
    highest,
    table,
    block_keys,
    rows,
    n_blocks,
    keys,
    sums,
    size,
):
    """Add the pixels of a panel to the sums of a still.

    See VoxelSums.add_panel and _row_keys for the arguments. Returns table, block_keys, rows (others, where they had to grow) and
    the number of blocks, keys, sums (likewise) and the number of keys.
    """
    n_slow, n_fast = use.shape
    limited = lowest > -np.inf or highest < np.inf
    row_keys = np.empty(n_fast, dtype=least.dtype)
    ends = np.empty(n_fast, dtype=np.int32)
    so_far = np.empty((n_fast, 6), dtype=np.float64)
    # Blocks of other panels are not met again
    oldest = n_blocks
    for i in range(n_slow):
        use_i = use[i]
        first, last = 0, n_fast
        while first < n_fast and not use_i[first]:
            first += 1
        if first == n_fast:
            continue
        while not use_i[last - 1]:
            last -= 1
        if size + n_fast > keys.size:
            keys, sums = _more_keys(keys, sums, size, n_fast)
        if 2 * (n_blocks - oldest + n_fast) > table.size or n_blocks + n_fast > block_keys.size:
            table, block_keys, rows = _more_blocks(
                table, block_keys, rows, n_blocks, oldest, n_fast
            )
        these, raw_i, e_i = row_keys[first:last], raw[i, first:last], efficiency[i, first:last]
        b_i = _part(background, i, first, last)
        v_i = _part(spread, i, first, last)
        s_i = _part(shared, i, first, last)
        _row_keys(
            planes[0, i, first:last],
            planes[1, i, first:last],
            planes[2, i, first:last],
            matrix,
            least,
            shifts,
            use_i[first:last],
            raw_i,
            low,
            high,
            bragg[i, first:last],
            these,
        )
        if limited:
            _apply_limits(raw_i, e_i, b_i, dose, gain, pedestal, lowest, highest, these)
        n_runs = _find_runs(these, raw_i, e_i, b_i, v_i, s_i, ends, so_far)
        n_blocks, size = _add_runs(
            n_runs,
            first,
            i,
            these,
            shifts,
            ends,
            so_far,
            b_i,
            v_i,
            s_i,
            table,
            block_keys,
            rows,
            n_blocks,
            np.uint64(oldest),
            keys,
            sums,
            size,
        )
    return table, block_keys, rows, n_blocks, keys, sums, size


@njit(cache=True)
def _fill_columns(
    keys,
    sums,
    parts,
    panels,
    lowest,
    shifts,
    gains,
    pedestals,
    dose,
    seconds,
    image_number,
    panel,
    voxel,
    position,
    bragg,
    num_pixels,
    counts,
    background,
    variance,
    exposure,
):
    """Fill the columns of a still: rows parts[i] to parts[i + 1] are those of panels[i], with keys of lowest[i], shifts[i]."""
    for i in range(panels.size):
        for row in range(parts[i], parts[i + 1]):
            at = row - parts[0]
            key = keys[row]
            panel[at] = panels[i]
            voxel[at, 0] = (key >> shifts[i, 0]) + lowest[i, 0]
            voxel[at, 1] = (
                (key >> shifts[i, 1]) & ((1 << (shifts[i, 0] - shifts[i, 1])) - 1)
            ) + lowest[i, 1]
            voxel[at, 2] = (
                (key >> shifts[i, 2]) & ((1 << (shifts[i, 1] - shifts[i, 2])) - 1)
            ) + lowest[i, 2]
            bragg[at] = (key & 1) == 1
            n, e = sums[row, _N], sums[row, _EXPOSURE]
            position[at, 0] = sums[row, _FAST] / e
            position[at, 1] = sums[row, _SLOW] / e
            position[at, 2] = image_number
            num_pixels[at] = np.int32(n)
            counts[at] = (sums[row, _ADU] - n * pedestals[i]) / gains[i]
            background[at] = dose * sums[row, _BACKGROUND]
            common = dose * sums[row, _SHARED]
            variance[at] = dose * dose * sums[row, _SPREAD] + common * common
            exposure[at] = e * seconds


@dataclass(frozen=True)
class _Packing:
    """How the keys of a panel are made.

    Attributes:
        lowest: (3,) index that none is below, of the type of the keys: int32 or int64
        shifts: (3,) bits that the differences from it are shifted by, of the same type
    """

    lowest: np.ndarray
    shifts: np.ndarray

    @classmethod
    def of(cls, largest: np.ndarray) -> _Packing:
        """For indices of no larger size than these (3,)."""
        most = np.ceil(largest).astype(np.int64) + 1
        bits = [int(2 * m).bit_length() for m in most]
        kind = np.int32 if sum(bits) <= _SHORT else np.int64
        shifts = [bits[1] + bits[2] + 1, bits[2] + 1, 1]
        return cls(-most.astype(kind), np.array(shifts, dtype=kind))

    @property
    def precision(self) -> type:
        """Of the coordinates."""
        return np.float32 if self.lowest.dtype == np.int32 else np.float64


class VoxelSums:
    """Sums over the pixels of one still by panel, voxel and Bragg flag.

    The memory is kept from still to still: to get it anew from the system costs more than to add up
    the pixels of several rows.
    """

    def __init__(self):
        self._table = np.zeros(1 << 12, dtype=np.int32)
        self._block_keys = np.empty(1 << 10, dtype=np.int64)
        self._rows = np.empty((1 << 10, _BLOCK), dtype=np.int32)
        self._keys = np.empty(1 << 12, dtype=np.int64)
        self._sums = np.empty((1 << 12, _COLUMNS), dtype=np.float64)
        self.start(1.0)

    def start(self, dose: float) -> None:
        """Forget everything, for a new still.

        Args:
            dose: what the background is multiplied by
        """
        self._dose = float(dose)
        self._table[:] = 0
        # Block 0 stands for an empty place of the table, row 0 for one of a block
        self._n_blocks = self._size = 1
        self._parts: list[tuple[int, int, _Packing, float, float]] = []
        self._has_background = False

    def __len__(self) -> int:
        return self._size - 1

    def add_panel(
        self,
        number: int,
        raw: np.ndarray,
        use: np.ndarray,
        trusted: tuple[float, float],
        panel,
        matrix: np.ndarray,
        bragg: np.ndarray,
        background: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None] = (
            None,
            None,
            None,
        ),
        gain: float = 1.0,
        pedestal: float = 0.0,
        intensity: tuple[float, float] = (-np.inf, np.inf),
    ) -> None:
        """Sum the pixels of a panel by the voxel that they fall into.

        Args:
            number: of the panel; each may come once a still
            raw: (n_slow, n_fast) int32 or float64 ADU
            use: (n_slow, n_fast) bool, pixels to use (static and dynamic mask, limits, step)
            trusted: smallest and largest value that counts, ADU
            panel: its PanelGeometry, finite everywhere
            matrix: (3, 3) from q in 1/Angstrom to fine-grid coordinates: diag(n) A^-1; the voxel is
                floor(matrix q + 1/2)
            bragg: (n_slow, n_fast) bool, True under a Bragg spot: kept in rows of their own
            background: expected photons of each pixel, with the variance of what is each pixel's own
                error and the standard deviation of what neighbouring pixels share ((n_slow, n_fast)
                float32 each, finite everywhere, None for none), all per unit of dose
            gain: ADU per photon
            pedestal: ADU
            intensity: limits of (photons - background)/E of a pixel

        Raises:
            ValueError: voxel indices beyond +-2^19.
        """
        if raw.dtype != np.int32:
            raw = np.ascontiguousarray(raw, dtype=np.float64)
        largest = np.linalg.norm(matrix, axis=1) * panel.largest_q + 0.5
        if not largest.max() < _LARGEST_INDEX:
            raise ValueError(
                f"Voxel indices up to {largest.max():.3g} are beyond the limit of {_LARGEST_INDEX}: check the unit "
                "cell, or give a smaller subdivide"
            )
        packing = _Packing.of(largest)
        # An infinite value would spoil the sums of the rest of its row
        low, high = max(trusted[0], -_LARGEST), min(trusted[1], _LARGEST)
        if raw.dtype == np.int32:
            # Whole numbers are compared faster with their like
            limits = np.iinfo(np.int32)
            low, high = (
                np.int32(np.clip(x, limits.min, limits.max)) for x in (np.ceil(low), np.floor(high))
            )
        first = self._size
        (
            self._table,
            self._block_keys,
            self._rows,
            self._n_blocks,
            self._keys,
            self._sums,
            self._size,
        ) = _sum_pixels(
            raw,
            use,
            bragg,
            low,
            high,
            panel.planes,
            panel.efficiency,
            matrix.astype(packing.precision),
            packing.lowest,
            packing.shifts,
            *background,
            self._dose,
            float(gain),
            float(pedestal),
            float(intensity[0]),
            float(intensity[1]),
            self._table,
            self._block_keys,
            self._rows,
            self._n_blocks,
            self._keys,
            self._sums,
            first,
        )
        self._has_background |= any(plane is not None for plane in background)
        self._parts.append((number, first, packing, float(gain), float(pedestal)))

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
        n = len(self)
        columns = {
            name: np.empty((n, *shape), dtype=kind) for name, (kind, shape) in COLUMNS.items()
        }
        numbers, starts, packings, gains, pedestals = zip(*self._parts)
        _fill_columns(
            self._keys,
            self._sums,
            np.array([*starts, self._size]),
            np.array(numbers, dtype=np.uint64),
            np.array([p.lowest for p in packings], dtype=np.int64),
            np.array([p.shifts for p in packings], dtype=np.int64),
            np.array(gains),
            np.array(pedestals),
            self._dose,
            float(exposure_time),
            float(image_number),
            *columns.values(),
        )
        return columns

    def repeated(self) -> dict[str, float]:
        """Columns whose rows are all alike, and their value: of one panel, without a background."""
        found = {}
        if len(self._parts) == 1:
            found["panel"] = self._parts[0][0]
        if not self._has_background:
            found["background"] = found["background.variance"] = 0.0
        return found
