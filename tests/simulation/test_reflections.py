"""Simulated reflections, against DIALS and the photons of the images."""

from __future__ import annotations

import numpy as np
import pytest
from simulations import few_stills, read_simulated, simulate

from dxtbx.model import ExperimentList

from dials.algorithms.spot_prediction import StillsReflectionPredictor
from dials.array_family import flex
from dials.command_line.find_spots import phil_scope
from dials.util.options import ArgumentParser

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.simulation.forward import Peaks
from dials_diffuse.simulation.reflections import FRAME, GAP, _sum_spots, foreground_radius


def test_reflections_are_where_dials_predicts_them(tmp_path):
    simulate(few_stills(detector={"type": "tilted"}), tmp_path)
    experiments, reflections = read_simulated(tmp_path)
    for number, experiment in enumerate(experiments):
        mine = reflections.select(reflections["id"] == number)
        again = flex.reflection_table()
        for column in ("miller_index", "panel", "id", "flags"):
            again[column] = mine[column]
        again["id"] = flex.int(len(again), 0)
        again["entering"] = flex.bool(len(again), True)
        # by the experiment's own models: s1 as the ray through the node
        predictor = StillsReflectionPredictor(experiment, dmin=1.5)
        predictor.for_reflection_table(again, experiment.crystal.get_A())
        shift = as_numpy(again["xyzcal.px"]) - as_numpy(mine["xyzcal.px"])
        # DIALS turns the node onto the sphere, here it is pushed: differs by the excitation
        assert np.median(np.abs(shift[:, :2])) < 0.05
        assert np.abs(np.median(shift[:, :2], axis=0)).max() < 0.02


def test_reflections_are_where_the_photons_are(tmp_path):
    settings = few_stills(
        detector={"image_size": [240, 240], "pixel_size": 0.5},
        crystal={"domain_size": 600, "mosaicity": 0.1},
    )
    result = simulate(settings, tmp_path)
    table = result.reflections
    strong = table.select(table.get_flags(table.flags.strong))
    shift = as_numpy(strong["xyzobs.px.value"]) - as_numpy(strong["xyzcal.px"])
    assert np.abs(shift[:, :2].mean(axis=0)).max() < 0.03
    assert strong.get_flags(table.flags.indexed).count(False) == 0
    assert 0.05 < len(strong) / len(table) < 0.95
    # summed photons against those expected from the peaks alone
    simulator = result.simulator
    total = found = 0.0
    for still in simulator.stills:
        total += simulator.expected(still)["bragg"][0].sum()
        mine = table.select(table["id"] == still.lattices[0].experiment)
        found += flex.sum(mine["intensity.sum.value"])
    assert found == pytest.approx(total, rel=0.1)
    assert flex.min(table["partiality"]) == 1.0


def test_dials_finds_the_spots_where_they_are_said_to_be(run_in_tmp_path):
    settings = few_stills(
        detector={"image_size": [240, 240], "pixel_size": 0.5},
        crystal={"domain_size": 600, "mosaicity": 0.1},
    )
    result = simulate(settings, run_in_tmp_path)
    experiments, _ = read_simulated(run_in_tmp_path)
    # not phil_scope.extract(): that finds nothing at all
    params, _ = ArgumentParser(phil=phil_scope).parse_args(["spotfinder.mp.nproc=1"])
    for still, experiment in zip(result.simulator.stills, experiments):
        observed = flex.reflection_table.from_observations(ExperimentList([experiment]), params)
        assert len(observed) > 30
        # all peaks that were drawn: the table leaves out the far tails of strong ones
        said = result.simulator.peaks(still, still.lattices[0]).pixel
        found = as_numpy(observed["xyzobs.px.value"])[:, :2]
        distance = np.linalg.norm(found[:, None] - said[None], axis=2).min(axis=1)
        assert (distance < 1.0).mean() > 0.95
        assert np.median(distance) < 0.3


def test_partiality_and_shoeboxes(tmp_path):
    settings = few_stills(bragg={"partiality": "excitation", "shoeboxes": True})
    result = simulate(settings, tmp_path)
    _, table = read_simulated(tmp_path)
    partiality = as_numpy(table["partiality"])
    assert 0.04 < partiality.min() < 0.3 and 0.95 < partiality.max() <= 1.0
    boxes = table["shoebox"]
    assert boxes.is_consistent().count(False) == 0
    image = result.simulator.image(result.simulator.stills[0])[0]
    f0, f1, s0, s1, _, _ = boxes[0].bbox
    assert (as_numpy(boxes[0].data)[0] == image[s0:s1, f0:f1]).all()
    # DIALS's own summation over the foreground; the boxes hold no background model
    summed = as_numpy(boxes.summed_intensity().observed_value())
    below = as_numpy(table["background.mean"]) * as_numpy(table["num_pixels.foreground"])
    whole = as_numpy(table["intensity.sum.value"]) + below
    assert np.allclose(summed, whole, atol=1e-3)


def summed(image, trusted, centre, radius):
    """The eight numbers of one spot."""
    out = np.zeros((1, 8))
    _sum_spots(image, trusted, np.array([centre]), np.array([radius]), FRAME, GAP, out)
    return out[0]


def test_a_spot_on_a_flat_background():
    image = np.full((41, 41), 2.0)
    image[20, 20:23] += [100.0, 50.0, 50.0]
    trusted = np.ones(image.shape, bool)
    intensity, variance, level, n_in, n_out, fast, slow, total = summed(
        image, trusted, (21.5, 20.5), 4.0
    )
    # pixels whose centre lies within 4 of the centre, and those beyond 5 in the square
    f, s = np.meshgrid(np.arange(41) + 0.5, np.arange(41) + 0.5)
    distance = np.hypot(f - 21.5, s - 20.5)
    assert n_in == (distance <= 4).sum()
    square = np.maximum(abs(f - 21.5), abs(s - 20.5)) <= 5 + FRAME
    assert n_out == (square & (distance > 5)).sum()
    assert (level, intensity) == (2.0, pytest.approx(200.0))
    assert total == 200 + 2 * n_in
    # of the foreground (Poisson), and of the background below it
    assert variance == pytest.approx(total + 2 * n_in**2 / n_out)
    weights = np.where(distance <= 4, image, 0)
    assert fast == pytest.approx(np.average(f, weights=weights))
    assert slow == pytest.approx(np.average(s, weights=weights))


def test_untrusted_pixels_and_edges_are_left_out():
    image = np.full((20, 20), 3.0)
    trusted = np.ones(image.shape, bool)
    trusted[:, 10] = False
    image[:, 10] = 1e6
    whole = summed(image, np.ones(image.shape, bool), (10.5, 10.5), 3.0)
    part = summed(image, trusted, (10.5, 10.5), 3.0)
    assert part[2] == 3.0 and part[0] == pytest.approx(0.0) and part[3] < whole[3]
    # at a corner only a quarter of the disc is on the detector
    corner = summed(np.full((20, 20), 3.0), np.ones((20, 20), bool), (0.0, 0.0), 3.0)
    f, s = np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5)
    assert corner[3] == (np.hypot(f, s) <= 3).sum()
    # nothing but bad pixels: the centre stays, and there are no pixels
    none = summed(image, np.zeros(image.shape, bool), (10.5, 10.5), 3.0)
    assert none.tolist() == [0, 0, 0, 0, 0, 10.5, 10.5, 0]


def test_radius_holds_three_standard_deviations():
    names = dict.fromkeys(Peaks.__dataclass_fields__)
    peaks = Peaks(
        **{
            **names,
            "along": np.array([0.001, 0.002]),
            "across": np.array([0.003, 0.001]),
            "pixels_per_q": np.array([1000.0, 1000.0]),
        }
    )
    assert foreground_radius(peaks, 0.0) == pytest.approx([10.0, 7.0])
    assert foreground_radius(peaks, 4.0) == pytest.approx([16.0, 3 * np.sqrt(20) + 1])
