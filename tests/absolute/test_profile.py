from __future__ import annotations

import numpy as np
import pytest
import synthetic_crystal
import xraylib

from dials_diffuse.absolute.profile import (
    ProfileAccumulator,
    RadialProfile,
    UsableProfile,
    usable_rows,
)
from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.adapters.tables import as_numpy, bool_column


@pytest.fixture(scope="module")
def data():
    return synthetic_crystal.SyntheticCrystal(scale=5.0, b_factor=12.0, n_stills=8)


def flat_profile(n, groups):
    edges = 0.1 * np.arange(n + 1)
    ones = np.ones(n)
    return RadialProfile(edges[:-1] + 0.05, edges, ones, ones, ones, groups, ones)


def test_profile_against_the_truth(data):
    accumulator = ProfileAccumulator(0.02, 0.82)
    accumulator.add(stills_of(data.experiments), data.table)
    accumulator.count(len(data.experiments))
    profile = accumulator.profile(d_min=data.grid.d_min)
    expected = sum(
        synthetic_crystal.sum_over_atoms(function, profile.q, power)
        for function, power in ((xraylib.FF_Rayl, 2), (xraylib.SF_Compt, 1))
    )
    high = profile.q > 0.3
    assert 5.0 * profile.total[high].sum() == pytest.approx(expected[high].sum(), rel=0.01)
    pull = (5.0 * profile.total - expected) / (5.0 * np.sqrt(profile.variance))
    # the variance is that of the scatter between stills, Bragg peaks hit or missed included
    assert 0.4 < pull[high].std() < 2.0
    assert (profile.diffuse < profile.total)[profile.q < 0.4].all()
    assert profile.edges[-1] == pytest.approx(0.8)


def test_columns_missing(data):
    table = data.table.copy()
    del table["inverse_scale_factor"]
    with pytest.raises(ValueError, match="lack the columns inverse_scale_factor"):
        usable_rows(table)


def test_outliers_and_excluded_rows(data):
    table = data.table[:1000]
    bragg = as_numpy(table["bragg"]).astype(bool)
    flag = np.zeros(1000, dtype=bool)
    flag[:500] = True
    table["outlier"] = bool_column(flag)
    # a strong Bragg peak is no outlier of total scattering
    assert (usable_rows(table) == (~flag | bragg)).all()
    table["excluded"] = bool_column(np.arange(1000) % 2 == 0)
    assert not usable_rows(table)[::2].any()


def test_jackknife_of_a_mean():
    rng = np.random.default_rng(1)
    groups = rng.normal(size=(20, 3))
    profile = flat_profile(3, groups)
    # of the mean itself the jackknife gives the usual standard error
    expected = groups[:, 1].std(ddof=1) / np.sqrt(20)
    assert profile.jackknife(lambda total: total[1]) == pytest.approx(expected)
    assert flat_profile(3, groups[:2]).jackknife(lambda total: total[1]) == 0


def test_usable_shells():
    usable = UsableProfile.between(flat_profile(10, np.ones((1, 10))), 0.2, None)
    assert (usable.start, usable.stop) == pytest.approx((0.2, 1.0))
    assert np.flatnonzero(usable.shells(0.0, 0.5)).tolist() == [2, 3, 4]
    assert UsableProfile.between(flat_profile(3, np.ones((1, 3))), 5.0, None).stop == 0


def test_the_longest_range_without_a_gap_is_taken():
    accumulator = ProfileAccumulator(0.05, 1.0)
    middle = 0.5 * (accumulator.edges[1:] + accumulator.edges[:-1])
    # as much exposure as the shell has volume
    accumulator.weight[:, 0] = middle**2
    accumulator.signal[:, 0] = 7 * accumulator.weight[:, 0]
    # no voxel centre lies in one shell at low |q|
    accumulator.weight[:, 0, 3] = 0
    profile = accumulator.profile()
    assert profile.edges[[0, -1]] == pytest.approx([0.2, 1.0])
    assert profile.total == pytest.approx(7)
