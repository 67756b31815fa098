"""Simulated sweeps against DIALS's own prediction of rotation images, which shares no code with the simulator."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from simulations import few_stills, simulate

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy

KAPPA = {"axes": [1, 0, 0, 0.64, 0.77, 0, 1, 0, 0], "angles": [30.0, 50.0, 0.0], "scan_axis": 2}
CASES = {
    "single axis": {},
    "cut at image 6": {"scan": {"first_image": 6, "start_angle": 12.5}},
    "other axis": {"goniometer": {"axes": [0.1, -1, 0.2]}},
    "fixed rotation": {"goniometer": KAPPA},
    "setting rotation": {"goniometer": {**KAPPA, "angles": [0.0, 50.0, 20.0], "scan_axis": 0}},
    "scan-varying": {
        "crystal": {"drift": 0.8, "cell_drift": 0.01},
        "goniometer": KAPPA,
        "scan": {"first_image": 6},
    },
}


def sharp_sweep(tmp_path, n=12, step=0.5, **groups):
    """A sweep of sharp, strong spots without noise"""
    crystal = {
        "orientation": "rotation",
        "rotation_step": step,
        "rotation_samples": 5,
        "mosaicity": 0.02,
        "domain_size": 5000.0,
        "unit_cell": [40, 40, 60, 90, 90, 90],
        **groups.pop("crystal", {}),
    }
    settings = few_stills(
        stills=n,
        crystal=crystal,
        exposure={"noise": False},
        detector={"image_size": [160, 160], "pixel_size": 0.75},
        **groups,
    )
    return simulate(settings, tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_dials_predicts_the_spots_of_a_sweep(tmp_path, case):
    sharp_sweep(tmp_path, **CASES[case])
    (experiment,) = ExperimentList.from_file(str(tmp_path / "sequence.expt"))
    first = CASES[case].get("scan", {}).get("first_image", 1)
    assert experiment.scan.get_image_range() == (first, first + 11)
    assert experiment.crystal.num_scan_points == (13 if case == "scan-varying" else 0)
    predicted = flex.reflection_table.from_predictions_multi(
        ExperimentList([experiment]), dmin=2.2, dmax=None
    )
    places = as_numpy(predicted["xyzcal.px"])
    axis, s0 = (
        np.array(vector)
        for vector in (experiment.goniometer.get_rotation_axis(), experiment.beam.get_s0())
    )
    bright = []
    # nodes that pass before or after the sweep reach into its first and last image
    for image in range(1, 11):
        counts = as_numpy(experiment.imageset.get_raw_data(image)[0])
        slow, fast = np.nonzero(counts > 40 * np.median(counts))
        z = np.full(len(fast), image + first - 0.5)
        bright.append(np.column_stack([fast + 0.5, slow + 0.5, z]))
    found = np.concatenate(bright)
    panel = experiment.detector[0]
    s1 = np.array([panel.get_pixel_lab_coord((x, y)) for x, y, _ in found])
    s1 *= np.linalg.norm(s0) / np.linalg.norm(s1, axis=1)[:, None]
    across = np.cross(s1, s0)
    # what lies near the axis passes slowly: through more images than one
    zeta = np.abs(across @ axis) / np.linalg.norm(across, axis=1)
    found = found[(zeta > 0.3) & (np.linalg.norm(s1 - s0, axis=1) < 1 / 2.3)]
    assert len(found) > 500
    # a pixel, and an image: half of its width, and the ends of the passage
    scale = np.array([2.0, 2.0, 0.75])
    distance, _ = cKDTree(places / scale).query(found / scale)
    assert np.mean(distance < 1.0) > 0.95
    # so many predictions are not within reach by chance
    moved = (found + [0, 0, 2.5]) / scale
    assert np.mean(cKDTree(places / scale).query(moved)[0] < 1.0) < 0.3


def test_the_table_of_a_sweep_says_when_each_node_passed(tmp_path):
    sharp_sweep(tmp_path, scan={"first_image": 6})
    (experiment,) = ExperimentList.from_file(str(tmp_path / "sequence.expt"))
    table = flex.reflection_table.from_file(str(tmp_path / "sequence.refl"))
    table.assert_experiment_identifiers_are_consistent(ExperimentList([experiment]))
    z = as_numpy(table["xyzcal.px"])[:, 2]
    assert z.min() >= 5 and z.max() <= 17
    predicted = flex.reflection_table.from_predictions_multi(
        ExperimentList([experiment]), dmin=2.2, dmax=None
    )
    known = {
        (*index, entering): place
        for index, entering, place in zip(
            predicted["miller_index"], predicted["entering"], as_numpy(predicted["xyzcal.px"])
        )
    }
    strong = table.select(table.get_flags(table.flags.strong))
    differences = []
    for index, place in zip(strong["miller_index"], as_numpy(strong["xyzcal.px"])):
        near = [known[k] for k in ((*index, True), (*index, False)) if k in known]
        if near:
            differences.append(min((place - other for other in near), key=np.linalg.norm))
    differences = np.abs(differences)
    assert len(differences) > 100
    assert np.median(differences, axis=0) == pytest.approx((0, 0, 0), abs=0.35)


def test_a_background_that_varies_with_the_angle_and_its_sweep(tmp_path):
    background = {"flat": 20.0, "angle_amplitude": 0.5, "empty_shots": 4, "empty_step": 30.0}
    sharp_sweep(tmp_path, n=2, background=background)
    (empty,) = ExperimentList.from_file(str(tmp_path / "background.expt"))
    assert empty.crystal is None and empty.scan.get_oscillation() == pytest.approx((0, 30.0))
    assert len(empty.imageset) == 4 and empty.scan.get_image_range() == (1, 4)
    for image in range(4):
        mean = as_numpy(empty.imageset.get_raw_data(image)[0]).mean()
        phi = np.radians(15 + 30 * image)
        assert mean == pytest.approx(20 * (1 + 0.5 * np.cos(phi)), abs=0.51)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"goniometer": {"axes": [1, 0]}}, "3 numbers"),
        ({"goniometer": {"scan_axis": 1}}, "one of 0 to 0"),
        ({"goniometer": {"angles": [5.0]}}, "must be 0"),
        ({"crystal": {"cell_spread": 0.01}}, "cell_drift"),
    ],
)
def test_sweeps_that_can_not_be(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        sharp_sweep(tmp_path, n=2, **values)
