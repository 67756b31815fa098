"""Orientation of sweeps against DIALS's own prediction, and which images are used.

DIALS says at which image a reflection is recorded; with our orientation of that image, the pixel must have
a whole h. Nothing of ours is in the expected numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dxtbx.imageset import ImageSequence, ImageSetData
from dxtbx.model import (
    BeamFactory,
    Crystal,
    DetectorFactory,
    Experiment,
    ExperimentList,
    Goniometer,
    Scan,
)
from scitbx import matrix

from dials.array_family import flex

from dials_diffuse.adapters.images import exposure_time
from dials_diffuse.adapters.stills import one_of_each, stills_of
from dials_diffuse.adapters.sweeps import choose_images, fill_exposure_times, slerp
from dials_diffuse.adapters.tables import as_numpy

N = 20
FIXED = Rotation.from_rotvec([0.3, -2.0, 0.4])
SETTING = Rotation.from_rotvec([-0.2, 0.1, 0.5])


class Files:
    """As dxtbx's readers without images"""

    def __init__(self, n):
        self.names = [f"image_{i:05d}.cbf" for i in range(n)]

    def paths(self):
        return self.names

    def is_single_file_reader(self):
        return False

    def __len__(self):
        return len(self.names)


def flat(array) -> tuple[float, ...]:
    return tuple(float(x) for x in np.ravel(array))


def sweep(first=1, n=N, fixed=FIXED, setting=SETTING, width=0.5, imageset_images=None):
    """A sweep of a crystal of 31 to 55 A, images without files."""
    beam = BeamFactory.make_beam(sample_to_source=(0, 0, 1), wavelength=1.0)
    detector = DetectorFactory.simple(
        "PAD", 150, (110, 105), "+x", "-y", (0.5, 0.5), (420, 430), (-1, 1e6)
    )
    goniometer = Goniometer((0.6, 0.8, 0.0), flat(fixed.as_matrix()), flat(setting.as_matrix()))
    scan = Scan((first, first + n - 1), (10.0, width))
    scan.set_exposure_times([0.1] * n)
    crystal = Crystal((31, 2, 1), (-3, 40, 2), (1, -4, 55), space_group_symbol="P1")
    n_files = imageset_images or n
    data = ImageSetData(Files(n_files), None, "image_#####.cbf", "", {}, None)
    own_scan = Scan((first, first + n_files - 1), (10.0, width))
    imageset = ImageSequence(data, beam, detector, goniometer, own_scan)
    return Experiment(
        beam, detector, goniometer, scan, crystal, imageset=imageset, identifier=f"s{first}"
    )


def vary(experiment, turn=0.03, grow=0.02):
    """Give the crystal scan points: it turns (rad) and its cell grows during the scan."""
    n = experiment.scan.get_num_images() + 1
    a = np.array(experiment.crystal.get_A()).reshape(3, 3)
    points = []
    for part in np.linspace(0, 1, n):
        rotation = Rotation.from_rotvec(np.array([0.5, 1.0, -0.8]) * turn * part**2).as_matrix()
        points.append(matrix.sqr(flat(rotation @ a * (1 - grow * part))))
    experiment.crystal.set_A_at_scan_points(points)
    return experiment


def departures(experiment):
    """|h - integer| (N,) of DIALS's predictions at the image where each is recorded, by our orientation."""
    predicted = flex.reflection_table.from_predictions(experiment, dmin=4.0)
    x, y, z = as_numpy(predicted["xyzcal.px"]).T
    stills = {still.key[1]: still for still in stills_of([experiment])}
    inside = (z >= min(stills)) & (z < max(stills) + 1)
    panel = experiment.detector[0]
    found = []
    for a, b, number, hkl in zip(
        x[inside], y[inside], z[inside].astype(int), as_numpy(predicted["miller_index"])[inside]
    ):
        still = stills[number]
        s1 = np.array(panel.get_lab_coord(panel.pixel_to_millimeter((a, b))))
        s1 *= np.linalg.norm(still.beam.get_s0()) / np.linalg.norm(s1)
        q = s1 - np.array(still.beam.get_s0())
        found.append(np.abs(np.linalg.solve(still.setting_matrix(), q) - hkl).max())
    return np.array(found)


@pytest.mark.parametrize("first", [1, 6])
@pytest.mark.parametrize("moving", [False, True], ids=["static", "scan-varying"])
def test_predicted_reflections_have_whole_h(first, moving):
    experiment = sweep(first)
    if moving:
        vary(experiment)
    found = departures(experiment)
    # 0.25 degrees from the middle of an image, at |h| up to 14
    assert len(found) > 200 and found.max() < 0.1 and np.median(found) < 0.02


def test_scan_points_are_those_of_the_image_not_of_the_first():
    """The start of the crystal's change taken for its end is seen by the test above."""
    late, early = vary(sweep(6)), vary(sweep(1))
    a, b = (stills_of([e])[-1] for e in (late, early))
    wrong = np.array(late.crystal.get_A_at_scan_point(0)).reshape(3, 3)
    right = np.array(late.crystal.get_A_at_scan_point(N)).reshape(3, 3)
    assert np.abs(wrong @ np.linalg.inv(right) - np.eye(3)).max() > 0.02
    assert np.allclose(a.setting_matrix(), b.setting_matrix())


def test_the_same_orientation_by_another_goniometer():
    """F and S other than 1, with A such that S R F A is unchanged: field case 1."""
    plain = sweep(fixed=Rotation.identity(), setting=Rotation.identity())
    other = sweep(setting=Rotation.identity())
    a = np.array(plain.crystal.get_A()).reshape(3, 3)
    other.crystal.set_A(flat(FIXED.inv().as_matrix() @ a))
    for one, two in zip(stills_of([plain]), stills_of([other])):
        assert np.allclose(one.setting_matrix(), two.setting_matrix(), atol=1e-14)


def test_axis_and_width_of_an_image():
    experiment = sweep()
    still, next_one = stills_of([experiment])[4:6]
    turned = next_one.setting_matrix() @ np.linalg.inv(still.setting_matrix())
    vector = Rotation.from_matrix(turned).as_rotvec()
    assert np.allclose(vector, still.rotation_width * still.rotation_axis, atol=1e-9)
    assert still.rotation_width == pytest.approx(np.radians(0.5))


def test_moving_beam_and_goniometer():
    """s0 and S per image, where they vary"""
    experiment = sweep()
    s0 = np.array(experiment.beam.get_s0())
    turns = [Rotation.from_rotvec([0.002 * i, 0, 0]) for i in range(N + 1)]
    experiment.beam.set_s0_at_scan_points([flat(turn.apply(s0)) for turn in turns])
    experiment.goniometer.set_setting_rotation_at_scan_points(
        [matrix.sqr(flat((turn * SETTING).as_matrix())) for turn in turns]
    )
    still = stills_of([experiment])[7]
    between = Rotation.from_rotvec([0.002 * 7.5, 0, 0])
    assert np.allclose(still.beam.get_s0(), between.apply(s0), atol=1e-6)
    unmoved = stills_of([sweep()])[7].setting_matrix()
    assert np.allclose(still.setting_matrix(), between.as_matrix() @ unmoved, atol=1e-12)


def test_slerp_is_the_way_of_constant_speed():
    first, turn = Rotation.from_rotvec([1, 2, 0.5]), np.array([0.4, -0.2, 0.3])
    for part in (0.0, 0.3, 1.0):
        found = slerp(first.as_matrix(), (Rotation.from_rotvec(turn) * first).as_matrix(), part)
        assert np.allclose(found, (Rotation.from_rotvec(part * turn) * first).as_matrix())
    assert np.array_equal(slerp(first.as_matrix(), first.as_matrix(), 0.5), first.as_matrix())


@pytest.mark.parametrize("first", [1, 3, 101])
def test_images_are_found_in_the_imageset(first):
    """Field case 2"""
    stills = stills_of([sweep(first)])
    assert [still.image_index for still in stills] == list(range(N))
    assert [still.image_number for still in stills] == [first - 0.5 + i for i in range(N)]
    assert one_of_each([sweep(first), sweep(5)])[1].index == 1


def test_chosen_images_stay_chosen_in_files(tmp_path):
    experiments = ExperimentList([sweep(6), sweep(1)])
    choose_images(experiments, None, ["8:9,0:20:25", "1:1:3"])
    experiments.as_file(str(tmp_path / "chosen.expt"))
    read = ExperimentList.from_file(str(tmp_path / "chosen.expt"), check_format=False)
    assert len(read) == 2
    numbers = [[s.key[1] + 1 for s in stills_of(read) if s.index == i] for i in (0, 1)]
    assert numbers == [[6, 7, *range(10, 20)], [*range(4, 8), *range(10, 21)]]
    choose_images(read, (10, 12), [])
    assert [s.key for s in stills_of(read)] == [(i, k) for i in (0, 1) for k in (9, 10, 11)]


@pytest.mark.parametrize(
    "image_range, excluded, message",
    [
        ((1, 40), [], "image_range=1,40 is outside of experiment 0, whose images are 6 to 25"),
        ((12, 8), [], "outside"),
        (None, ["1:3"], "exclude_images=1:3 is outside"),
        (None, ["6:25"], "leave no image"),
        (None, ["seven"], "neither start:end nor"),
        (None, ["4:6:7"], "there are 1 experiments"),
    ],
)
def test_ranges_that_make_no_sense(image_range, excluded, message):
    with pytest.raises(ValueError, match=message):
        choose_images(ExperimentList([sweep(6)]), image_range, excluded)


def test_models_that_do_not_fit_the_scan():
    short = sweep(imageset_images=N - 2)
    with pytest.raises(ValueError, match="images 1 to 20, its imageset only 1 to 18"):
        stills_of([short])
    experiment = vary(sweep(n=N - 2))
    experiment.scan, experiment.imageset = sweep().scan, sweep().imageset
    with pytest.raises(ValueError, match="19 scan points, its scan 20 images"):
        stills_of([experiment])
    experiment = sweep()
    experiment.goniometer = None
    with pytest.raises(ValueError, match="without a goniometer"):
        stills_of([experiment])


def test_exposure_times_of_zero_are_those_of_the_first_image(caplog):
    experiments = ExperimentList([sweep()])
    times = [0.2] + [0.0] * (N - 2) + [0.3]
    experiments[0].scan.set_exposure_times(times)
    assert exposure_time(experiments[0], 5, None, 5) == pytest.approx(0.2)
    assert exposure_time(experiments[0], N - 1, None, N - 1) == pytest.approx(0.3)
    with caplog.at_level("WARNING", logger="dials.diffuse"):
        fill_exposure_times(experiments)
    assert list(experiments[0].scan.get_exposure_times()) == pytest.approx([0.2] * (N - 1) + [0.3])
    assert "18 images of sweep 0 have no exposure time" in caplog.text
