"""dials.diffuse_simulate as a function: files by parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dxtbx.model import ExperimentList
from iotbx.phil import parse

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.phil.simulate import phil_scope
from dials_diffuse.simulation import workflow

SMALL = """
stills = 2
nproc = 1
detector {
  image_size = 60,60
  pixel_size = 2
}
crystal.unit_cell = 40,40,60,90,90,90
"""


def parameters(text=""):
    return phil_scope.fetch(parse(SMALL + text)).extract()


def test_all_files_of_a_simulation(run_in_tmp_path):
    params = parameters("output { html = None\n json = numbers.json }\nbackground.empty_shots = 1")
    result = workflow.run(Inputs([], []), params)
    output = params.output
    experiments = ExperimentList.from_file(output.experiments)
    table = flex.reflection_table.from_file(output.reflections)
    table.assert_experiment_identifiers_are_consistent(experiments)
    assert len(experiments) == 2 and len(table) == len(result.reflections) > 0
    assert len(ExperimentList.from_file(output.background)) == 1
    assert len(list(Path(output.images).iterdir())) == 3
    truth = json.loads(Path(output.truth).read_text())
    assert [still["scales"] for still in truth["stills"]] == [
        [still.lattices[0].scale] for still in result.simulator.stills
    ]
    numbers = json.loads(Path("numbers.json").read_text())
    assert numbers["summary"]["images"] == 2 and "simulated_image" in numbers["plots"]
    # no sequence of stills that are not of a rotation, and no report
    names = {path.name for path in run_in_tmp_path.iterdir()}
    assert output.sequence not in names and not any(name.endswith(".html") for name in names)


def test_parameters_reach_the_simulation(run_in_tmp_path):
    text = "output { html = None\n json = None }\nseed = 11\nscale.values = 0.5,1.5"
    result = workflow.run(Inputs([], []), parameters(text))
    assert result.simulator.settings.seed == 11
    assert [still.lattices[0].scale for still in result.simulator.stills] == [0.5, 1.5]


@pytest.mark.parametrize(
    "inputs", [Inputs([DataPair(Path("a.expt"))], []), Inputs([], [Path("a")])]
)
def test_files_are_refused(run_in_tmp_path, inputs):
    with pytest.raises(ValueError, match="parameters only"):
        workflow.run(inputs, parameters())
    assert not list(run_in_tmp_path.iterdir())
