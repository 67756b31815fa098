from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.command_line.diffuse_simulate import run

SMALL = [
    "stills=2",
    "nproc=1",
    "detector.image_size=60,60",
    "detector.pixel_size=2",
    "crystal.unit_cell=40,40,60,90,90,90",
]


def test_command_writes_all_files(run_in_tmp_path):
    run([*SMALL, "background.empty_shots=1", "output.json=numbers.json", "seed=4"])
    for name in ("simulated.expt", "background.expt"):
        assert ExperimentList.from_file(name)
    assert len(ExperimentList.from_file("simulated.expt")) == 2
    assert len(flex.reflection_table.from_file("simulated.refl")) > 0
    assert json.loads((run_in_tmp_path / "truth.json").read_text())["settings"]["seed"] == 4
    numbers = json.loads((run_in_tmp_path / "numbers.json").read_text())
    assert numbers["summary"]["images"] == 2
    assert {"simulated_image", "simulated_profiles"} <= set(numbers["plots"])
    assert "simulated_profiles" in (run_in_tmp_path / "dials.diffuse_simulate.html").read_text()
    log = (run_in_tmp_path / "dials.diffuse_simulate.log").read_text()
    assert "photons a pixel, mean" in log
    assert not list(run_in_tmp_path.glob(".*"))


def test_names_of_outputs(run_in_tmp_path):
    run(
        [
            *SMALL,
            "output.experiments=a.expt",
            "output.reflections=a.refl",
            "output.truth=a.json",
            "output.images=pictures",
            "output.html=None",
        ]
    )
    names = {path.name for path in run_in_tmp_path.iterdir()}
    assert names == {"a.expt", "a.refl", "a.json", "pictures", "dials.diffuse_simulate.log"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["crystal.space_group=P 6"], "does not fit space group"),
        (["format=cbf", "detector.type=tilted"], "format=nexus"),
        (["no_such_file.expt"], "No such file"),
        (["bragg.intensities=model", "bragg.model=missing.pdb"], "missing.pdb"),
        (["truth.composition=water"], "cannot be read"),
        (["truth.composition=C 3 Xx 1"], "Xx is no element"),
        (
            ["crystal.unit_cell=57,57,38,10,20,170"],
            "crystal.unit_cell (57.0, 57.0, 38.0, 10.0, 20.0, 170.0) is none",
        ),
        (["scale.values=0,0"], "nor all 0"),
        (["background.empty_shots=1", "background.empty_time=0"], "background.empty_time"),
        (["output.images=a_file/images"], "a_file"),
    ],
)
def test_bad_input_gets_one_line(run_in_tmp_path, arguments, message):
    (run_in_tmp_path / "a_file").write_text("not a folder")
    with pytest.raises(SystemExit) as error:
        run([*SMALL, *arguments])
    text = str(error.value)
    assert message in text
    assert "\n" not in text.strip()
    assert not (run_in_tmp_path / "simulated.expt").exists()


@pytest.mark.parametrize(
    "argument, message",
    [
        ("detector.type=round", "pilatus_6m"),
        ("stills=0", "stills"),
        ("crystal.domain_size=1", "domain_size"),  # more spots than anyone would wait for
        ("crystal.mosaicity=40", "mosaicity"),
    ],
)
def test_bad_values_are_refused(run_in_tmp_path, argument, message, capsys):
    # newer DIALS prints what is wrong and exits with 2, older raises it
    with pytest.raises(SystemExit) as error:
        run([*SMALL, argument])
    assert message in str(error.value) + capsys.readouterr().err
    assert error.value.code != 0
    assert not (run_in_tmp_path / "simulated.expt").exists()


@pytest.mark.skipif(shutil.which("dials.diffuse_simulate") is None, reason="not installed")
def test_installed_command(tmp_path):
    result = subprocess.run(
        [shutil.which("dials.diffuse_simulate"), *SMALL], cwd=tmp_path, capture_output=True
    )
    assert not result.returncode and not result.stderr
    assert (tmp_path / "simulated.refl").is_file()
    # DIALS itself opens what was written
    result = subprocess.run(
        [shutil.which("dials.show"), "simulated.expt", "simulated.refl"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert not result.returncode
    assert "P 43 21 2" in result.stdout
