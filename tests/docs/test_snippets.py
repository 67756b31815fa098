"""The Python examples of docs/ run as they are, on four small simulated stills."""

from __future__ import annotations

import pathlib
import re
import shutil

import numpy as np
import pytest

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_snippets(page: str) -> dict:
    """Names that the examples of a page have left; each starts without those of the others"""
    found = _BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert len(found) > 1
    left: dict = {}
    for code in found:
        names: dict = {}
        exec(compile(code, page, "exec"), names)
        left |= names
    return left


def section(heading: str) -> str:
    """What is below a heading of the files page"""
    return (
        (DOCS / "files.md")
        .read_text(encoding="utf-8")
        .split(f"\n## {heading}")[1]
        .split("\n## ")[0]
    )


def documented(heading: str) -> set[str]:
    """Names in the first column of the table below a heading of the files page"""
    cells = re.findall(r"^\| (`[^|]*) \|", section(heading), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def columns(name: str) -> set[str]:
    return set(flex.reflection_table.from_file(name).keys())


@pytest.mark.slow
def test_examples(run_in_tmp_path):
    from dials_diffuse.command_line import diffuse_extract, diffuse_scale, diffuse_simulate

    diffuse_simulate.run(
        [
            "stills=4",
            "nproc=1",
            "detector.image_size=100,100",
            "detector.pixel_size=1.2",
            "exposure.mean_photons=20",
            "output.html=None",
            "output.experiments=integrated.expt",
            "output.reflections=integrated.refl",
        ]
    )
    result = run_snippets("python_api.md")["result"]
    assert (
        result.absolute == run_in_tmp_path / "diffuse_absolute.refl" and result.absolute.is_file()
    )
    assert pathlib.Path("run.html").is_file() and pathlib.Path("run.json").is_file()

    # what else the examples read
    diffuse_extract.run(
        [
            "diffuse_masked.expt",
            "diffuse_masked.refl",
            "output.pixels=pixels.h5",
            "nproc=1",
            "output.html=None",
        ]
    )
    shutil.copy("dials.diffuse_scale.json", "scale.json")
    left = run_snippets("files.md")
    assert set(left["good"][0].ravel()) == {True, False} and left["bragg"][0].any()
    assert left["scaled"][left["diffuse"]].mean() == pytest.approx(
        np.mean(left["merged"]["intensity"]), rel=0.3
    )
    assert len(left["b"]) == 4 and np.mean(left["b"]) == pytest.approx(1)
    assert left["grid"].subdivide == (1, 1, 1) and left["n"] == [1, 1, 1]
    assert np.isfinite(left["hk0"]).any()
    assert left["pixels"].q.shape == (len(left["pixels"]), 3)
    assert len(left["hkl"]) == len(left["merged"]["intensity"])
    assert left["units"] == "photons/(s sr)" and left["volume"].shape[0] == len(left["h"])
    assert -1 <= left["numbers"]["statistics"]["overall"]["cc_half_anisotropic"] <= 1

    # every column is described, and none that is not there
    assert documented("diffuse_masked.refl") == {*columns("diffuse_masked.refl"), "shoebox"}
    assert documented("Observations") == columns("diffuse_scaled.refl")
    assert documented("diffuse_merged.refl, ") == columns("diffuse_absolute.refl")
    assert columns("diffuse_absolute.refl") == {*columns("diffuse_merged.refl"), "incoherent"}
    (model,) = {type(e.scaling_model) for e in left["experiments"]}
    assert model.id_ == "diffuse"
    keys = {key for e in left["experiments"] for key in e.scaling_model.configdict}
    assert keys <= documented("The scaling model")

    diffuse_scale.run(
        [
            "diffuse_gridded.expt",
            "diffuse_gridded.refl",
            "series.intervals=1",
            "series.offset_intervals=2",
            "series.sensitivity_intervals=2",
            "offset=True",
            "sensitivity=True",
            "fit.min_observations_per_parameter=0.1",
            "output.html=None",
        ]
    )
    names = documented("The scaling model")
    for experiment in ExperimentList.from_file("diffuse_scaled.expt", check_format=False):
        config = experiment.scaling_model.configdict
        assert set(config) <= names
        for name in ("series", "offset_series", "sensitivity_series"):
            assert all(f"`{key}`" in section("The scaling model") for key in config[name])
