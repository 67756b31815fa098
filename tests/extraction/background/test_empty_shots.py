"""Averages of simulated empty shots against the background that they were simulated with."""

from __future__ import annotations

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.extraction.background import empty_shots
from dials_diffuse.extraction.background.empty_shots import average_of_empty_shots
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.phil.defaults import default_settings


def average(experiments, smoothing):
    settings = default_settings(ExtractionSettings, background_smoothing=smoothing)
    return average_of_empty_shots(experiments, settings)


@pytest.fixture(scope="module")
def empties(tmp_path_factory):
    """Empty shots of twice the stills' exposure with a beam stop, and what they should average to."""
    folder = tmp_path_factory.mktemp("empties")
    result = simulate(
        simulation_settings(
            **{
                "stills": 1,
                "detector": {"type": "tilted", "image_size": [240, 240], "pixel_size": 0.5},
                "bragg": {"enabled": False},
                "exposure": {"time": 0.1, "mean_photons": 1.0},
                "background": {"air": 4.0, "empty_shots": 6, "empty_time": 0.2},
                "defects": {"beam_stop": 6.0, "beam_stop_arm": 3.0},
            }
        ),
        folder,
    )
    simulator = result.simulator
    parts = simulator.expected(simulator.empties[0])["background"]
    expected = [panel / 0.2 for panel in parts]
    return load_experiments(folder / "background.expt"), expected


def chi_square(found, expected, counts_per_unit):
    return np.mean((found - expected) ** 2 / (expected / counts_per_unit))


def test_each_pixel_by_itself_has_the_noise_it_claims(empties):
    experiments, expected = empties
    background = average(experiments, "none")
    assert background.per_dose and background.shared is None
    for mean, spread, truth in zip(background.mean, background.spread, expected):
        lit = truth > 1
        assert chi_square(mean[lit], truth[lit], 6 * 0.2) == pytest.approx(1, abs=0.05)
        assert spread[lit].mean() == pytest.approx((truth[lit] / (6 * 0.2)).mean(), rel=0.02)


@pytest.mark.parametrize("smoothing", ["radial", "adaptive"])
def test_smoothing_takes_the_noise_away(empties, smoothing):
    experiments, expected = empties
    background = average(experiments, smoothing)
    for mean, shared, truth in zip(background.mean, background.shared, expected):
        lit = truth > 1
        assert mean[lit].sum() == pytest.approx(truth[lit].sum(), rel=0.02)
        # the arm's shadow pulls the plain rings down
        typical = np.median(np.abs(mean[lit] / truth[lit] - 1))
        assert typical < {"radial": 0.05, "adaptive": 0.02}[smoothing]
        assert 0.001 < np.median(shared[lit] / mean[lit]) < 0.08


@pytest.mark.parametrize("smoothing", ["none", "radial", "adaptive"])
def test_noise_below_zero_leaves_no_holes(empties, smoothing, monkeypatch):
    """An integrating detector reads less than nothing where there is less than its noise"""
    experiments, expected = empties
    rng = np.random.default_rng(4)

    def photons_of_image(*_):
        return [rng.normal(0.003, 0.3, mean.shape) for mean in expected]

    monkeypatch.setattr(empty_shots, "photons_of_image", photons_of_image)
    background = average(experiments, smoothing)
    seen = [np.isfinite(mean) for mean in background.mean]
    assert all((lit == (truth > 0)).mean() > 0.9 for lit, truth in zip(seen, expected))
    for errors in (background.spread, background.shared):
        assert errors is None or all((e[lit] >= 0).all() for e, lit in zip(errors, seen))


def test_only_the_adaptive_one_knows_the_shadow(empties):
    experiments, expected = empties
    shadow = [truth == 0 for truth in expected]
    assert sum(np.count_nonzero(s) for s in shadow) > 400
    left = {
        smoothing: sum(
            mean[where].sum() for mean, where in zip(average(experiments, smoothing).mean, shadow)
        )
        for smoothing in ("radial", "adaptive")
    }
    assert left["adaptive"] < 0.01 * left["radial"]


def test_pixels_that_the_stills_mask_are_not_used(empties):
    experiments, expected = empties
    usable = [np.ones(truth.shape, dtype=bool) for truth in expected]
    usable[1][:20] = False
    settings = default_settings(ExtractionSettings, background_smoothing="none")
    background = average_of_empty_shots(experiments, settings, usable)
    for mean, spread, allowed in zip(background.mean, background.spread, usable):
        assert np.isnan(mean[~allowed]).all() and np.isnan(spread[~allowed]).all()
    assert np.isfinite(background.mean[1][20:]).any()


def test_images_are_counted_once(empties):
    experiments, _ = empties
    once, twice = average(experiments, "none"), average([*experiments, *experiments], "none")
    for one, two in zip(once.spread, twice.spread):
        assert np.array_equal(one, two, equal_nan=True)


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        average([], "none")
