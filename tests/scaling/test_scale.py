"""Scaling from observations to the merged map."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_problems import radial_bins, source_of, true_intensities
from synthetic_scaling import ONLY_SCALES, scale_settings

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy, double_column, miller_index_column
from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.scaling.observations import sorted_rows
from dials_diffuse.scaling.observations.frames import directions_of_bins
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.report import still_table
from dials_diffuse.scaling.scale import scale
from dials_diffuse.scaling.workflow import scale_columns


def scales_of(scaled):
    return scaled.merger.tables.b


def test_everything_on_is_recovered(make_truth, tmp_path):
    truth = make_truth(
        n_stills=60,
        n_obs=3000,
        n_voxels=800,
        mean_counts=40,
        offset=1,
        sensitivity=0.1,
        panels=(5, 5),
        panel_spread=0.05,
        wild_fraction=0.01,
    )
    model = {"offset": True, "panel": True, "sensitivity": True}
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=model))
    tables = scaled.merger.tables
    assert np.corrcoef(tables.b, truth.b)[0, 1] > 0.999
    q = np.linspace(0.15, 0.48, 30)
    expected = np.array([truth.c_of(i, q) for i in range(len(truth.b))])
    bins = scaled.overview.bins
    found = tables.c[:, radial_bins(bins, q)]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
    # d and a can replace each other in part: their standard deviations say how well each is known
    esds = np.array(scaled.fit.models[0].components["panel"].parameter_esds)
    seen = scaled.statistics.panel_n > 0.2 * np.median(scaled.statistics.panel_n)
    assert np.corrcoef(tables.d[seen], truth.d[seen])[0, 1] > 0.95
    assert np.mean(((tables.d - truth.d) / esds)[seen] ** 2) < 4
    # their product is known better
    x, y = (
        v.ravel() for v in np.meshgrid(np.linspace(-0.33, 0.33, 40), np.linspace(-0.33, 0.33, 40))
    )
    two_theta = 2 * np.arcsin(np.hypot(x, y) / 2)
    where = 100 * np.tan(two_theta) * np.array([x, y]) / np.hypot(x, y)
    column, row = np.floor((where / 120 + 0.5) * 5).astype(int)
    panel = row * 5 + column
    product = tables.d[panel] * tables.a[0, directions_of_bins(bins, x, y)]
    assert np.corrcoef(product, truth.d[panel] * truth.a_of(x, y))[0, 1] > 0.98
    assert scaled.statistics.overall.chi2 == pytest.approx(1, abs=0.05)
    assert scaled.chi2_before_error_model == pytest.approx(1, abs=0.05)


def test_merged_map_is_as_good_as_with_the_true_scales(make_truth, tmp_path):
    truth = make_truth(n_stills=60, n_obs=3000, n_voxels=2000, mean_counts=5)
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES))
    expected = true_intensities(truth, scaled.merged.voxels)
    found = np.corrcoef(scaled.merged.intensity, expected)[0, 1]
    scaled.merger.tables = scaled.merger.tables._replace(b=truth.b)
    ceiling = np.corrcoef(scaled.merger.merge().intensity, expected)[0, 1]
    assert found > 0.995 * ceiling
    pull = (scaled.merged.intensity - expected) / np.sqrt(scaled.merged.variance)
    assert np.mean(pull**2) == pytest.approx(1, abs=0.1)
    ratio = scaled.merged.variance_scatter / scaled.merged.variance
    assert np.nanmean(ratio) == pytest.approx(1, abs=0.05)


def test_outliers_on_both_sides_are_flagged(make_truth, tmp_path):
    truth = make_truth(n_stills=40, n_obs=2000, n_voxels=1000, mean_counts=60, wild_fraction=0.01)
    source = source_of(truth, tmp_path)
    scaled = scale(source, scale_settings(model=ONLY_SCALES))
    flagged = scale_columns(scaled, 0, 1)["outlier"]
    high = truth.wild & (as_numpy(truth.table["counts"]) > 0)
    low = truth.wild & ~high
    assert low.sum() > 100
    assert flagged[high].mean() > 0.9
    assert flagged[low].mean() > 0.5
    assert flagged[~truth.wild].mean() < 5e-4


def compare(one, other):
    """Two results of the same observations"""
    np.testing.assert_allclose(scales_of(other), scales_of(one), rtol=1e-6)
    # the order of the voxels may be another
    order, of_other = (np.argsort(scaled.merged.voxels) for scaled in (one, other))
    for name, tolerance in (("voxels", 0), ("n_obs", 0), ("n_stills", 0), ("intensity", 1e-6)):
        values = getattr(other.merged, name)[of_other]
        np.testing.assert_allclose(values, getattr(one.merged, name)[order], rtol=tolerance)
    assert other.merger.n_outliers() == one.merger.n_outliers()
    assert other.statistics.overall.n_obs == one.statistics.overall.n_obs
    assert other.statistics.overall.cc_half == pytest.approx(one.statistics.overall.cc_half, 1e-6)


def test_pairs_give_the_same_as_one_and_files_as_memory(make_truth, tmp_path, monkeypatch):
    truth = make_truth(n_stills=12, n_obs=800, n_voxels=300, wild_fraction=0.01)
    monkeypatch.setattr(sorted_rows, "CHUNK", 2000)
    results = []
    for n_pairs, keep in ((1, 10**8), (3, 10**8), (3, 0)):
        folder = tmp_path / f"{n_pairs}-{keep}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        settings = scale_settings(model=ONLY_SCALES, memory={"keep_observations": keep})
        results.append(scale(source_of(truth, folder, n_pairs), settings))
    for other in results[1:]:
        compare(results[0], other)
    flagged = [
        np.concatenate([scale_columns(scaled, i, 1)["outlier"] for i in range(n_pairs)])
        for n_pairs, scaled in zip((1, 3, 3), results)
    ]
    assert flagged[0].any()
    for other in flagged[1:]:
        np.testing.assert_array_equal(other, flagged[0])


def test_threads_change_nothing(make_truth, tmp_path, monkeypatch):
    truth = make_truth(n_stills=10, n_obs=1500, n_voxels=300, offset=0.5, wild_fraction=0.01)
    source = source_of(truth, tmp_path)
    monkeypatch.setattr(sorted_rows.SortedRows.chunks, "__defaults__", (2000,))
    one, three = (scale(source, scale_settings(), n_threads) for n_threads in (1, 3))
    assert len(one.overview.rows.chunks()) > 5
    assert one.fit.components == three.fit.components
    np.testing.assert_array_equal(scales_of(three), scales_of(one))
    np.testing.assert_array_equal(three.merged.intensity, one.merged.intensity)
    np.testing.assert_array_equal(three.merged.variance, one.merged.variance)
    assert three.statistics.overall == one.statistics.overall
    for name, values in scale_columns(one, 0, 1).items():
        np.testing.assert_array_equal(scale_columns(three, 0, 3)[name], values)


def test_arcs_on_single_stills_do_not_get_into_the_map(make_truth, tmp_path):
    """With one orientation a factor a(x, y) could follow the arcs, through c, into the map"""
    truth = make_truth(
        n_stills=12,
        n_obs=12_000,
        mean_counts=40,
        offset=0.5,
        arc_stills=(3, 4),
        one_orientation=True,
    )
    source = source_of(truth, tmp_path)
    scaled, plain = (
        scale(source, scale_settings(outliers={"patch_cutoff": cutoff})) for cutoff in (0.05, None)
    )
    outlier = scale_columns(scaled, 0, 1)["outlier"]
    assert outlier[truth.arc].mean() > 0.9
    assert outlier[~truth.arc].mean() < 0.02
    assert scale_columns(plain, 0, 1)["outlier"].mean() < 0.01

    def error(found):
        """of the map, where arcs are against where none are"""
        expected = true_intensities(truth, found.merged.voxels)
        in_arc = np.isin(
            found.merged.voxels, pack_voxels(as_numpy(truth.table["asu_voxel"])[truth.arc])
        )
        q = np.linalg.norm(truth.grid.q_of_voxel(unpack_voxels(found.merged.voxels)), axis=1)
        ratio = found.merged.intensity / expected
        return ratio[in_arc].mean() / ratio[~in_arc & (abs(q - 0.3) < 0.06)].mean() - 1

    assert abs(error(scaled)) < 0.01
    assert abs(error(plain)) > 0.05
    assert "sensitivity" in plain.fit.components and "sensitivity" not in scaled.fit.components
    assert "patches left out" in str(still_table(scaled)[1 + 3])


def test_no_patches_where_nothing_is_wrong(make_truth, tmp_path):
    truth = make_truth(
        n_stills=20,
        n_obs=4000,
        panels=(2, 2),
        offset=1,
        sensitivity=0.1,
        panel_spread=0.05,
        wild_fraction=0.01,
    )
    scaled = scale(source_of(truth, tmp_path), scale_settings())
    assert "sensitivity" in scaled.fit.components
    assert scaled.fit.bad_patches.sum() <= 2


def test_a_still_that_is_the_opposite_of_the_map_does_not_set_the_zero_of_offsets(
    make_truth, tmp_path
):
    truth = make_truth(n_stills=30, n_obs=3000, mean_counts=20, offset=0.5)
    column = truth.columns
    wrong = column["id"] == 29
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    intensity = np.array([known[tuple(v)] for v in column["voxel"][wrong]])
    q = np.linalg.norm(truth.grid.q_of_voxel(column["voxel"][wrong]), axis=1)
    mean = 1000 * np.exp(-4 * q**2)
    counts = column["counts"].copy()
    signal = (
        column["exposure"][wrong] * truth.b[29] * np.maximum(mean - 0.5 * (intensity - mean), 0)
    )
    counts[wrong] = np.random.default_rng(5).poisson(signal + column["background"][wrong])
    truth.table["counts"] = double_column(counts)
    source = source_of(truth, tmp_path)
    model = {"offset": True, "panel": False, "sensitivity": False}
    scaled = scale(source, scale_settings(model=model))
    # which no scale can be
    assert 0 < scales_of(scaled)[29] < 0.05 * truth.b[29]
    expected = true_intensities(truth, scaled.merged.voxels)
    assert abs(np.mean(scaled.merged.intensity - expected)) < 0.1 * expected.mean()
    assert scaled.weak.tolist() == [29]
    assert "b not above 0" in still_table(scaled)[30]
    left_out = scale(source, scale_settings(model=model, stills={"exclude_misoriented": True}))
    assert 29 in left_out.excluded


@pytest.mark.parametrize("mean_counts", [0.1, 0.3, 1.0])
def test_counting_statistics_need_no_error_model(make_truth, tmp_path, mean_counts):
    truth = make_truth(
        n_stills=100, n_obs=3000, n_voxels=2000, mean_counts=mean_counts, background=0.1
    )
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES))
    # what it adds to the variance, as a fraction
    assert scaled.error_model.b**2 * mean_counts < 0.02
    assert scaled.error_model.a == pytest.approx(1, abs=0.06)


def test_stills_that_are_left_out_connect_no_others(make_truth, tmp_path, caplog):
    truth = make_truth(n_stills=21, n_obs=400, n_voxels=200)
    column = truth.columns
    number = np.unique(pack_voxels(column["asu_voxel"]), return_inverse=True)[1]
    keep = (column["id"] == 20) | (number % 2 == (column["id"] >= 10))
    truth.table = truth.table.select(flex.bool(keep.tolist()))
    source = source_of(truth, tmp_path)
    assert len(scale(source, scale_settings(model=ONLY_SCALES)).overview.groups()) == 1
    found = scale(source, scale_settings(model=ONLY_SCALES, stills={"exclude": ("20",)}))
    assert [len(group) for group in found.overview.groups()] == [10, 10]
    assert "fall into 2 groups" in caplog.text
    assert found.excluded == {20: "by stills.exclude"}


def test_a_still_found_to_disagree_is_left_out_as_if_it_had_not_been_given(make_truth, tmp_path):
    truth = make_truth(n_stills=12, n_obs=1500, n_voxels=300)
    columns = truth.columns
    wrong, rng = 3, np.random.default_rng(5)
    of_wrong = columns["id"] == wrong
    voxel = columns["asu_voxel"].copy()
    # half of its own, and half the wrong ones of the others'
    away = rng.random(len(voxel)) < 0.5
    voxel[of_wrong & away] += [0, 0, 1]
    voxel[of_wrong & ~away] = rng.permutation(voxel[of_wrong & ~away])
    truth.table["asu_voxel"] = miller_index_column(voxel)
    settings = scale_settings(model=ONLY_SCALES, stills={"min_cc": 0.2})
    found = scale(source_of(truth, tmp_path), settings)
    assert set(found.excluded) == {wrong}
    settings = scale_settings(model=ONLY_SCALES, stills={"exclude": (str(wrong),)})
    told = scale(source_of(truth, tmp_path), settings)
    np.testing.assert_array_equal(found.merged.voxels, told.merged.voxels)
    np.testing.assert_array_equal(found.merged.n_obs, told.merged.n_obs)
    np.testing.assert_allclose(found.merged.intensity, told.merged.intensity, rtol=1e-3)


@pytest.mark.parametrize("panel", [None, True])
def test_panels_of_different_detectors_are_not_taken_for_each_other_unasked(
    make_truth, tmp_path, caplog, panel
):
    # as many pixels in all, on panels of other sizes
    one = make_truth(n_stills=6, panels=(2, 2), panel_spread=0.1)
    other = make_truth(n_stills=6, panels=(1, 1), seed=2)
    pairs = []
    for name, truth in (("one", one), ("other", other)):
        names = truth.table.experiment_identifiers()
        for number, experiment in enumerate(truth.experiments):
            experiment.identifier = names[number] = f"{name}-{number}"
        truth.experiments.as_file(tmp_path / f"{name}.expt")
        truth.table.as_file(tmp_path / f"{name}.refl")
        pairs.append(DataPair(tmp_path / f"{name}.expt", tmp_path / f"{name}.refl"))
    model = {"scale": True, "offset": False, "panel": panel, "sensitivity": False}
    scaled = scale(ObservationSource(pairs), scale_settings(model=model))
    assert "from 2 kinds of detectors" in caplog.text
    assert ("panel" in scaled.fit.components) == (panel is True)


@pytest.mark.parametrize("stills", [{"exclude": tuple("01234")}, {"min_cc": 0.9999}])
def test_too_few_stills_left_is_said_with_the_reason(make_truth, tmp_path, stills):
    truth = make_truth(n_stills=6, n_obs=400, n_voxels=100)
    with pytest.raises(ValueError, match=r"Fewer than two stills are left .* \(still \d: "):
        scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES, stills=stills))
