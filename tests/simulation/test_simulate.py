from __future__ import annotations

import json

import numpy as np
import pytest
from simulations import few_stills, read_simulated, simulate

from dxtbx.model import ExperimentList
from scitbx import matrix

from dials_diffuse.adapters.images import exposure_time, transmission
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.simulation.simulate import simulator_from_file
from dials_diffuse.simulation.truth import DiffuseTruth


def images_of(experiments):
    return [
        [as_numpy(panel).copy() for panel in experiment.imageset.get_raw_data(0)]
        for experiment in experiments
    ]


@pytest.mark.parametrize("kind", ["single", "tilted"])
def test_files_are_read_back_as_they_were_made(tmp_path, kind):
    settings = few_stills(detector={"type": kind}, background={"flat": 1.0, "empty_shots": 2})
    result = simulate(settings, tmp_path)
    experiments, reflections = read_simulated(tmp_path)
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
    settings = few_stills(
        detector={"type": "tilted", "distance_jitter": 1.0},
        beam={"wavelength_jitter": 0.005},
        exposure={"time_spread": 0.3, "transmission": 0.5, "transmission_spread": 0.2},
    )
    result = simulate(settings, tmp_path)
    experiments, _ = read_simulated(tmp_path)
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
        settings = few_stills(detector={"type": kind}, nproc=nproc)
        results.append(simulate(settings, tmp_path / str(nproc)))
    one, two = (read_simulated(tmp_path / str(nproc)) for nproc in (1, 2))
    for a, b in zip(images_of(one[0]), images_of(two[0])):
        assert all((x == y).all() for x, y in zip(a, b))
    assert one[0].identifiers() == two[0].identifiers()
    assert len(one[1]) == len(two[1])
    for column in ("intensity.sum.value", "flags", "id", "panel"):
        assert (as_numpy(one[1][column]) == as_numpy(two[1][column])).all()
    assert results[0].mean_photons == results[1].mean_photons


def test_two_lattices_share_an_image(tmp_path):
    result = simulate(few_stills(crystal={"lattices": 2}), tmp_path)
    experiments, reflections = read_simulated(tmp_path)
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


def test_truth_file_makes_the_simulation_again(tmp_path):
    result = simulate(few_stills(scale={"spread": 0.4, "offset": 0.2}), tmp_path)
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
        simulate(few_stills(format=kind), tmp_path / kind)
        found.append(images_of(read_simulated(tmp_path / kind)[0]))
    for a, b in zip(*found):
        assert (a[0] == b[0]).all()
    with pytest.raises(ValueError, match="use format=nexus"):
        simulate(few_stills(format="cbf", detector={"type": "tilted"}), tmp_path / "bad")


def test_rotation_series_as_stills_and_as_sequence(tmp_path):
    settings = few_stills(
        stills=4, crystal={"orientation": "rotation", "rotation_step": 0.3, "lattices": 2}
    )
    simulate(settings, tmp_path)
    experiments, _ = read_simulated(tmp_path)
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
