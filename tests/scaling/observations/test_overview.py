"""Overview of all observations, against counts by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import source_of

from dials.array_family import flex

from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.model.components import N_RADIAL
from dials_diffuse.scaling.observations.overview import read_observations


def overview_of(truth, folder, n_pairs=1, keep=10**8):
    return read_observations(source_of(truth, folder, n_pairs), 0.0, keep)


def with_column(truth, name, values):
    kind = {"bragg": flex.bool, "num_pixels.valid": flex.int}.get(name, flex.double)
    truth.table[name] = kind(np.asarray(values).tolist())
    return truth


@pytest.mark.parametrize("keep", [10**8, 10])
def test_counts_of_voxels_and_stills(make_truth, run_in_tmp_path, keep):
    truth = make_truth(n_stills=6, n_obs=200, n_voxels=300, panels=(2, 1))
    overview = overview_of(truth, run_in_tmp_path, n_pairs=2, keep=keep)
    columns, found = truth.columns, overview.without([4])
    # what was there before is still what it was
    assert not overview.excluded.any() and overview.connections.n_obs.sum() == 1200
    used = columns["id"] != 4
    still, voxel = columns["id"][used], pack_voxels(columns["asu_voxel"])[used]
    voxels, index, n_obs = np.unique(voxel, return_inverse=True, return_counts=True)
    seen = np.zeros((6, len(voxels)), dtype=bool)
    seen[still, index.ravel()] = True
    places = found.rows.places(voxels)
    np.testing.assert_array_equal(found.connections.n_obs[places], n_obs)
    np.testing.assert_array_equal(found.connections.n_stills[places], seen.sum(axis=0))
    shared = seen[:, seen.sum(axis=0) > 1].sum(axis=1)
    np.testing.assert_array_equal(found.connections.shared, shared)
    assert found.still_obs.tolist() == found.still_pixels.tolist() == [200] * 6
    assert found.used.tolist() == [True] * 4 + [False, True]
    assert found.groups() == [[0, 1, 2, 3, 5]]
    assert (found.n_rows, found.n_usable, found.n_stills_in) == (1200, 1000, 6)
    assert (found.n_panels, found.n_layouts) == (2, 1)


def test_sums_of_stills(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=5, n_obs=150, n_voxels=300)
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 5, 750)
    with_column(truth, "num_pixels.valid", pixels)
    bragg = rng.random(750) < 0.2
    with_column(truth, "bragg", bragg)
    counts = truth.columns["counts"]
    counts[::50] = np.nan
    with_column(truth, "counts", counts)
    overview = overview_of(truth, run_in_tmp_path)
    assert (overview.n_bragg, overview.n_not_finite) == (bragg.sum(), 15)
    columns, usable = truth.columns, ~bragg & np.isfinite(counts)
    net = columns["counts"] - columns["background"]
    # |q| of a position is that of its voxel
    q = np.linalg.norm(truth.grid.q_of_voxel(columns["voxel"]), axis=1)
    radial = (q / overview.bins.q_max * N_RADIAL).astype(int)
    for still in range(5):
        of = usable & (columns["id"] == still)
        assert overview.still_obs[still] == of.sum()
        assert overview.still_pixels[still] == pixels[of].sum()
        variance = np.maximum(net[of], 0) + columns["background"][of]
        assert overview.still_variance[still] == pytest.approx(variance.sum(), rel=1e-5)
        for name, values in (("counts", net), ("exposure", columns["exposure"])):
            profile = np.bincount(radial[of], values[of], N_RADIAL)
            table = getattr(overview, f"profile_{name}")[still]
            # rounding may move an observation to the bin beside
            np.testing.assert_allclose(table.cumsum()[9::10], profile.cumsum()[9::10], rtol=0.1)
            assert table.sum() == pytest.approx(profile.sum(), rel=1e-5)
    voxels = pack_voxels(columns["asu_voxel"])
    under, rest = (
        np.array([columns["exposure"][of & (voxels == v)].sum() for v in overview.rows.voxels[:40]])
        for of in (bragg, usable)
    )
    assert under.any()
    np.testing.assert_allclose(overview.masked_fraction[:40], under / (under + rest), rtol=1e-5)
    times = np.bincount(columns["id"][usable], columns["exposure"][usable])
    times /= overview.still_pixels
    found = overview.relative_times()
    np.testing.assert_allclose(found / found[0], times / times[0], rtol=1e-5)


def test_groups_of_stills_that_share_no_voxels(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=5, n_obs=100, n_voxels=300)
    columns = truth.columns
    # voxels of one half of reciprocal space for stills 1 and 3, of the other for the others
    half = columns["voxel"][:, 0] % 2
    keep = half == np.isin(columns["id"], [1, 3])
    truth.table = truth.table.select(flex.bool(keep.tolist()))
    overview = overview_of(truth, run_in_tmp_path)
    assert overview.groups() == [[0, 2, 4], [1, 3]]
    assert overview.without([0, 2]).groups() == [[1, 3]]


def test_scales_of_radial_profiles_come_near_the_truth(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=20, n_obs=2000, mean_counts=20)
    overview = overview_of(truth, run_in_tmp_path)
    scales = overview.still_scales()
    assert scales.mean() == pytest.approx(1)
    np.testing.assert_allclose(scales / truth.b, (scales / truth.b).mean(), rtol=0.1)
    q = np.linspace(0.2, 0.45, 20)
    np.testing.assert_allclose(overview.prior(scales)(q), 1000 * np.exp(-4 * q**2), rtol=0.3)


def test_errors_of_scales_are_those_of_counting(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=6, n_obs=500, mean_counts=20, background=0.5)
    overview = overview_of(truth, run_in_tmp_path)
    b = overview.still_scales()
    columns = truth.columns
    photons = np.bincount(columns["id"], columns["counts"])
    net = photons - np.bincount(columns["id"], columns["background"])
    relative = overview.scale_errors(b) / b
    np.testing.assert_allclose(relative, np.sqrt(photons) / net, rtol=0.05)


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("bragg", True, "None of the observations"),
        ("exposure", 0.0, "None of the observations"),
        ("counts", np.nan, "None of the observations"),
    ],
)
def test_nothing_to_scale(make_truth, run_in_tmp_path, column, value, message):
    truth = with_column(make_truth(n_stills=3, n_obs=50), column, np.full(150, value))
    with pytest.raises(ValueError, match=message):
        overview_of(truth, run_in_tmp_path)


def test_all_counts_zero(make_truth, run_in_tmp_path):
    truth = make_truth(n_stills=3, n_obs=50, background=0)
    with pytest.raises(ValueError, match="All counts are zero"):
        overview_of(with_column(truth, "counts", np.zeros(150)), run_in_tmp_path)


def test_one_still_is_refused(make_truth, run_in_tmp_path):
    with pytest.raises(ValueError, match="only one still"):
        overview_of(make_truth(n_stills=1, n_obs=50), run_in_tmp_path)
    truth = make_truth(n_stills=3, n_obs=50)
    with_column(truth, "bragg", truth.columns["id"] != 1)
    with pytest.raises(ValueError, match="Only one still"):
        overview_of(truth, run_in_tmp_path)
