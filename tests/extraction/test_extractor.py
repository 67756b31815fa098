"""Extraction of simulated stills, whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from extracted_stills import UNIFORM, columns_of, extracted, settings_of, simulated, true_intensity

from dials_diffuse.adapters.experiments import load_experiments, load_reflections
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.extraction.background.planes import Background
from dials_diffuse.extraction.observations import (
    add_derived_columns,
    d_spacings,
    intensities,
    intensity_variances,
    numbered_rows,
)
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.extraction.workflow import background_for, reference_grid
from dials_diffuse.geometry.settings import CorrectionSettings
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.table_file import ColumnWriter
from dials_diffuse.masking.masker import RowMasker
from dials_diffuse.phil.defaults import default_settings


def departures(columns, expected, groups) -> np.ndarray:
    """(photons - expected)/sqrt(expected) of each group of observations."""
    n = int(groups.max()) + 1
    found = np.bincount(groups, columns["counts"], n)
    wanted = np.bincount(groups, expected, n)
    return (found - wanted) / np.sqrt(np.where(wanted > 0, wanted, np.nan))


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("uniform"), settings_of(UNIFORM, stills=6))


def test_a_uniform_cross_section_comes_out_uniform(uniform):
    simulator, pair = uniform
    columns = columns_of(pair)
    assert columns["num_pixels.valid"].sum() == 6 * 400 * 400
    expected = columns["exposure"] * true_intensity(simulator)
    total = columns["counts"].sum()
    # 4.8 million photons: the noise of the mean is 0.05 %
    assert total / expected.sum() == pytest.approx(1, abs=0.002)
    chi_square = np.mean((columns["counts"] - expected) ** 2 / expected)
    assert chi_square == pytest.approx(1, abs=0.02)
    fast, slow, _ = columns["xyzobs.px.value"].T
    trends = {
        "panel": columns["panel"].astype(int),
        "still": columns["id"],
        "edge": (np.minimum.reduce([fast, slow, 200 - fast, 200 - slow]) / 8).astype(int),
        "column": (fast / 10).astype(int),
        "row": (slow / 10).astype(int),
        "pixels": np.minimum(columns["num_pixels.valid"], 20),
    }
    for name, groups in trends.items():
        pulls = departures(columns, expected, groups)
        pulls = pulls[np.isfinite(pulls)]
        assert np.abs(pulls).max() < 4, name
        assert (pulls**2).mean() < 1 + 4 * np.sqrt(2 / len(pulls)), name


def test_no_trend_with_angle(uniform, tmp_path):
    simulator, pair = uniform
    grid = grid_of_pair(pair)
    (experiment, still), *_ = extracted(pair)
    with ColumnWriter() as rows:
        rows.append(numbered_rows(still.observations.columns, 0))
        rows.write(tmp_path / "table.refl", {0: experiment.identifier})
    table = load_reflections(tmp_path / "table.refl")
    d = d_spacings(table, [experiment])
    add_derived_columns(table, [experiment], grid)
    assert np.allclose(as_numpy(table["d"]), d)
    expected = as_numpy(table["exposure"]) * true_intensity(simulator)
    pulls = departures({"counts": as_numpy(table["counts"])}, expected, (20 / d).astype(int))
    assert np.abs(pulls[np.isfinite(pulls)]).max() < 4
    value, variance = intensities(table), intensity_variances(table)
    many = as_numpy(table["num_pixels.valid"]) > 20
    assert value[many].mean() == pytest.approx(true_intensity(simulator), rel=0.01)
    pull = (value - true_intensity(simulator))[many] / np.sqrt(variance[many])
    assert pull.std() == pytest.approx(1, abs=0.05)
    nodes = as_numpy(table["miller_index"])
    assert np.abs(nodes - as_numpy(table["voxel"]) / 3).max() <= 0.5


def grid_of_pair(pair) -> VoxelGrid:
    return reference_grid(
        load_experiments(pair.experiments, check_format=False), default_settings(ExtractionSettings)
    )


def test_a_tenth_of_a_photon_an_observation(tmp_path):
    simulator, pair = simulated(
        tmp_path,
        settings_of(
            UNIFORM,
            stills=8,
            exposure={"mean_photons": 0.1},
            detector={"image_size": [560, 560], "pixel_size": 0.2},
        ),
    )
    columns = columns_of(pair, subdivide=(20, 20, 20))
    assert 0.1 <= columns["counts"].mean() < 0.16
    expected = columns["exposure"] * true_intensity(simulator)
    # 250,000 photons: 0.2 %
    assert columns["counts"].sum() / expected.sum() == pytest.approx(1, abs=0.005)
    chi_square = np.mean((columns["counts"] - expected) ** 2 / expected)
    assert chi_square == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"beam": {"wavelength_jitter": 0.01}},
        {"detector": {"distance_jitter": 2.0}},
        {"detector": {"type": "single", "two_theta": 20.0}},
        {"detector": {"gain": 3.7, "pedestal": 40.0}},
        {"exposure": {"time_spread": 0.5}},
        {"background": {"absorption": False}},
        {"detector": {"thickness": 0.0}},
        {"crystal": {"orientation": "rotation"}},
    ],
    ids=lambda change: "-".join(next(iter(change.values()))),
)
def test_uniform_whatever_the_experiment(tmp_path, change):
    simulator, pair = simulated(
        tmp_path,
        settings_of(UNIFORM, change, detector={"image_size": [200, 200], "pixel_size": 0.6}),
    )
    settings = {}
    if "background" in change:
        settings = {"corrections": default_settings(CorrectionSettings, air=False)}
    if "gain" in change.get("detector", {}):
        settings = {"gain": 3.7, "pedestal": 40.0}
    columns = columns_of(pair, **settings)
    expected = columns["exposure"] * true_intensity(simulator)
    assert columns["counts"].sum() / expected.sum() == pytest.approx(1, abs=0.006)
    assert np.mean((columns["counts"] - expected) ** 2 / expected) == pytest.approx(1, abs=0.03)


def test_bragg_pixels_have_rows_of_their_own(tmp_path):
    discs = [(0, 0, 60.0, 70.0, 9.0), (1, 3, 100.0, 20.0, 12.0)]
    _, pair = simulated(tmp_path, settings_of(UNIFORM), discs)
    columns = columns_of(pair)
    assert columns["num_pixels.valid"].sum() == 2 * 400 * 400
    for number, panel, fast, slow, radius in discs:
        j, i = np.meshgrid(np.arange(200) + 0.5, np.arange(200) + 0.5)
        inside = np.count_nonzero((j - fast) ** 2 + (i - slow) ** 2 <= radius**2)
        chosen = columns["bragg"] & (columns["id"] == number)
        assert set(columns["panel"][chosen]) == {panel}
        assert columns["num_pixels.valid"][chosen].sum() == inside
        distance = np.hypot(*(columns["xyzobs.px.value"][chosen, :2] - (fast, slow)).T)
        assert distance.max() <= radius


def test_two_lattices_on_one_image(tmp_path):
    simulator, pair = simulated(
        tmp_path,
        settings_of(UNIFORM, stills=1, crystal={"lattices": 2}),
        [(0, 1, 50.0, 50.0, 10.0), (1, 1, 90.0, 50.0, 10.0)],
    )
    experiments = load_experiments(pair.experiments)
    assert len(experiments) == 2
    columns = columns_of(pair)
    one, other = columns["id"] == 0, columns["id"] == 1
    for name in ("num_pixels.valid", "counts", "exposure"):
        assert columns[name][one].sum() == pytest.approx(columns[name][other].sum())
    # what is under the spots of any lattice is Bragg for both
    bragg = [columns["num_pixels.valid"][columns["bragg"] & which].sum() for which in (one, other)]
    assert bragg[0] == bragg[1] > 600
    # each in its own lattice
    voxels = [set(map(tuple, columns["voxel"][which])) for which in (one, other)]
    assert voxels[0] != voxels[1]


def test_limits_and_step(uniform):
    simulator, pair = uniform
    everything = columns_of(pair)
    columns = columns_of(pair, d_min=1.8, d_max=10.0)
    experiments = load_experiments(pair.experiments, check_format=False)
    wanted = 0
    for panel in experiments[0].detector:
        d = np.array(
            [
                [
                    panel.get_resolution_at_pixel(experiments[0].beam.get_s0(), (j + 0.5, i + 0.5))
                    for j in range(200)
                ]
                for i in range(0, 200, 10)
            ]
        )
        wanted += np.count_nonzero((d >= 1.8) & (d <= 10))
    assert columns["num_pixels.valid"].sum() / 6 == pytest.approx(10 * wanted, rel=0.02)
    columns = columns_of(pair, pixel_step=4)
    assert columns["num_pixels.valid"].sum() == everything["num_pixels.valid"].sum() / 16


def test_background_of_empty_shots_is_scaled_and_subtracted(tmp_path):
    simulator, pair = simulated(
        tmp_path,
        settings_of(
            UNIFORM,
            stills=4,
            exposure={"mean_photons": 1.0, "transmission": 0.5},
            detector={"type": "single"},
            background={
                "air": 4.0,
                "empty_shots": 8,
                "empty_time": 0.25,
                "empty_transmission": 0.8,
            },
        ),
    )
    settings = default_settings(ExtractionSettings, background=str(tmp_path / "background.expt"))
    columns = columns_of(pair, background_for(pair, settings, RowMasker()))
    # the intensity is per incident beam: an attenuator is part of the still's scale
    expected = columns["exposure"] * true_intensity(simulator) * 0.5
    assert columns["background"].sum() > expected.sum()
    net = columns["counts"] - columns["background"]
    assert net.sum() / expected.sum() == pytest.approx(1, abs=0.01)
    variance = expected + columns["background"] + columns["background.variance"]
    assert np.mean((net - expected) ** 2 / variance) == pytest.approx(1, abs=0.03)
    # what the pixels share is known well, but not exactly
    share = columns["background.variance"].sum() / columns["background"].sum()
    assert 0 < share < 0.2
    fast, slow, _ = columns["xyzobs.px.value"].T
    distance = np.hypot(fast - fast.mean(), slow - slow.mean())
    for ring in range(5):
        chosen = (distance / 45).astype(int) == ring
        assert net[chosen].sum() / expected[chosen].sum() == pytest.approx(1, abs=0.03)


def test_background_of_a_number(uniform):
    _, pair = uniform
    settings = default_settings(ExtractionSettings, background="1.5")
    columns = columns_of(pair, background_for(pair, settings, RowMasker()))
    assert np.allclose(columns["background"], 1.5 * columns["num_pixels.valid"])
    assert not columns["background.variance"].any()


def test_pixels_without_a_background_are_left_out(uniform):
    _, pair = uniform
    mean = [np.ones((200, 200), dtype=np.float32) for _ in range(4)]
    mean[2][50:60, 30:80] = np.nan
    columns = columns_of(pair, Background(mean))
    assert columns["num_pixels.valid"].sum() == 6 * (160000 - 500)
    # and leave the pixels beside them alone
    assert np.array_equal(columns["background"], columns["num_pixels.valid"])


def test_pixels_as_a_list(uniform):
    simulator, pair = uniform
    (_, still), *_ = extracted(pair, keep_pixels=True, d_min=2.0)
    pixels, columns = still.pixels, still.observations.columns
    assert len(pixels) == columns["num_pixels.valid"].sum()
    assert np.linalg.norm(pixels.q, axis=1).max() <= 0.5 * (1 + 1e-6)
    intensity = true_intensity(simulator)
    assert pixels.intensity.mean(dtype=float) == pytest.approx(intensity, rel=0.01)
    assert (pixels.sigma**2).mean(dtype=float) == pytest.approx(
        pixels.intensity.var(dtype=float), rel=0.03
    )


def test_profiles_of_a_uniform_cross_section_are_flat(uniform):
    simulator, pair = uniform
    (_, still), *_ = extracted(pair)
    profile = still.summary.profile
    known = profile.photons > 2000
    assert known.sum() > 30
    pulls = (profile.diffuse / true_intensity(simulator) - 1)[known] * np.sqrt(
        profile.photons[known]
    )
    assert np.abs(pulls).max() < 4.5
    assert np.allclose(profile.diffuse[known], profile.total[known])
