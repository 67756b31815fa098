from __future__ import annotations

import numpy as np
import pytest
from synthetic_scaling import scale_settings

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Crystal, Experiment
from dxtbx.model.experiment_list import ExperimentList
from dxtbx.model.goniometer import GoniometerFactory
from dxtbx.model.scan import ScanFactory
from scitbx import matrix

from dials_diffuse.scaling.refinement.order import (
    angles,
    check_intervals,
    image_numbers,
    p_order_of,
)


def stills_of(*images):
    """Experiments of images (path, index in the file or None)"""
    experiments = ExperimentList()
    for path, index in images:
        imageset = ImageSetFactory.make_imageset(
            [path], check_format=False, single_file_indices=None if index is None else [index]
        )
        experiments.append(Experiment(imageset=imageset))
    return experiments


def turned(degrees, axis=(0, 1, 0.2), wobble=0.0):
    """Stills of a crystal that has turned by these angles"""
    rng = np.random.default_rng(0)
    experiments = ExperimentList()
    start = matrix.col((1, 2, 3)).axis_and_angle_as_r3_rotation_matrix(50, deg=True)
    for angle in degrees:
        crystal = Crystal((20, 0, 0), (0, 24, 0), (0, 0, 28), "P222")
        error = matrix.col(rng.normal(0, 1, 3)).axis_and_angle_as_r3_rotation_matrix(
            wobble, deg=True
        )
        turn = matrix.col(axis).axis_and_angle_as_r3_rotation_matrix(angle, deg=True)
        crystal.set_U((error * turn * start).elems)
        experiments.append(Experiment(crystal=crystal))
    return experiments


def series_settings(**values):
    return scale_settings(series=values).series


def p_order(experiments, order):
    return p_order_of(series_settings(order=order), experiments)


def test_order_of_the_input():
    np.testing.assert_array_equal(p_order_of(series_settings(), 4 * [None]), [0, 1, 2, 3])


def test_image_numbers_of_names_and_of_one_file():
    names = stills_of(("/a/x1_0007.cbf", None), ("/a/x1_0012.cbf", None), ("/a/x1_0003.cbf", None))
    np.testing.assert_array_equal(p_order(names, "image_number"), [7, 12, 3])
    # two lattices of one image have its number
    lattices = stills_of(("/a/x_0007.cbf", None), ("/a/x_0007.cbf", None), ("/a/x_0003.cbf", None))
    np.testing.assert_array_equal(p_order(lattices, "image_number"), [7, 7, 3])
    one_file = stills_of(("/a/x1.h5", 4), ("/a/x1.h5", 2), ("/a/x1.h5", 90))
    np.testing.assert_array_equal(p_order(one_file, "image_number"), [4, 2, 90])


def test_image_numbers_that_there_are_not():
    with pytest.raises(ValueError, match="several files of many images"):
        image_numbers(stills_of(("/a/1.h5", 0), ("/a/1.h5", 1), ("/a/2.h5", 0)))
    with pytest.raises(ValueError, match="no number in the name of the image /a/y.cbf"):
        image_numbers(stills_of(("/a/x_1.cbf", None), ("/a/y.cbf", None)))
    with pytest.raises(ValueError, match="Experiment 1 has no image"):
        experiments = stills_of(("/a/x_1.cbf", None))
        experiments.append(Experiment())
        image_numbers(experiments)


@pytest.mark.parametrize("axis", [(0, 1, 0.2), (-1, 0, 0)])
def test_angles_of_a_rotation_series(axis):
    # uneven steps, more than one turn
    truth = np.cumsum(np.tile((0.0, 1.0, 2.5, 40.0), 12))
    np.testing.assert_allclose(p_order(turned(truth, axis), "angle"), truth, atol=1e-6)
    found = p_order(turned(truth, axis, wobble=0.1), "angle")
    np.testing.assert_allclose(found, truth, atol=1.0)
    # the sense of rotation does not matter, only the order
    np.testing.assert_allclose(p_order(turned(-truth, axis), "angle"), truth, atol=1e-6)


def test_angles_of_one_image_scans():
    """All have the same crystal, which their goniometers turn"""
    truth = np.array([0.0, 1.0, 2.5, 40.0, 41.0])
    crystal = turned([0.0])[0].crystal
    goniometer = GoniometerFactory.known_axis((1, 0, 0))
    experiments = ExperimentList()
    for angle in truth:
        scan = ScanFactory.make_scan((1, 1), 0.1, (angle, 0.2), {1: 0.0})
        experiments.append(Experiment(crystal=crystal, goniometer=goniometer, scan=scan))
    np.testing.assert_allclose(p_order(experiments, "angle"), truth, atol=1e-6)


def test_angles_of_anything_else():
    rng = np.random.default_rng(0)
    experiments = turned(np.arange(8.0))
    for experiment in experiments:
        turn = matrix.col(rng.normal(0, 1, 3)).axis_and_angle_as_r3_rotation_matrix(50, deg=True)
        experiment.crystal.set_U((turn * matrix.sqr(experiment.crystal.get_U())).elems)
    with pytest.raises(ValueError, match="not those of one crystal that turns about one axis"):
        angles(experiments)
    experiments.append(Experiment())
    with pytest.raises(ValueError, match="Experiment 8 has no crystal"):
        angles(experiments)


def test_numbers_of_a_file(tmp_path):
    path = tmp_path / "dose.txt"
    path.write_text("# MGy\n0.5, 1.5 2\n-3e-1\n")
    settings = series_settings(p_order_file=path)
    np.testing.assert_array_equal(p_order_of(settings, 4 * [None]), [0.5, 1.5, 2, -0.3])
    with pytest.raises(ValueError, match="dose.txt holds 4 numbers for 5 stills"):
        p_order_of(settings, 5 * [None])
    path.write_text("1 2 x")
    with pytest.raises(ValueError, match="no number"):
        p_order_of(settings, 3 * [None])
    with pytest.raises(ValueError, match="Can't read"):
        p_order_of(series_settings(p_order_file=tmp_path / "absent"), 3 * [None])
    with pytest.raises(ValueError, match="not both"):
        p_order_of(series_settings(p_order=(1.0, 2.0), p_order_file=path), 2 * [None])


@pytest.mark.parametrize("name", ["intervals", "offset_intervals", "sensitivity_intervals"])
def test_more_intervals_than_the_stills_can_tell(name):
    different = np.array([0, 1, 1, 2, 3, 4.0])
    check_intervals(series_settings(**{name: 3}), different)
    check_intervals(series_settings(**{name: 2}), different[:4])
    with pytest.raises(
        ValueError, match=f"series.{name}=4 has 6 parameters .* 5 different p_order"
    ):
        check_intervals(series_settings(**{name: 4}), different)


@pytest.mark.parametrize(
    "p_order, message",
    [
        ((1.0, 2.0), "holds 2 numbers for 3 stills"),
        ((1.0, 2.0, float("nan")), "not finite"),
        ((1.0, 1.0, 1.0), "all the same"),
    ],
)
def test_bad_order_is_refused(p_order, message):
    with pytest.raises(ValueError, match=message):
        p_order_of(series_settings(p_order=p_order), 3 * [None])
