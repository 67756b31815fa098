"""Functions of the pixels of a panel that are so smooth that a few nodes say all, cubic in between.

Node (a, b) is the centre of pixel ((a - 1) step, (b - 1) step): one row and column of nodes lie before the first
pixel, and at least two beyond the last, so that every pixel has two nodes on either side in both directions. In between,
Lagrange's polynomial of the third degree through these four (e.g. Abramowitz & Stegun, Handbook of Mathematical
Functions, eq. 25.2.13).
"""

from __future__ import annotations

import numpy as np
from numba import njit


def node_positions(n: int, step: int) -> np.ndarray:
    """Pixel coordinates of the nodes along an axis of n pixels (the centre of the first pixel is 0.5)."""
    return np.arange(-1, (n - 1) // step + 3) * float(step) + 0.5


@njit(cache=True)
def weights(u):
    """Weights of four nodes, one step apart, at u steps beyond the second (0 <= u < 1)."""
    before, after, beyond = u + 1.0, u - 1.0, u - 2.0
    return (
        -u * after * beyond / 6.0,
        before * after * beyond / 2.0,
        -before * u * beyond / 2.0,
        before * u * after / 6.0,
    )


@njit(cache=True)
def polynomial(a, b, c, d):
    """Coefficients, from the constant upwards, of the polynomial in u that has these values at -1, 0, 1 and 2."""
    return b, c - b / 2.0 - a / 3.0 - d / 6.0, (a + c) / 2.0 - b, (d - a) / 6.0 + (b - c) / 2.0


@njit(cache=True)
def at_row(nodes, step, i, out):
    """Values at row i of the pixels for every column of nodes.

    Args:
        nodes: (k, n, m)
        out: (k, m), filled
    """
    first = i // step
    w0, w1, w2, w3 = weights((i - first * step) / step)
    for k in range(nodes.shape[0]):
        for b in range(nodes.shape[2]):
            out[k, b] = (
                w0 * nodes[k, first, b]
                + w1 * nodes[k, first + 1, b]
                + w2 * nodes[k, first + 2, b]
                + w3 * nodes[k, first + 3, b]
            )


@njit(cache=True)
def fill_planes(nodes, step, planes):
    """Values at every pixel.

    Args:
        nodes: (k, n, m)
        planes: (k, n_slow, n_fast), filled
    """
    n_planes, n_slow, n_fast = planes.shape
    row = np.empty((n_planes, nodes.shape[2]))
    u = np.arange(step) / step
    for i in range(n_slow):
        at_row(nodes, step, i, row)
        for k in range(n_planes):
            for b in range((n_fast + step - 1) // step):
                coefficients = polynomial(row[k, b], row[k, b + 1], row[k, b + 2], row[k, b + 3])
                _evaluate(coefficients, u, planes[k, i, b * step : min((b + 1) * step, n_fast)])


@njit(cache=True)
def _evaluate(coefficients, u, out):
    c0, c1, c2, c3 = coefficients
    for j in range(np.uint64(out.size)):
        out[j] = c0 + u[j] * (c1 + u[j] * (c2 + u[j] * c3))


def at_middles(nodes: np.ndarray) -> np.ndarray:
    """Values in the middle between four nodes, (k, n - 3, m - 3): there they are least sure."""
    middle = np.array(weights(0.5))
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(nodes, 4, axis=axis)
        nodes = windows @ middle
    return nodes
