"""Backgrounds from numbers, maps and simulated empty shots."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from dxtbx.model import Detector, Panel

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.extraction.background import average_of_empty_shots, load_background, panel_gain
from dials_diffuse.geometry.corrections import CorrectionSettings
from dials_diffuse.simulation.settings import Settings
from dials_diffuse.simulation.simulate import simulate

SETTINGS = CorrectionSettings()


@pytest.fixture(scope="module")
def empties(tmp_path_factory):
    """Empty shots of twice the stills' exposure with a beam stop, and what they should average to."""
    folder = tmp_path_factory.mktemp("empties")
    result = simulate(
        Settings.from_dict(
            {
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
    background = average_of_empty_shots(experiments, SETTINGS, "none")
    assert background.per_dose and background.shared is None
    for mean, spread, truth in zip(background.mean, background.spread, expected):
        lit = truth > 1
        assert chi_square(mean[lit], truth[lit], 6 * 0.2) == pytest.approx(1, abs=0.05)
        assert spread[lit].mean() == pytest.approx((truth[lit] / (6 * 0.2)).mean(), rel=0.02)


@pytest.mark.parametrize("smoothing", ["radial", "adaptive"])
def test_smoothing_takes_the_noise_away(empties, smoothing):
    experiments, expected = empties
    background = average_of_empty_shots(experiments, SETTINGS, smoothing)
    for mean, shared, truth in zip(background.mean, background.shared, expected):
        lit = truth > 1
        assert mean[lit].sum() == pytest.approx(truth[lit].sum(), rel=0.02)
        # the arm's shadow pulls the plain rings down
        typical = np.median(np.abs(mean[lit] / truth[lit] - 1))
        assert typical < {"radial": 0.05, "adaptive": 0.02}[smoothing]
        assert 0.001 < np.median(shared[lit] / mean[lit]) < 0.08


@pytest.mark.parametrize("smoothing", ["none", "radial", "adaptive"])
def test_noise_below_zero_leaves_no_holes(empties, smoothing):
    """An integrating detector reads less than nothing where there is less than its noise"""
    experiments, expected = empties
    rng = np.random.default_rng(4)

    def photons_of(imageset, index):
        return [rng.normal(0.003, 0.3, mean.shape) for mean in expected]

    background = average_of_empty_shots(experiments, SETTINGS, smoothing, photons_of)
    seen = [np.isfinite(mean) for mean in background.mean]
    assert all((lit == (truth > 0)).mean() > 0.9 for lit, truth in zip(seen, expected))
    for of in (background.spread, background.shared):
        assert of is None or all((values[lit] >= 0).all() for values, lit in zip(of, seen))


def test_only_the_adaptive_one_knows_the_shadow(empties):
    experiments, expected = empties
    shadow = [truth == 0 for truth in expected]
    assert sum(np.count_nonzero(s) for s in shadow) > 400
    left = {
        smoothing: sum(
            mean[where].sum()
            for mean, where in zip(
                average_of_empty_shots(experiments, SETTINGS, smoothing).mean, shadow
            )
        )
        for smoothing in ("radial", "adaptive")
    }
    assert left["adaptive"] < 0.01 * left["radial"]


def test_a_number_a_map_and_nonsense(empties, tmp_path):
    detector = empties[0][0].detector
    shapes = [tuple(reversed(panel.get_image_size())) for panel in detector]
    background = load_background("2.5", detector, SETTINGS)
    assert [m.shape for m in background.mean] == shapes and not background.per_dose
    assert all((m == 2.5).all() for m in background.mean)

    maps = [np.random.default_rng(i).random(shape) for i, shape in enumerate(shapes)]
    np.savez(tmp_path / "map.npz", **{f"panel_{i}": m for i, m in enumerate(maps)})
    with h5py.File(tmp_path / "map.h5", "w") as handle:
        for i, m in enumerate(maps):
            handle[f"panel_{i}"] = m
    for name in ("map.npz", "map.h5"):
        background = load_background(str(tmp_path / name), detector, SETTINGS)
        assert all(np.allclose(a, b) for a, b in zip(background.mean, maps))

    np.savez(tmp_path / "map.npz", *maps, **{f"{i}_variance": m / 10 for i, m in enumerate(maps)})
    background = load_background(str(tmp_path / "map.npz"), detector, SETTINGS)
    assert all(np.allclose(a, b) for a, b in zip(background.mean, maps))
    assert all(np.allclose(a, b / 10) for a, b in zip(background.spread, maps))
    assert np.allclose(background.panel(0)[1], maps[0] / 10) and background.panel(0)[2] is None
    for wrong in (-maps[0], maps[0][1:]):
        np.savez(tmp_path / "map.npz", *maps, variance=wrong)
        with pytest.raises(ValueError, match="variances in the background map"):
            load_background(str(tmp_path / "map.npz"), detector, SETTINGS)

    for text in ("-1", "nan", "much"):
        with pytest.raises(ValueError, match="background"):
            load_background(text, detector, SETTINGS)
    with pytest.raises(ValueError, match="No such file"):
        load_background(str(tmp_path / "none.npz"), detector, SETTINGS)
    (tmp_path / "bad.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match="bad.h5"):
        load_background(str(tmp_path / "bad.h5"), detector, SETTINGS)


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_panels_of_a_map_are_numbered_not_spelt(tmp_path, suffix):
    """Twelve panels of one size: their shapes would not tell that arr_10 came before arr_2."""
    detector = Detector()
    for _ in range(12):
        detector.add_panel(Panel()).set_image_size((5, 4))
    maps = [np.full((4, 5), float(i)) for i in range(12)]
    path = tmp_path / f"map.{suffix}"
    if suffix == "npz":
        np.savez(path, *maps)
    else:
        with h5py.File(path, "w") as handle:
            for i, values in enumerate(maps):
                handle[f"arr_{i}"] = values
    background = load_background(str(path), detector, SETTINGS)
    assert [float(mean[0, 0]) for mean in background.mean] == list(range(12))


def test_another_image_size_is_refused(empties, tmp_path):
    detector = empties[0][0].detector
    np.save(tmp_path / "one.npy", np.zeros((10, 12)))
    with pytest.raises(ValueError, match="1 panels, the detector 4"):
        load_background(str(tmp_path / "one.npy"), detector, SETTINGS)
    arrays = {f"p{i}": np.zeros((10, 12)) for i in range(4)}
    np.savez(tmp_path / "four.npz", **arrays)
    with pytest.raises(ValueError, match=r"\(12, 10\) pixels on panel 0"):
        load_background(str(tmp_path / "four.npz"), detector, SETTINGS)


def test_a_gain_that_is_no_gain(empties):
    experiment = empties[0][0]
    assert panel_gain(experiment.imageset, 0) == 1.0
    assert panel_gain(experiment.imageset, 0, 3.0) == 3.0
    with pytest.raises(ValueError, match="gain="):
        panel_gain(experiment.imageset, 0, 0.0)
