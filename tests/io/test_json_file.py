from __future__ import annotations

import json

import numpy as np
import pytest

from dials_diffuse.io.json_file import write_json


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    path = tmp_path / "a.json"
    write_json(
        path,
        {"a": [1.5, float("nan"), (np.float32(0.5), -np.inf)], "b": {"c": float("inf")}, "d": 3},
    )
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert json.loads(path.read_text()) == {"a": [1.5, None, [0.5, None]], "b": {"c": None}, "d": 3}


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1], indent=1)
    with pytest.raises(TypeError):
        write_json(path, [object()])
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="Can't write"):
        write_json(tmp_path / "absent" / "a.json", [1])
