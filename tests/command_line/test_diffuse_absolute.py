from __future__ import annotations

import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import synthetic_crystal

from dxtbx.model.experiment_list import ExperimentListFactory

from dials.array_family import flex

from dials_diffuse.absolute.wilson import NodeIntegrator
from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.adapters.tables import as_numpy, double_column, int_column, miller_index_column
from dials_diffuse.command_line.diffuse_absolute import run

FORMULA = f"composition.formula={synthetic_crystal.FORMULA}"


@pytest.fixture(scope="module")
def data():
    return synthetic_crystal.SyntheticCrystal()


@pytest.fixture
def files(data, run_in_tmp_path):
    return data.save(run_in_tmp_path)


def test_electrons_squared_per_unit_cell(data, files, run_in_tmp_path):
    result = subprocess.run(
        [shutil.which("dials.diffuse_absolute"), *files, FORMULA, "output.json=numbers.json"],
        cwd=run_in_tmp_path,
        capture_output=True,
        text=True,
    )
    assert not result.returncode and not result.stderr
    assert "Krogh-Moe (1956)" in result.stdout
    numbers = json.loads((run_in_tmp_path / "numbers.json").read_text())
    assert numbers["method"] == "high_q"
    assert numbers["scale"] == pytest.approx(5.0, rel=0.01)
    assert numbers["estimates"]["wilson"]["scale"] == pytest.approx(5.0, rel=0.05)
    assert abs(numbers["scale"] - 5.0) < 3 * numbers["error"]
    table = flex.reflection_table.from_file(str(run_in_tmp_path / "diffuse_absolute.refl"))
    intensity = as_numpy(table["intensity"])
    slope, offset = np.polyfit(data.truth, intensity, 1)
    assert slope == pytest.approx(1.0, abs=0.01)
    assert abs(offset) < 0.02 * data.truth.mean()
    assert set(data.merged.keys()) < set(table.keys()) and "incoherent" in table
    experiments = ExperimentListFactory.from_json_file(
        str(run_in_tmp_path / "diffuse_absolute.expt"), check_format=False
    )
    for before, after in zip(data.experiments, experiments):
        old, new = (e.scaling_model.components["scale"].parameters[0] for e in (before, after))
        assert old / new == pytest.approx(numbers["scale"])
        assert after.scaling_model.configdict["grid"] == data.grid.to_dict()
    html = (run_in_tmp_path / "dials.diffuse_absolute.html").read_text()
    for plot in ("absolute_profiles", "absolute_scan", "wilson"):
        assert plot in html and plot in numbers["plots"]
    assert set(numbers["models"]) == {e.identifier for e in experiments}


def test_map_volume(data, files, run_in_tmp_path):
    from dials_diffuse.io.maps.map_file import read_map

    run([*files, FORMULA])
    found = read_map(run_in_tmp_path / "diffuse_absolute.h5")
    table = flex.reflection_table.from_file("diffuse_absolute.refl")
    voxel, values = found.measured()
    lookup = {tuple(v): x for v, x in zip(voxel.tolist(), values["incoherent"])}
    for v, x in list(zip(as_numpy(table["voxel"]).tolist(), as_numpy(table["incoherent"])))[::500]:
        assert lookup[tuple(v)] == pytest.approx(x, rel=1e-5)
    assert found.units["intensity"] == "electrons^2 per unit cell"


def test_scale_by_hand(data, files):
    run([*files, FORMULA, "scale=2.5", "output.map=None", "output.html=None"])
    table = flex.reflection_table.from_file("diffuse_absolute.refl")
    expected = 2.5 * as_numpy(data.merged["intensity"]) - as_numpy(table["incoherent"])
    assert as_numpy(table["intensity"]) == pytest.approx(expected)
    assert not pathlib.Path("diffuse_absolute.h5").exists()
    assert not pathlib.Path("dials.diffuse_absolute.html").exists()


def test_sequence_longer_than_a_file_name(files):
    run(
        [
            *files,
            f"composition.sequence={75 * 'GAVL'}",
            "scale=2.5",
            "output.map=None",
            "output.html=None",
        ]
    )
    assert "sequence of 300 residues" in pathlib.Path("dials.diffuse_absolute.log").read_text()


def integrated_reflections(data, n):
    """The first nodes of the grid as if they had been integrated on the first still"""
    integrator = NodeIntegrator(data.grid)
    integrator.add(stills_of(data.experiments), data.table)
    nodes = integrator.nodes()
    rows = np.flatnonzero((nodes.q > 0.35) & (nodes.intensity > 0))[:n]
    table = flex.reflection_table()
    table["id"] = int_column(np.zeros(len(rows)))
    table["miller_index"] = miller_index_column(nodes.miller_index[rows])
    table["intensity.sum.value"] = double_column(3 * nodes.intensity[rows])
    table["intensity.sum.variance"] = double_column(np.ones(len(rows)))
    table.experiment_identifiers()[0] = data.experiments[0].identifier
    table.as_file("integrated.refl")


def test_integrated_reflections_are_compared(data, files):
    integrated_reflections(data, 500)
    run([*files, FORMULA, "wilson.reflections=integrated.refl", "output.json=a.json"])
    found = json.loads(pathlib.Path("a.json").read_text())["integrated"]
    assert found["common"] == 500 and found["partiality"] == "absent"
    assert found["correlation"] == pytest.approx(1)


def test_integrated_reflections_that_tell_nothing_do_not_stop_it(data, files):
    integrated_reflections(data, 5)
    run([*files, FORMULA, "wilson.reflections=integrated.refl", "output.json=a.json"])
    numbers = json.loads(pathlib.Path("a.json").read_text())
    assert numbers["integrated"] is None and numbers["scale"] == pytest.approx(5.0, rel=0.01)
    assert any("Only 5 integrated reflections" in warning for warning in numbers["warnings"])
    assert pathlib.Path("diffuse_absolute.refl").is_file()


def test_wilson(files):
    run([*files, FORMULA, "method=wilson", "output.json=w.json"])
    numbers = json.loads(pathlib.Path("w.json").read_text())
    assert numbers["method"] == "wilson"
    assert numbers["scale"] == pytest.approx(5.0, rel=0.05)


def test_many_pairs_give_the_same_as_one(data, files):
    run([*files, FORMULA, "output.json=one.json"])
    names = []
    for first in (0, 3):
        part = data.experiments[first : first + 3]
        part.as_file(f"part{first}.expt")
        ids = as_numpy(data.table["id"])
        table = data.table.select(flex.bool(((ids >= first) & (ids < first + 3)).tolist()))
        for number in list(table.experiment_identifiers().keys()):
            del table.experiment_identifiers()[number]
        table["id"] = table["id"] - first
        for i, experiment in enumerate(part):
            table.experiment_identifiers()[i] = experiment.identifier
        table.as_file(f"part{first}.refl")
        names += [f"part{first}.expt", f"part{first}.refl"]
    run([*names, files[2], FORMULA, "output.json=two.json"])
    one, two = (json.loads(pathlib.Path(n).read_text()) for n in ("one.json", "two.json"))
    assert two["scale"] == pytest.approx(one["scale"])
    assert two["error"] == pytest.approx(one["error"])
    assert len(two["models"]) == len(one["models"]) == 6


def test_lost_models_come_from_json(data, files):
    models = {e.identifier: e.scaling_model.to_dict() for e in data.experiments}
    pathlib.Path("scale.json").write_text(json.dumps({"models": models}))
    stripped = ExperimentListFactory.from_json_file(files[0], check_format=False)
    for experiment in stripped:
        experiment.scaling_model = None
    stripped.as_file("stripped.expt")
    with pytest.raises(SystemExit, match="carries no grid"):
        run(["stripped.expt", *files[1:], FORMULA])
    run(["stripped.expt", *files[1:], "scale.json", FORMULA])
    assert pathlib.Path("diffuse_absolute.refl").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "composition of the unit cell is needed"),
        ([FORMULA, "composition.sequence=ACDE"], "composition of the unit cell is needed"),
        (["composition.formula=C 10 Qq 3"], "Unknown element 'Qq'"),
        (["composition.formula=C 0"], "no atoms"),
        ([FORMULA, "composition.copies=0"], "copies must be more than 0"),
        (["composition.sequence=ABZ"], "no amino acid"),
        (["composition.sequence=absent.fasta"], "No such file"),
        (["composition.sequence=acde"], "No such file: acde"),
        (["composition.model=absent.pdb"], "Can't read the model"),
        ([FORMULA, "total_scattering.q_max=0.3"], "too short a range"),
        ([FORMULA, "method=wilson", "wilson.q_max=0.3"], "needs a range"),
        ([FORMULA, "scale=0"], "must be positive"),
        ([FORMULA, "wilson.reflections=absent.refl"], "No such file: absent.refl"),
        ([FORMULA, "output.reflections=absent/a.refl"], "Can't write"),
    ],
)
def test_bad_input(files, arguments, message):
    with pytest.raises(SystemExit, match=message) as error:
        run([*files, *arguments])
    assert str(error.value).count("\n") == 0
    assert not pathlib.Path("diffuse_absolute.refl").exists()


def test_merged_maps_of_other_runs(files):
    run([*files, FORMULA])
    with pytest.raises(SystemExit, match="on the absolute scale already"):
        run([*files[:2], "diffuse_absolute.refl", FORMULA, "output.reflections=again.refl"])
    merged = flex.reflection_table.from_file(files[2])
    merged["hkl"] = merged["hkl"] * 3.0
    merged.as_file("finer.refl")
    with pytest.raises(SystemExit, match="made on another grid"):
        run([*files[:2], "finer.refl", FORMULA, "output.reflections=again.refl"])
    assert not pathlib.Path("again.refl").exists()


def test_files_missing(files):
    with pytest.raises(SystemExit, match="None of the .refl files is a merged map"):
        run([*files[:2], FORMULA])
    with pytest.raises(SystemExit, match="0 .refl files of scaled observations"):
        run([files[0], files[2], FORMULA])
    with pytest.raises(SystemExit, match="0 .expt files"):
        run([files[1], files[2], FORMULA])


def test_the_same_still_in_two_pairs(files):
    with pytest.raises(SystemExit, match="give each still once"):
        run([*files[:2], *files, FORMULA])


def test_model_of_another_crystal(files):
    pathlib.Path("model.pdb").write_text(
        "CRYST1   30.000   30.000   30.000  90.00  90.00  90.00 P 1           1\n"
        "ATOM      1  N   GLY A   1       1.000   1.000   1.000  1.00 10.00           N\n"
    )
    with pytest.raises(SystemExit, match="is not that of the data"):
        run([*files, "composition.model=model.pdb"])


def test_background_left_in_is_told(run_in_tmp_path, capsys):
    crystal = synthetic_crystal.SyntheticCrystal(background=1.0)
    run([*crystal.save(run_in_tmp_path), FORMULA, "output.json=a.json"])
    numbers = json.loads(pathlib.Path("a.json").read_text())
    assert numbers["scale"] < 4.8
    assert any("background" in warning.lower() for warning in numbers["warnings"])


def test_negative_voxels_are_counted(data, files, capsys):
    table = data.merged.copy()
    intensity = as_numpy(table["intensity"]).copy()
    intensity[:25] = -1e3
    table["intensity"] = double_column(intensity)
    table.as_file("negative.refl")
    run([*files[:2], "negative.refl", FORMULA])
    assert "25 are negative" in pathlib.Path("dials.diffuse_absolute.log").read_text()
