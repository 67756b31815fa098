"""Files of experiments and reflections, whole and broken."""

from __future__ import annotations

import pytest

from dxtbx.model import ExperimentList

from dials_diffuse.adapters.experiments import (
    load_experiments,
    load_reflections,
    scaling_model_from_dict,
)
from dials_diffuse.adapters.inputs import DataPair


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        load_experiments(tmp_path / "absent.expt")
    with pytest.raises(ValueError, match="No such file"):
        load_reflections(tmp_path / "absent.refl")
    for load, name in ((load_experiments, "broken.expt"), (load_reflections, "broken.refl")):
        (tmp_path / name).write_text("{ this is neither")
        with pytest.raises(ValueError, match=name) as caught:
            load(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
    ExperimentList().as_file(str(tmp_path / "empty.expt"))
    with pytest.raises(ValueError, match="empty.expt"):
        DataPair(tmp_path / "empty.expt").load(False)


def test_other_scaling_models_are_refused():
    with pytest.raises(ValueError, match="Not a diffuse scaling model: physical"):
        scaling_model_from_dict({"__id__": "physical"})
