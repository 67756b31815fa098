"""Bad input ends with one clear line and an exit code that is not 0, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from commands import run_command

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three small stills with mask and observations, made once; tests copy them."""
    folder = tmp_path_factory.mktemp("small")
    for arguments in (
        [
            "dials.diffuse_simulate",
            "stills=3",
            "detector.image_size=100,100",
            "detector.pixel_size=1.2",
        ],
        ["dials.diffuse_mask", "simulated.expt", "simulated.refl", "nproc=1"],
        ["dials.diffuse_extract", "diffuse_masked.expt", "diffuse_masked.refl", "nproc=1"],
        ["dials.diffuse_grid", "diffuse_extracted.expt", "diffuse_extracted.refl"],
    ):
        result = run_command(folder, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture
def folder(small, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    for path in copy.glob("*.expt"):
        path.write_text(path.read_text().replace(str(small), str(copy)))
    return copy


def fails(folder, *arguments):
    """The one line with which a command ends that must fail; it must leave all data files as they were."""
    before = contents(folder)
    result = run_command(folder, *arguments)
    assert result.returncode != 0, result.stdout
    message = result.stderr.strip()
    assert message and len(message.splitlines()) == 1, result.stderr
    assert "Traceback" not in message
    assert contents(folder) == before
    return message


def contents(folder) -> dict[str, bytes]:
    """The data files of a folder; logs, reports and hidden files left out"""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file()
        and path.suffix not in (".log", ".html", ".json")
        and not path.name.startswith(".")
    }


def change_expt(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("step, stem", [("mask", "simulated"), ("extract", "diffuse_masked")])
def test_missing_images(folder, step, stem):
    shutil.rmtree(folder / "images")
    message = fails(folder, f"dials.diffuse_{step}", f"{stem}.expt", f"{stem}.refl")
    assert "images" in message


def test_truncated_image_is_named_and_the_others_go_on(folder):
    image = sorted((folder / "images").iterdir())[1]
    image.write_bytes(image.read_bytes()[:2000])
    result = run_command(
        folder, "dials.diffuse_extract", "diffuse_masked.expt", "diffuse_masked.refl", "nproc=1"
    )
    assert result.returncode == 0, result.stderr
    assert image.name in result.stdout
    table = flex.reflection_table.from_file(str(folder / "diffuse_extracted.refl"))
    assert set(table["id"]) == {0, 2}


def test_all_images_truncated(folder):
    for image in (folder / "images").iterdir():
        image.write_bytes(image.read_bytes()[:2000])
    message = fails(folder, "dials.diffuse_extract", "diffuse_masked.expt", "diffuse_masked.refl")
    assert "image" in message


def test_reflections_of_other_experiments(folder):
    change_expt(
        folder / "simulated.expt",
        lambda content: content["experiment"][1].update(identifier="somebody-else"),
    )
    message = fails(folder, "dials.diffuse_mask", "simulated.expt", "simulated.refl")
    assert "match" in message


@pytest.mark.parametrize("step, stem", [("mask", "simulated"), ("extract", "diffuse_masked")])
def test_no_crystal(folder, step, stem):
    change_expt(folder / f"{stem}.expt", lambda content: content["experiment"][0].pop("crystal"))
    message = fails(folder, f"dials.diffuse_{step}", f"{stem}.expt", f"{stem}.refl")
    assert "no crystal" in message


@pytest.mark.parametrize("step", ["extract", "grid", "scale"])
def test_no_reflections(folder, step):
    stem = {"extract": "masked", "grid": "extracted", "scale": "gridded"}[step]
    message = fails(folder, f"dials.diffuse_{step}", f"diffuse_{stem}.expt")
    assert ".refl" in message or "reflection" in message


@pytest.mark.parametrize(
    "step, stem", [("grid", "diffuse_extracted"), ("scale", "diffuse_gridded")]
)
def test_empty_table(folder, step, stem):
    table = flex.reflection_table.from_file(str(folder / f"{stem}.refl"))
    table = table.select(flex.bool(table.size(), False))
    table.as_file(str(folder / f"{stem}.refl"))
    fails(folder, f"dials.diffuse_{step}", f"{stem}.expt", f"{stem}.refl")


@pytest.mark.parametrize("step, stem", [("mask", "simulated"), ("extract", "diffuse_masked")])
def test_different_space_groups(folder, step, stem):
    change_expt(
        folder / f"{stem}.expt",
        lambda content: content["crystal"][0].update(space_group_hall_symbol=" P 2yb"),
    )
    message = fails(folder, f"dials.diffuse_{step}", f"{stem}.expt", f"{stem}.refl")
    assert "space group" in message


@pytest.mark.parametrize(
    "step, stem",
    [("extract", "diffuse_masked"), ("grid", "diffuse_extracted"), ("scale", "diffuse_gridded")],
)
def test_the_same_pair_twice(folder, step, stem):
    message = fails(folder, f"dials.diffuse_{step}", *[f"{stem}.expt", f"{stem}.refl"] * 2)
    assert "give each still once" in message


def test_no_exposure_time(folder):
    for image in (folder / "images").iterdir():
        content = image.read_bytes()
        assert b"# Exposure_period 0.1" in content
        image.write_bytes(content.replace(b"# Exposure_period 0.1", b"# Exposure_period 0.0"))
    message = fails(folder, "dials.diffuse_extract", "diffuse_masked.expt", "diffuse_masked.refl")
    assert "exposure_time" in message


@pytest.mark.parametrize(
    "step, stem",
    [
        ("mask", "simulated"),
        ("extract", "diffuse_masked"),
        ("grid", "diffuse_extracted"),
        ("scale", "diffuse_gridded"),
    ],
)
@pytest.mark.parametrize("where", ["nowhere", "simulated.expt"])
def test_output_folder_that_can_not_be_written(folder, step, stem, where):
    """A folder that is not there, and a file in its place (permissions would not stop root)."""
    message = fails(
        folder,
        f"dials.diffuse_{step}",
        f"{stem}.expt",
        f"{stem}.refl",
        f"output.experiments={where}/out.expt",
        f"output.reflections={where}/out.refl",
    )
    assert where in message


def test_experiments_without_a_grid_say_who_lost_it(folder):
    experiments = ExperimentList.from_file(folder / "diffuse_gridded.expt", check_format=False)
    for experiment in experiments:
        experiment.scaling_model = None
    experiments.as_file(folder / "diffuse_gridded.expt")
    message = fails(folder, "dials.diffuse_scale", "diffuse_gridded.expt", "diffuse_gridded.refl")
    assert "plugin" in message and "output.json" in message


@pytest.mark.parametrize("step", ["mask", "extract", "grid", "scale", "absolute", "export"])
def test_arguments_that_are_nothing(folder, step):
    assert "colour=red" in fails(folder, f"dials.diffuse_{step}", "simulated.expt", "colour=red")
    assert "No such file" in fails(folder, f"dials.diffuse_{step}", "absent.expt")
    assert "notes.txt" in fails(folder, f"dials.diffuse_{step}", "simulated.expt", "notes.txt")


@pytest.mark.parametrize("step", ["mask", "extract", "grid", "scale", "absolute", "export"])
def test_a_process_ends_with_one_line(folder, step):
    """As above, but as a user sees it: standard error and exit code of a process."""
    result = subprocess.run(
        [f"dials.diffuse_{step}", "absent.expt"], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr == "Sorry: No such file: absent.expt\n"


def polychromatic(content):
    for beam in content["beam"]:
        del beam["wavelength"]
        beam |= {"__id__": "polychromatic", "wavelength_range": [0.9, 1.1], "probe": "x-ray"}


@pytest.mark.parametrize(
    "step, stem",
    [
        ("mask", "simulated"),
        ("extract", "diffuse_masked"),
        ("grid", "diffuse_extracted"),
        ("scale", "diffuse_gridded"),
        ("process", "simulated"),
    ],
)
def test_polychromatic_beam(folder, step, stem):
    change_expt(folder / f"{stem}.expt", polychromatic)
    message = fails(folder, f"dials.diffuse_{step}", f"{stem}.expt", f"{stem}.refl")
    assert f"{stem}.expt has a polychromatic beam" in message


def test_polychromatic_empty_shots(folder):
    shutil.copy(folder / "simulated.expt", folder / "background.expt")
    change_expt(folder / "background.expt", polychromatic)
    message = fails(
        folder,
        "dials.diffuse_extract",
        "diffuse_masked.expt",
        "diffuse_masked.refl",
        "background=background.expt",
    )
    assert "background.expt has a polychromatic beam" in message


@pytest.mark.parametrize("step, stem", [("extract", "diffuse_masked"), ("process", "simulated")])
@pytest.mark.parametrize(
    "change, what",
    [
        ({"polarization_normal": [0, 0, 1]}, "parallel"),
        ({"polarization_normal": [0, 0, 0]}, "normal of the beam is 0,0,0"),
        ({"polarization_fraction": -0.5}, "fraction of the beam is -0.5"),
    ],
)
def test_polarization_that_makes_no_sense(folder, step, stem, change, what):
    change_expt(folder / f"{stem}.expt", lambda content: content["beam"][0].update(change))
    message = fails(folder, f"dials.diffuse_{step}", f"{stem}.expt", f"{stem}.refl")
    assert what in message
