"""Sweeps are converted to stills, and other files left alone."""

from __future__ import annotations

import pytest
from pipelines import make_run, write_contents

from dxtbx.model import BeamFactory, Crystal, Experiment, ExperimentList, Scan
from scitbx import matrix

from dials_diffuse.pipeline.steps.sweeps import convert_sweeps


def write_experiment(path, image_range, scan_points=None, crystal=True):
    """A .expt file with a scan, and a crystal that varies during it."""
    model = None
    if crystal:
        model = Crystal((30, 0, 0), (0, 40, 0), (0, 0, 50), "P 1")
        if scan_points:
            model.set_A_at_scan_points([matrix.sqr(model.get_A())] * scan_points)
    experiment = Experiment(
        identifier=path.stem,
        beam=BeamFactory.simple(1.0),
        crystal=model,
        scan=Scan(image_range, (0.0, 0.1)),
    )
    ExperimentList([experiment]).as_file(path)
    return (path.name, f"{path.stem}.refl")


def test_a_sweep_among_stills(tmp_path):
    pairs = [
        write_contents(tmp_path / "a.expt", ["1"], ["x.cbf"]),
        write_experiment(tmp_path / "b.expt", (1, 5), 6),
        # a scan of one image is a still
        write_experiment(tmp_path / "c.expt", (3, 3)),
    ]
    run = make_run(tmp_path)
    converted = convert_sweeps(run, pairs)
    assert converted == [pairs[0], ("stills_0002.expt", "stills_0002.refl"), pairs[2]]
    (task,) = run.executor.tasks
    assert task.module == "dials.command_line.sequence_to_stills"
    assert task.inputs == pairs[1] and task.outputs == converted[1]
    assert task.arguments == tuple(
        f"output.{name}={file}" for name, file in zip(("experiments", "reflections"), converted[1])
    )


def test_a_sweep_alone(tmp_path):
    run = make_run(tmp_path)
    pairs = [write_experiment(tmp_path / "a.expt", (1, 2), 3)]
    assert convert_sweeps(run, pairs) == [("stills.expt", "stills.refl")]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crystal": False}, "Experiment 0 of a.expt has no crystal"),
        ({}, "sweep without a scan-varying crystal"),
        ({"scan_points": 3}, "sweep without a scan-varying crystal"),
    ],
)
def test_sweeps_that_can_not_be_converted(tmp_path, options, message):
    pairs = [write_experiment(tmp_path / "a.expt", (1, 5), **options)]
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match=message):
        convert_sweeps(run, pairs)
    assert not run.executor.tasks
