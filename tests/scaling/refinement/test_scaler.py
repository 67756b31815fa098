"""Observations and weights of a fit, against numpy."""

from __future__ import annotations

import numpy as np

from dials_diffuse.scaling.expectation.patches import patch_of


def model_of(scaler):
    """(E a d b, E a d c), (N,) each"""
    data, tables = scaler.data, scaler.tables
    e = data.exposure * tables.a[data.direction] * tables.d[data.panel]
    return e * tables.b[data.still], e * tables.c[data.still, data.radial]


def test_observations_are_sorted_by_voxel_and_still(problem):
    data = problem[0].data
    assert data.start[0] == 0 and data.start[-1] == data.size
    assert (np.diff(data.voxel) > 0).all()
    for first, last in zip(data.start[:-1], data.start[1:]):
        assert (np.diff(data.still[first:last].astype(int)) >= 0).all()


def test_weights_are_one_over_the_expected_variance(problem):
    scaler, _ = problem
    data = scaler.data
    data.weight[::7] = 0
    scaler.update_weights()
    g, h = model_of(scaler)
    accepted = data.weight > 0
    assert not accepted[::7].any()
    num = np.add.reduceat((data.net - h) * accepted, data.start[:-1])
    den = np.add.reduceat(g * accepted, data.start[:-1])
    k = scaler.prior_strength
    expected = (np.maximum(num, 0) + k) / (den + k / data.prior)
    signal = g * np.repeat(expected, np.diff(data.start))
    variance = np.maximum(signal + h, 0.05 * signal) + data.floor
    np.testing.assert_allclose(data.weight[accepted], 1 / variance[accepted], rtol=1e-10)


def test_chunks_are_a_partition_of_the_voxels(problem):
    scaler, _ = problem
    chunks = scaler.chunks(n_sums=1)
    assert len(chunks) == 8
    assert [c.start for c in chunks[1:]] == [c.stop for c in chunks[:-1]]
    assert chunks[0].start == 0 and chunks[-1].stop == len(scaler.data.voxel)
    assert len(scaler.chunks(n_sums=10**6)) == 1
    part = scaler.data.of_voxels(chunks[3])
    assert part.start[0] == scaler.data.start[chunks[3].start]
    np.testing.assert_array_equal(part.prior, scaler.data.prior[chunks[3]])


def test_patches_are_left_out_and_accepted_again(problem):
    scaler, _ = problem
    data = scaler.data
    data.patch[:] = patch_of(np.linspace(0.1, 0.4, data.size), np.zeros(data.size), (0, 0.4, 0, 0))
    bad = np.zeros_like(scaler.bad_patches)
    bad[2, data.patch[data.still == 2][0]] = True
    scaler.leave_out(bad)
    expected = (data.still == 2) & bad[2, data.patch]
    assert expected.any()
    np.testing.assert_array_equal(data.weight == 0, expected)
    scaler.accept_all()
    assert (data.weight > 0).all() and not scaler.bad_patches.any()
