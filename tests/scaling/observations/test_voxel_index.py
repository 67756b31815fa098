"""Numbers of voxels, against numpy.unique."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.scaling.observations.voxel_index import VoxelIndex


def random_keys(n, seed=0):
    """Keys with repetitions: far apart, in runs, and multiples of a power of two"""
    rng = np.random.default_rng(seed)
    far = rng.integers(0, 1 << 62, n // 4)
    runs = (rng.integers(0, 1 << 40, n // 32)[:, None] + np.arange(8)).ravel()
    aligned = rng.integers(0, n, n // 4) << 42
    keys = np.concatenate((far, runs, aligned))
    return rng.choice(keys, n)


def in_order_of_appearance(keys):
    """(different keys in the order of their first appearance, number of each key)"""
    unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(unique), dtype=int)
    number[order] = np.arange(len(unique))
    return unique[order], number[inverse.ravel()]


@pytest.mark.parametrize("size", [2, 16, 1 << 16])
def test_numbers_are_those_of_first_appearance(size):
    keys = random_keys(5000)
    voxels, number = in_order_of_appearance(keys)
    index = VoxelIndex(size)
    # in pieces of which some are empty
    pieces = np.split(keys, [0, 1, 700, 700, 3000])
    found = np.concatenate([index.add(piece) for piece in pieces])
    np.testing.assert_array_equal(found, number)
    np.testing.assert_array_equal(index.voxels(), voxels)
    assert len(index) == len(voxels)
    # a second time nothing is new
    np.testing.assert_array_equal(index.add(keys[::-1]), number[::-1])
    assert len(index) == len(voxels)


def test_find_knows_what_was_added():
    index = VoxelIndex(4)
    assert index.find(np.array([0, 5])).tolist() == [-1, -1]
    keys = random_keys(1000)
    number = index.add(keys)
    np.testing.assert_array_equal(index.find(keys), number)
    others = np.setdiff1d(random_keys(1000, seed=1), keys)
    assert len(others) > 100 and (index.find(others) == -1).all()
    # beside the grid
    assert index.find(np.array([-5, -(1 << 60)])).tolist() == [-1, -1]
    assert index.find(np.empty(0, dtype=np.int64)).shape == (0,)


def test_empty():
    index = VoxelIndex()
    assert len(index) == 0 and index.voxels().shape == (0,)
    assert index.add(np.empty(0, dtype=np.int64)).shape == (0,)
