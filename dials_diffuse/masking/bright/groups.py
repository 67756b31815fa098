"""Sums over groups of 3 x 3 pixels, row by row of a panel.

Compiled functions that Python calls take plain arrays and make the named tuples themselves: numba
0.56 may take one compiled function for another if it gets named tuples of several types.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

# Usable pixels that a group needs, of nine
ENOUGH = 5


class PanelPixels(NamedTuple):
    """The pixels of a panel, of which those are usable that are not blocked and within bounds.

    Attributes:
        raw: (n_slow, n_fast) values
        blocked: (n_slow, n_fast) bool
        bounds: (2,) smallest and largest usable value
    """

    raw: np.ndarray
    blocked: np.ndarray
    bounds: np.ndarray


class GroupRow(NamedTuple):
    """Sums over the groups around the pixels of one row, and what they are made from.

    Attributes:
        value, number: (3, n_fast + 2) usable values and their number, of the rows of the groups in
            turn; what is not usable or beyond the edges is 0
        column: (n_fast + 2,) sums of three rows
        total, count: (n_fast,) sums over the groups, and their numbers of usable pixels
    """

    value: np.ndarray
    number: np.ndarray
    column: np.ndarray
    total: np.ndarray
    count: np.ndarray


@numba.njit(cache=True)
def group_row(n_fast, dtype):
    """A GroupRow for rows of n_fast pixels, with sums in a floating point type."""
    value, number = np.zeros((3, n_fast + 2), dtype), np.zeros((3, n_fast + 2), dtype)
    total, count = np.zeros(n_fast, dtype), np.zeros(n_fast, dtype)
    return GroupRow(value, number, np.zeros(n_fast + 2, dtype), total, count)


# Unsigned indices are never counted from the end, so that the loops become vector code


@numba.njit(cache=True)
def _add_row(pixels, y, row):
    """Put the usable pixels of row y of a panel into value and number, in place."""
    raw, blocked = pixels.raw[y], pixels.blocked[y]
    low, high = pixels.bounds[0], pixels.bounds[1]
    value, number = row.value[y % 3], row.number[y % 3]
    for x in range(np.uint64(raw.size)):
        usable = (not blocked[x]) & (low <= raw[x]) & (raw[x] <= high)
        value[x + np.uint64(1)] = raw[x] if usable else 0
        number[x + np.uint64(1)] = usable


@numba.njit(cache=True)
def _sum_three(rows, column, total):
    """Sums over three rows (3, n + 2) and three neighbouring columns; fills column and total."""
    above, middle, below = rows[0], rows[1], rows[2]
    for x in range(np.uint64(column.size)):
        column[x] = above[x] + middle[x] + below[x]
    for x in range(np.uint64(total.size)):
        total[x] = column[x] + column[x + np.uint64(1)] + column[x + np.uint64(2)]


@numba.njit(cache=True)
def sum_groups(pixels, y, row):
    """Fill total and count with the sums over the groups around row y.

    Args:
        pixels: PanelPixels
        y: 0 and up, one row after the other
        row: GroupRow as the row before left it, changed in place
    """
    if y == 0:
        row.value[:], row.number[:] = 0, 0
        _add_row(pixels, 0, row)
    if y + 1 < pixels.raw.shape[0]:
        _add_row(pixels, y + 1, row)
    else:
        row.value[(y + 1) % 3], row.number[(y + 1) % 3] = 0, 0
    _sum_three(row.value, row.column, row.total)
    _sum_three(row.number, row.column, row.count)


@numba.njit(cache=True)
def group_mean(pixels, x, y):
    """(mean of the usable pixels of the group around a pixel, their number), in double precision."""
    raw, blocked = pixels.raw, pixels.blocked
    low, high = pixels.bounds[0], pixels.bounds[1]
    number, total = 0, raw.dtype.type(0) * 1
    for j in range(max(0, y - 1), min(raw.shape[0], y + 2)):
        for i in range(max(0, x - 1), min(raw.shape[1], x + 2)):
            usable = (not blocked[j, i]) & (low <= raw[j, i]) & (raw[j, i] <= high)
            number += usable
            total += raw[j, i] if usable else raw.dtype.type(0)
    return total / max(number, 1), number
