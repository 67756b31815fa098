from __future__ import annotations

import json

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dxtbx.model import ExperimentList
from scitbx import matrix

from dials.array_family import flex

from dials_diffuse.adapters.images import exposure_time, transmission
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.simulation.settings import SimulationSettings
from dials_diffuse.simulation.simulate import simulator_from_file
from dials_diffuse.simulation.truth import DiffuseTruth


def settings_of(**groups) -> SimulationSettings:
    values = {
        "stills": 3,
        "detector": {"image_size": [100, 100], "pixel_size": 1.2},
        "crystal": {"unit_cell": [40, 40, 60, 90, 90, 90], "mosaicity": 0.3},
    }
    for name, value in groups.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return simulation_settings(**values)


def read(folder):
    experiments = ExperimentList.from_file(str(folder / "simulated.expt"))
    reflections = flex.reflection_table.from_file(str(folder / "simulated.refl"))
    reflections.assert_experiment_identifiers_are_consistent(experiments)
    return experiments, reflections


def images_of(experiments):
    return [
        [as_numpy(panel).copy() for panel in experiment.imageset.get_raw_data(0)]
        for experiment in experiments
    ]


@pytest.mark.parametrize("kind", ["single", "tilted"])
def test_files_are_read_back_as_they_were_made(tmp_path, kind):
    settings = settings_of(detector={"type": kind}, background={"flat": 1.0, "empty_shots": 2})
    result = simulate(settings, tmp_path)
    experiments, reflections = read(tmp_path)
    assert len(experiments) == 3
    for experiment, still in zip(experiments, result.simulator.stills):
        assert experiment.is_still()
        assert experiment.detector == result.simulator.detector
        assert experiment.crystal.get_A() == pytest.approx(still.lattices[0].crystal.get_A())
        assert experiment.crystal.get_half_mosaicity_deg() == pytest.approx(0.15)
        assert experiment.crystal.get_domain_size_ang() == 1000
        assert exposure_time(experiment) == pytest.approx(0.1)
        for found, made in zip(images_of([experiment])[0], result.simulator.image(still)):
            assert (found == made).all()
        mask = experiment.imageset.get_mask(0)
        assert all(panel.count(False) == 0 for panel in mask)
    assert len(reflections) == len(result.reflections) > 100

    background = ExperimentList.from_file(str(tmp_path / "background.expt"))
    assert len(background) == 2 and background[0].crystal is None
    empty = np.array([p for image in images_of(background) for p in image])
    assert empty.mean() == pytest.approx(1.0, abs=0.03)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"images", "simulated.expt", "simulated.refl", "truth.json", "background.expt"}


def test_every_still_its_own_dose_and_geometry(tmp_path):
    settings = settings_of(
        detector={"type": "tilted", "distance_jitter": 1.0},
        beam={"wavelength_jitter": 0.005},
        exposure={"time_spread": 0.3, "transmission": 0.5, "transmission_spread": 0.2},
    )
    result = simulate(settings, tmp_path)
    experiments, _ = read(tmp_path)
    assert len(experiments.detectors()) == len(experiments.beams()) == 3
    for experiment, still in zip(experiments, result.simulator.stills):
        assert exposure_time(experiment) == pytest.approx(still.exposure_time)
        assert transmission(experiment.beam) == pytest.approx(still.transmission)
        assert experiment.beam.get_wavelength() == pytest.approx(still.wavelength)
        assert (images_of([experiment])[0][2] == result.simulator.image(still)[2]).all()
    assert len({still.exposure_time for still in result.simulator.stills}) == 3


@pytest.mark.parametrize("kind", ["single", "tilted"])
def test_the_number_of_processes_changes_nothing(tmp_path, kind):
    results = []
    for nproc in (1, 2):
        settings = settings_of(detector={"type": kind}, nproc=nproc)
        results.append(simulate(settings, tmp_path / str(nproc)))
    one, two = (read(tmp_path / str(nproc)) for nproc in (1, 2))
    for a, b in zip(images_of(one[0]), images_of(two[0])):
        assert all((x == y).all() for x, y in zip(a, b))
    assert one[0].identifiers() == two[0].identifiers()
    assert len(one[1]) == len(two[1])
    for column in ("intensity.sum.value", "flags", "id", "panel"):
        assert (as_numpy(one[1][column]) == as_numpy(two[1][column])).all()
    assert results[0].mean_photons == results[1].mean_photons


def test_two_lattices_share_an_image(tmp_path):
    result = simulate(settings_of(crystal={"lattices": 2}), tmp_path)
    experiments, reflections = read(tmp_path)
    assert len(experiments) == 6
    assert len(experiments.imagesets()) == 3
    assert experiments[0].imageset == experiments[1].imageset
    assert experiments[0].crystal != experiments[1].crystal
    assert set(reflections["id"]) == set(range(6))
    assert len(list((tmp_path / "images").iterdir())) == 3
    record = json.loads((tmp_path / "truth.json").read_text())
    assert record["stills"][1]["experiments"] == [2, 3]
    assert record["stills"][1]["identifiers"] == list(experiments.identifiers())[2:4]
    assert len(result.simulator.stills[0].lattices) == 2


def test_reflections_are_where_dials_predicts_them(tmp_path):
    simulate(settings_of(detector={"type": "tilted"}), tmp_path)
    experiments, reflections = read(tmp_path)
    for number, experiment in enumerate(experiments):
        mine = reflections.select(reflections["id"] == number)
        again = flex.reflection_table()
        for column in ("miller_index", "panel", "id", "flags"):
            again[column] = mine[column]
        again["id"] = flex.int(len(again), 0)
        again["entering"] = flex.bool(len(again), True)
        # by the experiment's own models: s1 as the ray through the node
        from dials.algorithms.spot_prediction import StillsReflectionPredictor

        predictor = StillsReflectionPredictor(experiment, dmin=1.5)
        predictor.for_reflection_table(again, experiment.crystal.get_A())
        shift = as_numpy(again["xyzcal.px"]) - as_numpy(mine["xyzcal.px"])
        # DIALS turns the node onto the sphere, here it is pushed: differs by the excitation
        assert np.median(np.abs(shift[:, :2])) < 0.05
        assert np.abs(np.median(shift[:, :2], axis=0)).max() < 0.02


def test_reflections_are_where_the_photons_are(tmp_path):
    settings = settings_of(
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
    from dials.command_line.find_spots import phil_scope
    from dials.util.options import ArgumentParser

    settings = settings_of(
        detector={"image_size": [240, 240], "pixel_size": 0.5},
        crystal={"domain_size": 600, "mosaicity": 0.1},
    )
    result = simulate(settings, run_in_tmp_path)
    experiments, _ = read(run_in_tmp_path)
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
    settings = settings_of(bragg={"partiality": "excitation", "shoeboxes": True})
    result = simulate(settings, tmp_path)
    _, table = read(tmp_path)
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


def test_truth_file_makes_the_simulation_again(tmp_path):
    result = simulate(settings_of(scale={"spread": 0.4, "offset": 0.2}), tmp_path)
    again = simulator_from_file(tmp_path / "truth.json")
    for a, b in zip(result.simulator.stills, again.stills):
        assert (again.image(b)[0] == result.simulator.image(a)[0]).all()
    truth = DiffuseTruth.from_file(tmp_path / "truth.json")
    hkl = np.random.default_rng(0).uniform(-10, 10, (50, 3))
    assert (truth.total(hkl) == result.simulator.truth.total(hkl)).all()
    record = json.loads((tmp_path / "truth.json").read_text())
    scales = [still["scales"][0] for still in record["stills"]]
    assert scales == [still.lattices[0].scale for still in result.simulator.stills]
    assert record["photons_per_electron2"] == result.simulator.photons_per_electron2
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="not the truth of a simulation"):
        simulator_from_file(tmp_path / "other.json")


def test_cbf_and_nexus_hold_the_same_counts(tmp_path):
    found = []
    for kind in ("cbf", "nexus"):
        simulate(settings_of(format=kind), tmp_path / kind)
        found.append(images_of(read(tmp_path / kind)[0]))
    for a, b in zip(*found):
        assert (a[0] == b[0]).all()
    with pytest.raises(ValueError, match="use format=nexus"):
        simulate(settings_of(format="cbf", detector={"type": "tilted"}), tmp_path / "bad")


def test_rotation_series_as_stills_and_as_sequence(tmp_path):
    settings = settings_of(
        stills=4, crystal={"orientation": "rotation", "rotation_step": 0.3, "lattices": 2}
    )
    simulate(settings, tmp_path)
    experiments, _ = read(tmp_path)
    assert all(experiment.is_still() for experiment in experiments)
    sequence = ExperimentList.from_file(str(tmp_path / "sequence.expt"))
    assert len(sequence) == 2 and len(sequence.imagesets()) == 1
    for number, experiment in enumerate(sequence):
        assert len(experiment.imageset) == 4
        assert experiment.scan.get_oscillation() == pytest.approx((0.0, 0.3))
        axis = np.array(experiment.goniometer.get_rotation_axis())
        for image in range(4):
            angle = np.radians(experiment.scan.get_angle_from_array_index(image + 0.5))
            turn = matrix.col(axis).axis_and_angle_as_r3_rotation_matrix(angle)
            setting = turn * matrix.sqr(experiment.crystal.get_A())
            still = experiments[2 * image + number]
            assert setting.elems == pytest.approx(still.crystal.get_A(), abs=1e-9)
            found = as_numpy(experiment.imageset.get_raw_data(image)[0])
            assert (found == as_numpy(still.imageset.get_raw_data(0)[0])).all()
