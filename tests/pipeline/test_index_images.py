"""The task that indexes images, without the indexing itself (tests/adapters/test_stills_processor.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dxtbx.model import Crystal, Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.stills_processor import ProcessedStills
from dials_diffuse.pipeline import index_images

OUTPUT = ("--output", "out.expt", "out.refl", "--json", "out.json", "--log", "out.log")


@pytest.fixture
def process(run_in_tmp_path, monkeypatch):
    """Arguments that process_stills was called with; it integrates as many stills as `n_stills` says."""
    calls, n_stills = [], [1]

    def process_stills(*args):
        calls.append(args)
        crystal = Crystal((30, 0, 0), (0, 40, 0), (0, 0, 50), "P 1")
        experiments = ExperimentList([Experiment(identifier="one", crystal=crystal)][: n_stills[0]])
        table = flex.reflection_table()
        table["id"] = flex.int(n_stills[0], 0)
        return ProcessedStills(experiments, table, {"b.cbf": "too few spots"})

    monkeypatch.setattr(index_images, "process_stills", process_stills)
    monkeypatch.setattr(index_images.dials.util.log, "config", lambda logfile: None)
    return calls, n_stills


def test_images_parameters_and_results(process):
    calls, _ = process
    Path("index.phil").write_text("indexing.known_symmetry.space_group=P1")
    index_images.run(["a.cbf", "b.cbf", "index.phil", *OUTPUT])
    ((images, phil, reference, part),) = calls
    assert images == [Path("a.cbf"), Path("b.cbf")]
    assert phil == "indexing.known_symmetry.space_group=P1"
    assert reference is None and part is None
    assert ExperimentList.from_file("out.expt", check_format=False).identifiers()[0] == "one"
    assert flex.reflection_table.from_file("out.refl").size() == 1
    assert json.loads(Path("out.json").read_text()) == {
        "stills": [{"image": "b.cbf", "error": "too few spots"}],
        "integrated": 1,
    }


def test_geometry_of_another_file_and_a_part_of_the_images(process):
    calls, _ = process
    crystal = Crystal((77, 0, 0), (0, 40, 0), (0, 0, 50), "P 1")
    ExperimentList([Experiment(crystal=crystal)]).as_file("reference.expt")
    index_images.run(["a.h5", *OUTPUT, "--reference", "reference.expt", "--part", "10", "20"])
    ((_, phil, reference, part),) = calls
    assert phil == "" and part == [10, 20]
    assert reference.crystal.get_unit_cell().parameters()[0] == pytest.approx(77)


def test_not_one_image(process):
    _, n_stills = process
    n_stills[0] = 0
    with pytest.raises(SystemExit, match="Not one image could be integrated: too few spots"):
        index_images.run(["b.cbf", *OUTPUT])
    # the reasons are there for the report, the files are not
    assert json.loads(Path("out.json").read_text())["integrated"] == 0
    assert not Path("out.expt").exists() and not Path("out.refl").exists()
