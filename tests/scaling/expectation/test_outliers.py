"""Rejection of outliers, against taking out one after the other by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.scaling.expectation.outliers import deviation, reject_outliers
from dials_diffuse.scaling.observations.rows import ROW

CUTOFF = 6.0


def rows_of(net, background=0.0, floor=0.0):
    rows = np.zeros(len(net), dtype=ROW)
    rows["net"], rows["background"], rows["floor"] = net, background, floor
    return rows


def rejected(rows, eg, expected, eh=0.0, systematic=0.0, cutoff=CUTOFF, weight=None):
    """Which observations are rejected (n,)"""
    eg, eh = (np.broadcast_to(v, len(rows)).astype(float) for v in (eg, eh))
    if weight is None:
        weight = 1 / (eg * expected + eh + rows["floor"])
    left = weight.copy()
    n = reject_outliers(rows, eg, eh, left, expected, systematic, cutoff, np.empty(len(rows)))
    gone = (left == 0) & (weight > 0)
    assert n == gone.sum()
    np.testing.assert_array_equal(left[~gone], weight[~gone])
    return gone


def deviance_residual(counts, expected, variance):
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.where(counts > 0, counts * np.log(counts / expected), 0.0)
    return np.sqrt(np.maximum(2 * (expected - counts + log) * expected / variance, 0))


def one_after_the_other(rows, eg, eh, weight, expected, systematic):
    """Which are rejected if one observation goes at a time"""
    left = np.arange(len(rows))
    own = 1 / (3 * expected) ** 2
    while len(left) > 1:
        w, g, h, of = weight[left], eg[left], eh[left], rows[left]

        def sizes(intensity, more, g=g, h=h, of=of):
            signal = np.maximum(g * intensity + h, 0)
            variance = signal + of["floor"] + more + (systematic * g * intensity) ** 2
            background = of["background"].astype(float)
            return deviance_residual(of["net"] + background, signal + background, variance)

        others = ~np.eye(len(left), dtype=bool)
        den = others @ (w * g * g)
        mean = others @ (w * g * (of["net"] - h)) / den
        # where they have less than expected, the expectation is one more observation, 300 % wrong
        drawn = np.where(mean < expected, own, 0)
        mean, den = (den * mean + drawn * expected) / (den + drawn), den + drawn
        bad = sizes(mean, g * g / den) > CUTOFF
        if not bad.any():
            break
        worst = np.argmax(np.where(bad, sizes(expected, 0.0), -1))
        left = np.delete(left, worst)
    return ~np.isin(np.arange(len(rows)), left)


def random_voxel(rng, n, wild):
    """(rows, E g, E h, intensity, which are wild)"""
    eg, eh, background = rng.uniform(0.2, 3, n), rng.uniform(0, 4, n), rng.uniform(0, 4, n)
    intensity = rng.uniform(5, 30)
    counts = rng.poisson(eg * intensity + eh + background).astype(float)
    is_wild = rng.random(n) < wild
    up = rng.random(n) < 0.8
    counts[is_wild] = np.where(up, 10 * counts + 100, 0)[is_wild]
    rows = rows_of(counts - background, background, background)
    return rows, eg, eh, intensity, is_wild


@pytest.mark.parametrize("n", [2, 3, 7, 60])
@pytest.mark.parametrize("systematic", [0.0, 0.1])
def test_few_observations_are_judged_one_after_the_other(n, systematic):
    rng = np.random.default_rng(n)
    n_gone = 0
    for _ in range(1500 // n):
        rows, eg, eh, intensity, _ = random_voxel(rng, n, wild=0.05)
        expected = intensity * rng.uniform(0.5, 2)
        weight = 1 / (eg * expected + eh + rows["floor"])
        weight[rng.random(n) < 0.05] = 0
        kept = weight > 0
        found = rejected(rows, eg, expected, eh, systematic, weight=weight)
        right = one_after_the_other(
            rows[kept], eg[kept], eh[kept], weight[kept], expected, systematic
        )
        np.testing.assert_array_equal(found[kept], right)
        n_gone += right.sum()
    assert n_gone > 10


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50])
@pytest.mark.parametrize("factor", [0.02, 20, 200])
def test_what_agrees_with_itself_stays_wherever_it_is(n, factor):
    rng = np.random.default_rng(1)
    for _ in range(20):
        eg = rng.uniform(0.5, 2, n)
        net = rng.poisson(eg * 10 * factor)
        assert not rejected(rows_of(net), eg, 10.0).any()


@pytest.mark.parametrize("n", range(3, 11))
@pytest.mark.parametrize("brightness", [1, 30])
def test_one_wild_observation_goes_alone(n, brightness):
    rng = np.random.default_rng(n)
    for place in range(n):
        eg = rng.uniform(0.8, 1.2, n)
        net = rng.poisson(eg * 20 * brightness).astype(float)
        net[place] = 20 * brightness * 5 + 100
        assert np.flatnonzero(rejected(rows_of(net), eg, 20.0)).tolist() == [place]


@pytest.mark.parametrize("expected, gone", [(10.0, 1), (400.0, 0)])
def test_of_two_that_disagree_the_one_far_from_the_expected_goes(expected, gone):
    for order in (1, -1):
        found = rejected(rows_of([12.0, 390.0][::order]), 1.0, expected)
        assert np.flatnonzero(found[::order]).tolist() == [gone]


def test_one_observation_is_never_rejected():
    assert not rejected(rows_of([1e4]), 1.0, 1.0).any()


def test_an_offset_and_a_systematic_error_are_expected():
    net = np.array([100.0, 104, 96, 300])
    assert rejected(rows_of(net), 1.0, 100.0).tolist() == [False] * 3 + [True]
    assert not rejected(rows_of(net), 1.0, 100.0, eh=[0, 0, 0, 200]).any()
    assert not rejected(rows_of(net), 1.0, 100.0, systematic=1.0).any()
    assert not rejected(rows_of(net), 1.0, 100.0, cutoff=30.0).any()


@pytest.mark.parametrize("wild", [0.01, 0.2])
def test_many_observations_are_judged_alike_though_several_go_at_a_time(wild):
    rng = np.random.default_rng(4)
    for n in (99, 101, 150, 700):
        rows, eg, eh, intensity, is_wild = random_voxel(rng, n, wild)
        weight = 1 / (eg * intensity + eh + rows["floor"])
        found = rejected(rows, eg, intensity, eh, weight=weight)
        right = one_after_the_other(rows, eg, eh, weight, intensity, 0.0)
        # a mean that is still spoiled by others may cost one that is right
        assert np.count_nonzero(found != right) <= 0.02 * right.sum()
        assert np.count_nonzero(found & ~is_wild) <= 2


def test_deviation():
    # nearly (n - m) / sigma of many photons, and exactly so below zero
    assert deviation(10_100.0, 10_000.0, 10_000.0) == pytest.approx(1, rel=0.01)
    assert deviation(10_100.0, 10_000.0, 40_000.0) == pytest.approx(0.5, rel=0.01)
    assert deviation(9_700.0, 10_000.0, 10_000.0) == pytest.approx(-3, rel=0.02)
    assert deviation(-3.0, 5.0, 4.0) == -4 and deviation(7.0, 0.0, 4.0) == 3.5
    # few photons
    assert deviation(2.0, 0.1, 0.1) < 3.5 < (2 - 0.1) / np.sqrt(0.1)
    assert deviation(0.0, 8.0, 8.0) == pytest.approx(-4)
    for counts in (0.0, 3.0, 11.0):
        found = deviation(counts, 5.0, 7.0)
        assert abs(found) == pytest.approx(float(deviance_residual(counts, 5.0, 7.0)))
        assert (found > 0) == (counts > 5)
