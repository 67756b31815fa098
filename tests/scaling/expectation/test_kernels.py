"""Rejection of outliers in the fit, against taking out one after the other by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.scaling.expectation.kernels import (
    FitData,
    ModelTables,
    deviation,
    reject_outliers,
)

CUTOFF = 6.0


def observations(n_voxels: int, each: int, wild: float, seed: int = 0):
    """(FitData, ModelTables, (N,) bool which are wild) of voxels with so many observations each"""
    rng = np.random.default_rng(seed)
    n, n_stills = n_voxels * each, 50
    still = rng.integers(0, n_stills, n).astype(np.int32)
    b, c = rng.uniform(0.5, 2.0, n_stills), np.zeros((n_stills, 1))
    exposure, intensity = rng.uniform(0.5, 1.5, n), np.repeat(rng.uniform(5, 30, n_voxels), each)
    net = rng.poisson(exposure * b[still] * intensity).astype(float)
    is_wild = rng.random(n) < wild
    net[is_wild] = np.where(rng.random(is_wild.sum()) < 0.8, 10 * net[is_wild] + 100, 0)
    zeros = np.zeros(n, dtype=np.int32)
    signal = exposure * b[still] * intensity
    data = FitData(
        voxel=np.arange(n_voxels),
        start=np.arange(0, n + 1, each),
        prior=np.full(n_voxels, 17.0),
        still=still,
        panel=zeros,
        radial=zeros,
        direction=zeros,
        patch=zeros,
        net=net,
        background=np.zeros(n),
        exposure=exposure,
        floor=np.zeros(n),
        weight=1 / signal,
        relative_error=np.zeros(n),
        importance=np.ones(n),
    )
    return data, ModelTables(b, c, np.ones(1), np.ones(1)), is_wild


def one_after_the_other(data: FitData, tables: ModelTables) -> np.ndarray:
    """Which are rejected if only the worst of a voxel goes at a time"""
    rejected = np.zeros(data.size, dtype=bool)
    for v, (first, last) in enumerate(zip(data.start[:-1], data.start[1:])):
        rows = np.arange(first, last)
        prior = data.prior[v]
        while len(rows) > 1:
            g = data.exposure[rows] * tables.b[data.still[rows]]
            w, y = data.weight[rows], data.net[rows]
            den = 1 / (9 * prior**2) + np.sum(w * g * g) - w * g * g
            rest = (1 / (9 * prior) + np.sum(w * g * y) - w * g * y) / den
            expected = np.maximum(g * rest, 0)
            variance = expected + g * g / den
            z = np.abs([deviation(*of) for of in zip(y, expected, variance)])
            worst = np.argmax(z)
            if z[worst] <= CUTOFF:
                break
            rejected[rows[worst]] = True
            rows = np.delete(rows, worst)
    return rejected


@pytest.mark.parametrize("each", [2, 7, 90])
def test_few_observations_are_judged_one_after_the_other(each):
    data, tables, _ = observations(1800 // each, each, wild=0.03)
    expected = one_after_the_other(data, tables)
    assert reject_outliers(data, tables, CUTOFF) == expected.sum() > 10
    np.testing.assert_array_equal(data.weight == 0, expected)


@pytest.mark.parametrize("wild", [0.01, 0.2])
def test_many_observations_are_judged_alike_though_several_go_at_a_time(wild):
    data, tables, is_wild = observations(4, 1000, wild)
    expected = one_after_the_other(data, tables)
    n = reject_outliers(data, tables, CUTOFF)
    rejected = data.weight == 0
    assert n == rejected.sum()
    # a mean that is still spoiled by others may cost one that is right
    assert np.count_nonzero(rejected != expected) <= 0.01 * expected.sum()
    assert np.count_nonzero(rejected & ~is_wild) <= 2


def test_all_alike_lose_nobody():
    data, tables, _ = observations(3, 500, wild=0)
    assert reject_outliers(data, tables, CUTOFF) == 0
