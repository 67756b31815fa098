"""Sorting of observations by voxel, against numpy."""

from __future__ import annotations

import numpy as np

from dials_diffuse.scaling.observations.sorting import order_by_voxel, segments


def test_order_is_numpys_stable_one():
    index = np.random.default_rng(1).integers(-1, 20, 500).astype(np.int32)
    np.testing.assert_array_equal(order_by_voxel(index, 20), np.argsort(index, kind="stable"))


def test_segments():
    keys, start = segments(np.array([-3, -3, 5, 7, 7, 7]))
    assert keys.tolist() == [-3, 5, 7] and start.tolist() == [0, 2, 3, 6]
    keys, start = segments(np.empty(0, dtype=np.int64))
    assert len(keys) == 0 and start.tolist() == [0]
