from __future__ import annotations

import numpy as np
import pytest
from synthetic_scaling import ONLY_SCALES, scale_settings

from dials.array_family import flex

from dials_diffuse.adapters.experiments import DataPair
from dials_diffuse.adapters.tables import as_numpy, bool_column, double_column, miller_index_column
from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.scaling.merging.error_model import fit_error_model
from dials_diffuse.scaling.merging.merge import Merger, ScaleTables, split_halves
from dials_diffuse.scaling.observations.overview import read_overview
from dials_diffuse.scaling.observations.source import (
    ObservationSource,
    observations_of,
    projected_direction,
)
from dials_diffuse.scaling.refinement.fit import fit
from dials_diffuse.scaling.report import still_table
from dials_diffuse.scaling.scale import scale
from dials_diffuse.scaling.workflow import merged_table, scale_columns


def source_of(truth, folder, n_pairs=1, keep=10**8):
    """Write a truth as so many pairs of files"""
    pairs = []
    n = len(truth.experiments)
    for number in range(n_pairs):
        first, last = n * number // n_pairs, n * (number + 1) // n_pairs
        experiments = truth.experiments[first:last]
        ids = as_numpy(truth.table["id"])
        table = truth.table.select(flex.bool(((ids >= first) & (ids < last)).tolist()))
        for name in list(table.experiment_identifiers().keys()):
            del table.experiment_identifiers()[name]
        table["id"] = table["id"] - first
        for i, experiment in enumerate(experiments):
            table.experiment_identifiers()[i] = experiment.identifier
        expt, refl = folder / f"g{number}.expt", folder / f"g{number}.refl"
        experiments.as_file(str(expt))
        table.as_file(str(refl))
        pairs.append(DataPair(expt, refl))
    return ObservationSource(pairs, keep=keep)


def true_intensities(truth, voxels):
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    return np.array([known[tuple(v)] for v in unpack_voxels(voxels)])


def scales_of(scaled):
    return scaled.merger.tables.b


def test_projected_direction_has_twice_sin_theta_as_length():
    rng = np.random.default_rng(2)
    s0 = np.array([0.1, -0.2, -0.9])
    s1 = rng.normal(size=(50, 3))
    x, y = projected_direction(s1, s0)
    cosine = s1 @ s0 / np.linalg.norm(s1, axis=1) / np.linalg.norm(s0)
    np.testing.assert_allclose(np.hypot(x, y), 2 * np.sin(np.arccos(cosine) / 2))
    # x of the laboratory is x for a beam along z
    x, y = projected_direction(np.array([[1.0, 0.0, -10.0]]), np.array([0.0, 0.0, -1.0]))
    assert x[0] > 0.09 and abs(y[0]) < 1e-12


def test_q_of_observations_is_that_of_their_pixels(make_truth):
    truth = make_truth(n_stills=3, n_obs=50, panels=(3, 2))
    obs = observations_of(truth.experiments, truth.columns)
    expected = []
    for panel, xyz in zip(truth.table["panel"], truth.table["xyzobs.px.value"]):
        q = (
            truth.experiments[0]
            .detector[int(panel)]
            .get_resolution_at_pixel(truth.experiments[0].beam.get_s0(), xyz[:2])
        )
        expected.append(1 / q)
    np.testing.assert_allclose(obs.q, expected, rtol=1e-5)


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
    assert np.corrcoef(tables.c[:, tables.offset.bin_of(q)].ravel(), expected.ravel())[0, 1] > 0.95
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
    product = tables.d[panel] * tables.a[tables.sensitivity.bin_of(x, y)]
    assert np.corrcoef(product, truth.d[panel] * truth.a_of(x, y))[0, 1] > 0.98
    assert scaled.statistics.overall.chi2 == pytest.approx(1, abs=0.05)
    assert scaled.chi2_before_error_model == pytest.approx(1, abs=0.05)


def test_merged_map_is_as_good_as_with_the_true_scales(make_truth, tmp_path):
    truth = make_truth(n_stills=60, n_obs=3000, n_voxels=2000, mean_counts=5)
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES))
    expected = true_intensities(truth, scaled.merged.voxels)
    found = np.corrcoef(scaled.merged.intensity, expected)[0, 1]
    scaled.merger.tables.b = truth.b
    ceiling = np.corrcoef(scaled.merger.merge().intensity, expected)[0, 1]
    assert found > 0.995 * ceiling
    pull = (scaled.merged.intensity - expected) / np.sqrt(scaled.merged.variance)
    assert np.mean(pull**2) == pytest.approx(1, abs=0.1)
    ratio = scaled.merged.variance_scatter / scaled.merged.variance
    assert np.nanmean(ratio) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_low_counts_are_not_biased(make_truth, tmp_path, background):
    # 0.1 photons an observation; the true scales, so that nothing but merging is tested
    truth = make_truth(
        n_stills=300, n_obs=8000, n_voxels=20000, mean_counts=0.1, background=background, seed=3
    )
    source = source_of(truth, tmp_path)
    overview = read_overview(source)
    tables = ScaleTables(truth.b, np.zeros(300, dtype=bool))
    half = split_halves(np.ones(300, dtype=bool), 1)
    merger = Merger(source, overview, tables, overview.prior(truth.b), half, 2.0, 0.0)
    merged = merger.reject_outliers(6.0)
    expected = true_intensities(truth, merged.voxels)
    # 240,000 photons: 0.2 % of counting error (0.3 % with the background's)
    # (weights that follow from the counts, such as 1 / variance, would make a bias themselves)
    for w in (merged.exposure, np.ones(len(expected))):
        assert np.sum(w * merged.intensity) / np.sum(w * expected) == pytest.approx(1, abs=0.005)
    assert merger.n_outliers() < 1e-5 * len(truth.table)


def test_outliers_on_both_sides_are_flagged(make_truth, tmp_path):
    truth = make_truth(n_stills=40, n_obs=2000, n_voxels=1000, mean_counts=60, wild_fraction=0.01)
    source = source_of(truth, tmp_path)
    scaled = scale(source, scale_settings(model=ONLY_SCALES))
    flagged = scale_columns(scaled, 0)["outlier"]
    high = truth.wild & (as_numpy(truth.table["counts"]) > 0)
    low = truth.wild & ~high
    assert low.sum() > 100
    assert flagged[high].mean() > 0.9
    assert flagged[low].mean() > 0.5
    assert flagged[~truth.wild].mean() < 5e-4


def test_pairs_give_the_same_as_one_and_reading_again_as_keeping(make_truth, tmp_path):
    truth = make_truth(n_stills=12, n_obs=800, n_voxels=300, wild_fraction=0.01)
    results = []
    for n_pairs, keep in ((1, 10**8), (3, 10**8), (3, 0)):
        folder = tmp_path / f"{n_pairs}-{keep}"
        folder.mkdir()
        scaled = scale(source_of(truth, folder, n_pairs, keep), scale_settings(model=ONLY_SCALES))
        results.append(scaled)
    for other in results[1:]:
        np.testing.assert_allclose(scales_of(other), scales_of(results[0]), rtol=1e-6)
        np.testing.assert_allclose(other.merged.intensity, results[0].merged.intensity, rtol=1e-6)
        np.testing.assert_array_equal(other.merged.n_stills, results[0].merged.n_stills)
        assert other.merger.n_outliers() == results[0].merger.n_outliers()


def test_perturbed_starts_agree(make_truth, tmp_path):
    from dials_diffuse.scaling.observations.overview import read_overview
    from dials_diffuse.scaling.refinement.fit import fit

    truth = make_truth(n_stills=20, n_obs=1500, n_voxels=500)
    source = source_of(truth, tmp_path)
    overview = read_overview(source)
    none = np.zeros(20, dtype=bool)
    settings = scale_settings(model={"offset": True, "panel": False, "sensitivity": True})
    rng = np.random.default_rng(8)
    results = []
    for start in (None, truth.b * rng.uniform(0.5, 2, 20), np.ones(20)):
        models = fit(source, overview, none, settings, start).models
        results.append(np.array([m.components["scale"].parameters[0] for m in models]))
        sigma = np.array([m.components["scale"].parameter_esds[0] for m in models])
    # far below what counting statistics leave open
    assert np.max(abs(results[1] - results[0]) / sigma) < 0.2
    assert np.max(abs(results[2] - results[0]) / sigma) < 0.2


def test_components_stay_only_if_the_free_set_agrees(make_truth, tmp_path):
    plain = scale(
        source_of(make_truth(n_stills=20, n_obs=2000, n_voxels=500), tmp_path), scale_settings()
    )
    # the truth has scales only: what the others gain on the free set is chance
    assert len(plain.fit.trials) > 1
    assert list(plain.fit.components) == ["scale"]
    folder = tmp_path / "offset"
    folder.mkdir()
    rings = scale(
        source_of(make_truth(n_stills=20, n_obs=2000, n_voxels=500, offset=1), folder),
        scale_settings(),
    )
    assert "offset" in rings.fit.components


def test_standard_deviations_of_scales_are_right(make_truth, tmp_path):
    truth = make_truth(n_stills=80, n_obs=1500, n_voxels=600, offset=0.5)
    model = {"offset": True, "panel": False, "sensitivity": False}
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=model))
    sigma = np.array([m.components["scale"].parameter_esds[0] for m in scaled.fit.models])
    pull = (scales_of(scaled) - truth.b) / sigma
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.3)


def test_three_stills_with_everything_on_stay_sane(make_truth, tmp_path):
    truth = make_truth(n_stills=3, n_obs=1500, n_voxels=400, panels=(2, 2))
    model = {"offset": True, "panel": True, "sensitivity": True}
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=model))
    np.testing.assert_allclose(scales_of(scaled), truth.b, rtol=0.5)
    few = make_truth(n_stills=3, n_obs=80, n_voxels=40, panels=(2, 2))
    with pytest.raises(ValueError, match="too few"):
        scale(source_of(few, tmp_path), scale_settings(model=model))


def test_error_model_finds_what_was_put_in():
    t = 2.0 ** np.linspace(-4, 14, 40)
    freedom = np.full(40, 2000.0)
    a, b = 1.3, 0.02
    by_size = np.stack((a**2 * (1 + b**2 * t) * freedom, freedom, t * freedom), axis=1)
    model = fit_error_model(by_size)
    assert model.a == pytest.approx(a, rel=1e-3)
    assert model.b == pytest.approx(b, rel=1e-2)
    by_size[:, 0] = freedom
    assert fit_error_model(by_size).b == 0


def test_merged_table_has_a_row_a_voxel(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, n_voxels=200)
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES))
    table = merged_table(scaled.merged, truth.grid)
    voxel = as_numpy(table["voxel"])
    assert len(np.unique(pack_voxels(voxel))) == len(voxel)
    np.testing.assert_allclose(as_numpy(table["hkl"]), voxel / 2)
    np.testing.assert_allclose(
        np.linalg.norm(as_numpy(table["q"]), axis=1), 1 / as_numpy(table["d"])
    )
    ids, asu = as_numpy(truth.table["id"]), pack_voxels(as_numpy(truth.table["asu_voxel"]))
    for row in range(0, len(voxel), 17):
        inside = asu == pack_voxels(voxel[row : row + 1])
        assert table["n_obs"][row] == inside.sum()
        assert table["n_stills"][row] == len(np.unique(ids[inside]))


def test_rows_that_are_not_finite_take_no_part(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, n_voxels=100)
    counts = as_numpy(truth.table["counts"]).copy()
    counts[::10] = np.nan
    truth.table["counts"] = double_column(counts)
    source = source_of(truth, tmp_path)
    scaled = scale(source, scale_settings(model=ONLY_SCALES))
    assert scaled.overview.n_not_finite == len(counts[::10])
    assert np.isfinite(scaled.merged.intensity).all()
    np.testing.assert_array_equal(scale_columns(scaled, 0)["excluded"], np.isnan(counts))


def test_errors_of_scales_where_few_stills_share_a_voxel(make_truth, tmp_path):
    """Each voxel is seen by two or three stills: its intensity is known no better than their scales.
    The spread over repeated measurements is what the e.s.d.s say."""
    found, said = [], []
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        truth = make_truth(n_stills=30, n_obs=600, n_voxels=7000, mean_counts=30, seed=seed)
        scaled = scale(source_of(truth, tmp_path / str(seed)), scale_settings(model=ONLY_SCALES))
        components = [model.components["scale"] for model in scaled.fit.models]
        b = np.array([component.parameters[0] for component in components])
        ratio = b / truth.b
        found.append(ratio / ratio.mean() - 1)
        said.append([component.parameter_esds[0] for component in components] / b)
    assert np.mean(np.square(found)) / np.mean(np.square(said)) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("engine", ["LevMar", "GaussNewton"])
def test_least_squares_engines_agree_with_lbfgs(make_truth, tmp_path, engine, monkeypatch):
    truth = make_truth(n_stills=8, n_obs=500, n_voxels=150, panels=(2, 2), panel_spread=0.05)
    model = {"offset": False, "panel": True, "sensitivity": False}
    source = source_of(truth, tmp_path)
    lbfgs = scale(source, scale_settings(model=model))
    other = scale(source, scale_settings(model=model, fit={"engine": engine}))
    sigma = np.array([m.components["scale"].parameter_esds[0] for m in other.fit.models])
    assert np.max(abs(scales_of(other) - scales_of(lbfgs)) / sigma) < 0.1
    approximate = np.array([m.components["scale"].parameter_esds[0] for m in lbfgs.fit.models])
    # those of L-BFGS take the other stills for known
    assert (approximate < 1.2 * sigma).all() and (approximate > 0.85 * sigma).all()
    big = make_truth(n_stills=8, n_obs=500, n_voxels=150)
    with pytest.raises(ValueError, match="too many for this engine"):
        monkeypatch.setattr("dials_diffuse.scaling.refinement.target.MOST_ELEMENTS", 10)
        scale(source_of(big, tmp_path), scale_settings(model=ONLY_SCALES, fit={"engine": engine}))


def test_a_component_that_is_not_determined_is_left_out_of_an_automatic_model(
    make_truth, tmp_path, caplog
):
    truth = make_truth(n_stills=6, n_obs=2000)
    # observations in one half of the detector, and nothing to say what a is in the other
    table = truth.table
    x, _, _ = table["xyzobs.px.value"].parts()
    truth.table = table.select(x < 150)
    none = {"sensitivity": 1e200, "sensitivity_smoothness": 1e200}
    source = source_of(truth, tmp_path)
    automatic = scale_settings(model={"offset": False, "panel": False}, restraints=none)
    with caplog.at_level("INFO"):
        scaled = scale(source, automatic)
    assert scaled.fit.components == ["scale"]
    assert "sensitivity is not refined: The observations do not determine" in caplog.text
    asked = scale_settings(
        model={"offset": False, "panel": False, "sensitivity": True}, restraints=none
    )
    with pytest.raises(ValueError, match="do not determine"):
        scale(source, asked)


def test_cycles_that_end_too_early_are_named(make_truth, tmp_path, caplog):
    source = source_of(make_truth(n_stills=6, n_obs=2000, mean_counts=20), tmp_path)
    scale(source, scale_settings(model=ONLY_SCALES, fit={"n_cycles": 6}))
    assert "give a larger fit.n_cycles" not in caplog.text
    start = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    overview = read_overview(source)
    few = scale_settings(model=ONLY_SCALES, fit={"n_cycles": 2, "max_iterations": 1})
    fit(source, overview, np.zeros(6, dtype=bool), few, start)
    assert "in the last of 2 cycles: give a larger fit.n_cycles" in caplog.text


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
    outlier = scale_columns(scaled, 0)["outlier"]
    assert outlier[truth.arc].mean() > 0.9
    assert outlier[~truth.arc].mean() < 0.02
    assert scale_columns(plain, 0)["outlier"].mean() < 0.01

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
    assert scales_of(scaled)[29] < 0
    expected = true_intensities(truth, scaled.merged.voxels)
    assert abs(np.mean(scaled.merged.intensity - expected)) < 0.1 * expected.mean()
    assert scaled.stills_without_scale().tolist() == [29]
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


def test_halves_are_of_the_stills_that_are_used():
    used = np.array([False, True] * 8)
    for seed in range(5):
        assert np.bincount(split_halves(used, seed)[used]).tolist() == [4, 4]


def test_bragg_rows_that_are_not_finite_are_excluded(make_truth, tmp_path):
    truth = make_truth(n_stills=6, n_obs=300, n_voxels=100)
    bragg = np.zeros(truth.table.size(), dtype=bool)
    bragg[::50] = True
    truth.table["bragg"] = bool_column(bragg)
    variance = np.zeros(len(bragg))
    variance[[50, 51]] = np.nan
    truth.table["background.variance"] = double_column(variance)
    scaled = scale(source_of(truth, tmp_path), scale_settings(model=ONLY_SCALES))
    assert np.flatnonzero(scale_columns(scaled, 0)["excluded"]).tolist() == [50, 51]


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


@pytest.mark.parametrize("engine", ["LevMar", "GaussNewton"])
def test_least_squares_engines_leave_out_stills_too(make_truth, tmp_path, engine):
    truth = make_truth(n_stills=6, n_obs=1500, n_voxels=100, mean_counts=20, offset=0.3)
    model = {"scale": True, "offset": True, "panel": False, "sensitivity": False}
    stills = {"exclude": ("2",)}
    found, expected = (
        scale(
            source_of(truth, tmp_path),
            scale_settings(model=model, fit={"engine": name}, stills=stills),
        ).merger.tables.b
        for name in (engine, "SimpleLBFGS")
    )
    used = np.arange(6) != 2
    np.testing.assert_allclose(found[used], expected[used], rtol=2e-3)


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
