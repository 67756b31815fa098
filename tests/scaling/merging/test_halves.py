"""Half sets: what is dealt as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Beam, Crystal, Experiment
from dxtbx.model.experiment_list import ExperimentList
from scitbx import matrix

from dials_diffuse.scaling.merging.halves import N_GROUPS, crystal_of, deal, image_of


def stills(angles, images=None, seed=0):
    """Crystals that have turned about an axis by angles (degrees), on images of these numbers"""
    experiments = ExperimentList()
    for number, angle in enumerate(angles):
        crystal = Crystal((20, 0, 0), (0, 24, 0), (0, 0, 28), "P222")
        turn = matrix.col((0, 1, 0.2)).axis_and_angle_as_r3_rotation_matrix(angle, deg=True)
        crystal.set_U(turn.elems)
        imageset = None
        if images is not None:
            imageset = ImageSetFactory.make_imageset(
                ["/a/x.h5"], check_format=False, single_file_indices=[images[number]]
            )
        experiments.append(
            Experiment(beam=Beam((0, 0, 1), 1.0), crystal=crystal, imageset=imageset)
        )
    return experiments


def serial(n, images=None):
    """Stills of as many crystals in any orientation"""
    return stills(np.cumsum(np.random.default_rng(2).uniform(20, 100, n)), images)


def runs(*lengths):
    """Stills of crystals that each turn in steps of one degree"""
    angles = [50 * number + step for number, n in enumerate(lengths) for step in range(n)]
    return stills(angles)


def test_lattices_of_one_image_share_its_number():
    assert image_of(serial(5, [3, 3, 8, 3, 1])).tolist() == [0, 0, 1, 0, 2]
    # without images each still is one of its own
    assert image_of(serial(3)).tolist() == [0, 1, 2]


def test_crystals_are_runs_of_stills_that_turn_little():
    assert crystal_of(runs(6, 9, 5)).tolist() == 6 * [0] + 9 * [1] + 5 * [2]
    assert crystal_of(runs(30)) is None
    assert crystal_of(serial(30)) is None
    # too many that are no run
    assert crystal_of(runs(6, 2, 2, 2)) is None


def test_halves_are_of_the_stills_that_are_used():
    used = np.array([False, True] * 8)
    experiments = serial(16)
    for seed in range(5):
        halves = deal(experiments, used, seed)
        assert np.bincount(halves.half[used]).tolist() == [4, 4]
        assert halves.unit == "image" and halves.n_units == 8
    assert (halves.half == deal(experiments, used, seed).half).all()
    assert len({tuple(deal(experiments, used, seed).half) for seed in range(5)}) > 1


def test_lattices_of_one_image_stay_together():
    images = np.repeat(np.arange(12), [1, 2, 3] * 4)
    halves = deal(serial(24, images.tolist()), np.ones(24, dtype=bool), 1)
    for column in (halves.half, halves.group):
        assert all(len(np.unique(column[images == image])) == 1 for image in range(12))
    assert halves.n_units == 12


def test_stills_of_one_crystal_stay_together():
    used = np.ones(60, dtype=bool)
    halves = deal(runs(5, 10, 20, 25), used, 1)
    assert halves.unit == "crystal" and halves.n_units == 4
    for first, last in ((0, 5), (5, 15), (15, 35), (35, 60)):
        assert np.ptp(halves.half[first:last]) == np.ptp(halves.group[first:last]) == 0
    # the two largest crystals in different halves
    assert halves.half[15] != halves.half[35]
    # only one of the crystals is used: its images are dealt
    used[20:] = False
    used[:15] = False
    assert deal(runs(5, 10, 20, 25), used, 1).unit == "image"


@pytest.mark.parametrize("n", [10, 47])
def test_groups_hold_about_as_many_stills(n):
    halves = deal(serial(n), np.ones(n, dtype=bool), 1)
    counts = np.bincount(halves.group, minlength=N_GROUPS)
    assert len(counts) == N_GROUPS and np.ptp(counts) <= 1
