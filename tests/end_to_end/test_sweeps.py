"""Sweeps through mask, extract and grid: what must not change the observations, and what may be wrong with a sweep.

The images are simulated; what is compared are two ways of describing them, so that nothing rests on the simulation.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dxtbx.model import Goniometer
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory
from scitbx import matrix

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.command_line import diffuse_extract, diffuse_grid, diffuse_mask, diffuse_simulate

N = 8
FIXED = Rotation.from_rotvec([0.3, -2.0, 0.4])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        diffuse_simulate.run(
            [
                f"stills={N}",
                "crystal.orientation=rotation",
                "crystal.rotation_step=0.2",
                "detector.image_size=120,120",
                "detector.pixel_size=1.0",
                "output.html=None",
                "nproc=1",
            ]
        )
    return folder


@pytest.fixture
def sweep(simulated, run_in_tmp_path):
    """The sweep's experiments in a folder of its own, where the test runs"""
    return ExperimentList.from_file(str(simulated / "sequence.expt"))


def reduced(experiments, name, mask=(), extract=()):
    """The gridded (ExperimentList, table) of experiments; the table given has neither shoeboxes nor intensities."""
    Path(name).mkdir()
    files = [f"{name}/in.expt", f"{name}/in.refl"]
    for index, experiment in enumerate(experiments):
        experiment.identifier = experiment.identifier or f"{name}-{index}"
    experiments.as_file(files[0])
    table = flex.reflection_table.from_predictions(experiments[0], dmin=6.0)
    table["id"] = flex.int(table.size(), 0)
    table.experiment_identifiers()[0] = experiments[0].identifier
    table.as_file(files[1])
    done = ["output.html=None", "nproc=1"]

    def pair(step):
        return [f"{name}/{step}.expt", f"{name}/{step}.refl"]

    def outputs(step):
        files = [f"output.experiments={name}/{step}.expt", f"output.reflections={name}/{step}.refl"]
        return [*files, f"output.log={name}/{step}.log"]

    own = ["bragg.mosaicity=0.1", "bragg.domain_size=1000", f"output.mask={name}/pixels.mask"]
    own += ["bragg.other_spots=False", "dynamic.enable=False", "dynamic.shadow=False"]
    diffuse_mask.run([*files, *own, *outputs("masked"), *done, *mask])
    diffuse_extract.run([*pair("masked"), *outputs("extracted"), *done, *extract])
    diffuse_grid.run([*pair("extracted"), *outputs("gridded"), *done])
    expt, refl = pair("gridded")
    return (
        ExperimentList.from_file(expt, check_format=False),
        flex.reflection_table.from_file(refl),
    )


def same(one, two, shift=0.0):
    """Both have the same observations, to rounding, images of the second numbered higher by the shift."""
    assert len(one) == len(two) > 1000
    for name in ("voxel", "bragg", "counts", "num_pixels.valid"):
        assert np.array_equal(as_numpy(one[name]), as_numpy(two[name]))
    assert np.allclose(as_numpy(one["exposure"]), as_numpy(two["exposure"]), rtol=1e-6)
    positions = as_numpy(one["xyzobs.px.value"]) + [0, 0, shift]
    assert np.allclose(positions, as_numpy(two["xyzobs.px.value"]))


def test_a_sweep_stays_one_experiment_and_needs_no_shoeboxes(sweep):
    """Case 18"""
    experiments, table = reduced(sweep, "plain", extract=["block=1"])
    assert len(experiments) == 1 and experiments[0].scan.get_num_images() == N
    assert set(table["id"]) == {0}
    z = as_numpy(table["xyzobs.px.value"])[:, 2]
    assert sorted(set(z)) == [i + 0.5 for i in range(N)]


def test_fixed_and_setting_rotation_that_leave_the_orientation(sweep):
    """Case 1: S R F A is unchanged"""
    other = copy.deepcopy(sweep)
    axis = np.array(sweep[0].goniometer.get_rotation_axis())
    setting = Rotation.from_rotvec([0.2, 0.5, -0.3])
    flat = [tuple(map(float, r.as_matrix().ravel())) for r in (FIXED, setting)]
    other[0].goniometer = Goniometer(tuple(map(float, setting.inv().apply(axis))), *flat)
    a = np.array(sweep[0].crystal.get_A()).reshape(3, 3)
    moved = (FIXED.inv() * setting.inv()).as_matrix() @ a
    other[0].crystal.set_A(tuple(map(float, moved.ravel())))
    same(reduced(sweep, "plain")[1], reduced(other, "turned")[1])


@pytest.mark.parametrize("first", [3, 101])
def test_other_numbers_of_the_images(sweep, first):
    """Case 2"""
    names = []
    for i in range(N):
        names.append(f"again_{first + i:05d}.cbf")
        shutil.copy(sweep[0].imageset.get_path(i), names[-1])
    other = ExperimentListFactory.from_filenames(names)
    assert other[0].scan.get_image_range() == (first, first + N - 1)
    # headers round
    other[0].beam, other[0].detector = sweep[0].beam, sweep[0].detector
    other[0].crystal = copy.deepcopy(sweep[0].crystal)
    same(reduced(sweep, "plain")[1], reduced(other, "renumbered")[1], first - 1)


def test_static_and_scan_varying(sweep):
    """Case 3"""
    other = copy.deepcopy(sweep)
    points = [matrix.sqr(sweep[0].crystal.get_A())] * (N + 1)
    other[0].crystal.set_A_at_scan_points(points)
    same(reduced(sweep, "static")[1], reduced(other, "varying")[1])


def test_blocks_hold_what_their_images_do(sweep):
    singles = reduced(sweep, "singles", extract=["block=1"])[1]
    blocks = reduced(sweep, "blocks", extract=["block=4"])[1]
    assert len(blocks) < 0.5 * len(singles)
    for name in ("counts", "num_pixels.valid", "exposure"):
        sums = [as_numpy(table[name]).sum() for table in (singles, blocks)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-6)
    assert sorted(set(as_numpy(blocks["xyzobs.px.value"])[:, 2])) == pytest.approx([2.0, 6.0])


def test_sweeps_and_stills_together(sweep, simulated):
    stills = ExperimentList.from_file(str(simulated / "simulated.expt"))[:2]
    both = ExperimentList([sweep[0], *stills])
    for number, experiment in enumerate(both):
        experiment.identifier = f"both-{number}"
    # the stills are images of the sweep: to another experiment these are two lattices
    experiments, table = reduced(both, "both", mask=["bragg.multi_lattice=keep"])
    assert len(experiments) == 3 and set(table["id"]) == {0, 1, 2}


def test_chosen_images(sweep):
    table = reduced(sweep, "chosen", ["image_range=2,7", "exclude_images=4:5"], ["block=1"])[1]
    z = as_numpy(table["xyzobs.px.value"])[:, 2]
    assert sorted(set(z)) == [1.5, 2.5, 5.5, 6.5]


@pytest.mark.parametrize("block", [1, N])
def test_a_missing_image_is_listed_and_the_rest_goes_on(sweep, block):
    names = []
    for i in range(N):
        names.append(f"part_{1 + i:05d}.cbf")
        shutil.copy(sweep[0].imageset.get_path(i), names[-1])
    other = ExperimentListFactory.from_filenames(names)
    other[0].crystal = sweep[0].crystal
    Path(names[4]).unlink()
    table = reduced(other, "part", extract=[f"block={block}"])[1]
    assert names[4] in Path("part/extracted.log").read_text()
    z = as_numpy(table["xyzobs.px.value"])[:, 2]
    whole = [i + 0.5 for i in range(N) if i != 4]
    assert sorted(set(z)) == pytest.approx(whole if block == 1 else [np.mean(whole)])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["image_range=2,9"],
            "image_range=2,9 is outside of experiment 0, whose images are 1 to 8",
        ),
        (["exclude_images=9:12"], "exclude_images=9:12 is outside"),
        (["exclude_images=1:8"], "leave no image"),
    ],
)
def test_ranges_outside_end_with_one_line(sweep, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        reduced(sweep, "wrong", arguments)
    assert error.value.code not in (0, None)
    assert message in str(error.value.code) + "".join(capsys.readouterr())


def test_scan_points_of_other_images_end_with_one_line(sweep, capsys):
    points = [matrix.sqr(sweep[0].crystal.get_A())] * (N + 1)
    sweep[0].crystal.set_A_at_scan_points(points)
    sweep.as_file("long.expt")
    contents = json.loads(Path("long.expt").read_text())
    contents["crystal"][0]["A_at_scan_points"] = contents["crystal"][0]["A_at_scan_points"][:-2]
    Path("short.expt").write_text(json.dumps(contents))
    with pytest.raises(SystemExit) as error:
        diffuse_mask.run(["short.expt", "output.html=None"])
    text = str(error.value.code) + "".join(capsys.readouterr())
    assert "7 scan points" in text and "8 images" in text
