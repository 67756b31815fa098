"""Scaling models survive in the JSON copy."""

from __future__ import annotations

import json

import pytest

from cctbx import uctbx
from dxtbx.model import Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials_diffuse.grid.symmetry import laue_group_from_symbol
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid, grid_of
from dials_diffuse.io.model_copy import models_to_json, restore_models

GRID = VoxelGrid(
    (3, 3, 3), uctbx.unit_cell((20, 30, 40, 90, 90, 90)), laue_group_from_symbol("P222")
)


def test_lost_models_are_restored_by_identifier(tmp_path):
    before = ExperimentList([Experiment(identifier=name) for name in "ab"])
    attach_grid(before, GRID)
    path = tmp_path / "copy.json"
    path.write_text(json.dumps({"models": models_to_json(before)}))
    after = ExperimentList([Experiment(identifier=name) for name in "bc"])
    assert restore_models(after, path) == 1
    assert grid_of(after[:1]).to_dict() == GRID.to_dict()
    assert after[1].scaling_model is None and models_to_json(after).keys() == {"b"}
    # models that are there stay
    assert restore_models(after, path) == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json"])
def test_other_files(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match="is not a JSON file with the models"):
        restore_models(ExperimentList(), tmp_path / "other.json")
