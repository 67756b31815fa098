"""Shares of voxels under the Bragg mask, against numpy."""

from __future__ import annotations

import numpy as np

from dials_diffuse.scaling.observations.masked import ExposureByVoxel, masked_fraction


def sums(keys, exposure, voxels):
    return np.array([exposure[keys == voxel].sum() for voxel in voxels])


def test_sums_of_voxels_that_come_in_pieces():
    rng = np.random.default_rng(1)
    keys, exposure = rng.integers(0, 9000, 20_000) * 7, rng.random(20_000)
    total = ExposureByVoxel()
    for piece in np.array_split(np.arange(20_000), [0, 10, 9000, 9000]):
        total.add(keys[piece], exposure[piece])
    voxels = np.array([*keys[:50], 1, 2])
    np.testing.assert_allclose(total.of(voxels), sums(keys, exposure, voxels))
    assert total.of(voxels)[-2:].tolist() == [0, 0]


def test_shares():
    masked, rest = ExposureByVoxel(), ExposureByVoxel()
    masked.add(np.array([5, 5, 6]), np.array([1.0, 2.0, 4.0]))
    rest.add(np.array([5, 7]), np.array([1.0, 2.0]))
    voxels = np.array([5, 6, 7, 8])
    assert masked_fraction(voxels, masked, rest).tolist() == [0.75, 1, 0, 0]
