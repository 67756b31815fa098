"""The file of a survey."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from cctbx import sgtbx
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials_diffuse.masking.survey_file import MaskSurvey


def survey(space_group="P 1", shape=(4, 5)):
    return MaskSurvey("predicted", None, [np.ones(shape, dtype=bool)], "x.mask", space_group)


def experiments(space_group="P 1"):
    detector = DetectorFactory.simple("PAD", 100.0, (1, 1), "+x", "-y", (0.1, 0.1), (5, 4), (-1, 9))
    crystal = Crystal(
        (10, 0, 0), (0, 10, 0), (0, 0, 12), sgtbx.space_group_info(space_group).group()
    )
    return ExperimentList(
        [Experiment(beam=BeamFactory.simple(1.0), detector=detector, crystal=crystal)]
    )


def test_what_is_written_is_read(tmp_path):
    survey().write(tmp_path / "survey.pickle")
    found = MaskSurvey.from_file(tmp_path / "survey.pickle")
    assert (found.method, found.space_group, found.multi_lattice) == ("predicted", "P 1", "keep")
    assert np.array_equal(found.good[0], survey().good[0])
    assert not found.needs_images


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Can't read survey=nowhere"):
        MaskSurvey.from_file("nowhere")
    for content in (b"text", pickle.dumps([1])):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ValueError, match="not a file that output.survey wrote"):
            MaskSurvey.from_file(tmp_path / "other")


def test_stills_of_another_kind_are_refused():
    survey().check(experiments())
    with pytest.raises(ValueError, match="space group is P 4, that of the survey P 1"):
        survey().check(experiments("P 4"))
    with pytest.raises(ValueError, match="not that of the survey"):
        survey(shape=(5, 4)).check(experiments())
