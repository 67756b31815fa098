"""Cubic interpolation between nodes against functions that it must give back exactly, or nearly."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.geometry.cubic import at_middles, fill_planes, node_positions

SHAPE = (70, 101)


def cubic(slow, fast):
    """A product of cubics, so that nothing is lost"""
    x, y = fast[None, :] / 50 - 1, slow[:, None] / 40 - 1
    return (1 + x - 2 * x**2 + 0.5 * x**3) * (2 - y + y**2 - 0.3 * y**3)


def smooth(slow, fast):
    return 1 / np.sqrt(1 + ((fast[None, :] - 30) / 200) ** 2 + ((slow[:, None] - 50) / 200) ** 2)


def nodes_of(function, step):
    slow, fast = (node_positions(n, step) for n in SHAPE)
    return function(slow, fast)[None]


@pytest.mark.parametrize("step", [8, 16, 32, 64, 128])
def test_cubics_are_given_back(step):
    planes = np.empty((1, *SHAPE))
    fill_planes(nodes_of(cubic, step), step, planes)
    exact = cubic(*(np.arange(n) + 0.5 for n in SHAPE))
    assert planes[0] == pytest.approx(exact, rel=1e-12, abs=1e-12)


def test_the_middles_tell_the_largest_error():
    step = 16
    nodes = nodes_of(smooth, step)
    planes = np.empty((1, *SHAPE))
    fill_planes(nodes, step, planes)
    everywhere = np.abs(planes[0] - smooth(*(np.arange(n) + 0.5 for n in SHAPE))).max()
    middles = [node_positions(n, step)[1:-2] + step / 2 for n in SHAPE]
    found = np.abs(at_middles(nodes)[0] - smooth(*middles)).max()
    assert 0 < everywhere < 2e-5
    assert everywhere == pytest.approx(found, rel=0.2)


@pytest.mark.parametrize("n, step", [(1, 8), (8, 8), (9, 8), (2463, 32)])
def test_there_are_two_nodes_on_either_side_of_every_pixel(n, step):
    positions = node_positions(n, step)
    assert positions[1] == 0.5 and positions[0] < 0.5
    assert (positions > n - 0.5).sum() >= 2
