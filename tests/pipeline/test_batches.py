from __future__ import annotations

import json

import numpy as np
import pytest
from pipelines import write_contents

from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment

from dials_diffuse.geometry.panel import compute_panel
from dials_diffuse.geometry.settings import GeometrySettings
from dials_diffuse.io.batches import MOST_ROWS
from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.pipeline.batches import (
    automatic_batch_size,
    check_beams_of_files,
    index_batch_size,
    most_stills_of_a_batch,
    plan_portions,
    stills_of_files,
)


def test_batches_are_smaller_for_larger_detectors():
    assert automatic_batch_size(10_000) == 500
    assert automatic_batch_size(6_200_000) == 80
    assert automatic_batch_size(10**9) == 10


@pytest.mark.parametrize(
    "subdivide, d_min", [((3, 3, 3), None), ((5, 5, 5), 2.0), ((30, 30, 30), None)]
)
def test_a_batch_holds_no_more_stills_than_fit_into_a_file(subdivide, d_min):
    experiment = Experiment(
        beam=BeamFactory.simple(1.0),
        detector=DetectorFactory.simple(
            "PAD", 150, (100, 100), "+x", "-y", (0.4, 0.4), (500, 500), (-1, 1e6)
        ),
        crystal=Crystal((58, 0, 0), (10, 60, 0), (0, 5, 150), "P 1"),
    )
    most = most_stills_of_a_batch(experiment, subdivide, d_min)
    # Count what a still has, its Bragg rows apart, as the kernel does
    settings = default_settings(GeometrySettings)
    q = compute_panel(experiment.detector[0], experiment.beam, settings).q.reshape(-1, 3)
    if d_min:
        q = q[np.linalg.norm(q, axis=1) <= 1 / d_min]
    h = q @ np.linalg.inv(np.array(experiment.crystal.get_A()).reshape(3, 3)).T * subdivide
    n_rows = len(np.unique(np.floor(h + 0.5), axis=0))
    assert MOST_ROWS / most >= n_rows
    # and not many times fewer than fit
    assert MOST_ROWS / most < 5 * n_rows


def test_images_are_indexed_in_batches_that_processes_can_share():
    assert [index_batch_size(n) for n in (1, 15, 160, 5000)] == [4, 4, 10, 50]


@pytest.mark.parametrize(
    "numbers, size, expected",
    [
        ([3], 2, [([0], [2, 1])]),
        ([1, 1, 1], 2, [([0, 1], [2]), ([2], [1])]),
        ([5, 1, 2], 2, [([0], [2, 2, 1]), ([1], [1]), ([2], [2])]),
        ([2, 2], 10, [([0, 1], [4])]),
    ],
)
def test_small_files_are_joined_and_large_ones_split(numbers, size, expected):
    keys = [[(file, image) for image in range(n)] for file, n in enumerate(numbers)]
    assert [(p.files, p.batches) for p in plan_portions(keys, size)] == expected


def test_lattices_of_an_image_are_in_one_batch():
    (portion,) = plan_portions([["a", "a", "a", "b"]], 2)
    assert portion.batches == [3, 1]


def test_stills_of_files(tmp_path):
    first = write_contents(tmp_path / "a.expt", ["1", "2"], ["x.cbf", "y.cbf"])
    second = write_contents(tmp_path / "b.expt", ["3"], ["z.cbf"], n_fast=20)
    stills = stills_of_files([first, second], tmp_path)
    assert (stills.number, stills.n_pixels, stills.shared) == (3, 200, False)
    second = write_contents(tmp_path / "b.expt", ["3"], ["y.cbf"])
    assert stills_of_files([first, second], tmp_path).shared
    second = write_contents(tmp_path / "b.expt", ["2"], ["z.cbf"])
    with pytest.raises(ValueError, match=r"b.expt holds an experiment that a.expt holds too \(2\)"):
        stills_of_files([first, second], tmp_path)


def test_beams_are_checked_before_the_work(tmp_path):
    beams = [{"direction": [0, 0, 1], "wavelength": 0.97, "polarization_fraction": 2.0}]
    path = tmp_path / "a.expt"
    path.write_text(json.dumps({"experiment": [{"beam": 0}], "beam": beams}))
    pairs = [("a.expt", "a.refl")]
    check_beams_of_files(pairs, tmp_path, polarization=False)
    with pytest.raises(ValueError, match="fraction of the beam is 2"):
        check_beams_of_files(pairs, tmp_path, polarization=True)
    # of electrons it is not used
    beams[0]["wavelength"] = 0.0251
    path.write_text(json.dumps({"experiment": [{"beam": 0}], "beam": beams}))
    check_beams_of_files(pairs, tmp_path, polarization=True)
