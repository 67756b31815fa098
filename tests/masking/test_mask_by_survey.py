"""Masks of batches by the survey of all stills, against the masks of all stills together."""

from __future__ import annotations

import shutil

import pytest
from simulations import simulate, simulation_settings

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.command_line.diffuse_mask import run
from dials_diffuse.masking.survey_file import MaskSurvey
from dials_diffuse.pipeline.rearrange import split

OPTIONS = ["nproc=1", "output.html=None"]
COLUMNS = ("panel", "miller_index", "xyzcal.px", "bbox", "mask.ellipse")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four stills in batches of two; masked.refl of all, and survey.pickle"""
    folder = tmp_path_factory.mktemp("batches")
    settings = simulation_settings(stills=4, detector={"image_size": (150, 150), "pixel_size": 0.8})
    simulate(settings, folder)
    names = [(folder / f"{i}.expt", folder / f"{i}.refl") for i in range(2)]
    split(DataPair(folder / "simulated.expt", folder / "simulated.refl"), 2, names)
    files = [str(folder / name) for name in ("simulated.expt", "simulated.refl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run([*files, *OPTIONS, "output.survey=survey.pickle", "border=3"])
    return folder


def test_the_masks_are_those_of_all_stills_together(folder, run_in_tmp_path):
    whole = flex.reflection_table.from_file(str(folder / "diffuse_masked.refl"))
    assert whole.size() > 100
    shutil.copy(folder / "survey.pickle", "survey.pickle")
    for batch in range(2):
        files = [str(folder / f"{batch}.expt"), str(folder / f"{batch}.refl")]
        run([*files, *OPTIONS, "survey=survey.pickle", "output.json=mask.json"])
        part = flex.reflection_table.from_file("diffuse_masked.refl")
        experiments = ExperimentList.from_file("diffuse_masked.expt")
        part.assert_experiment_identifiers_are_consistent(experiments)
        for index in range(2):
            mine = part.select(part["id"] == index)
            theirs = whole.select(whole["id"] == 2 * batch + index)
            assert mine.size() > 10
            for name in COLUMNS:
                assert list(mine[name]) == list(theirs[name])
        for imageset in experiments.imagesets():
            lookup = imageset.external_lookup.mask
            assert lookup.filename == str(folder / "pixels.mask")
            assert lookup.data.tile(0).data().count(False) >= 150**2 - 144**2


def test_another_detector_or_file_is_refused(folder, run_in_tmp_path):
    settings = simulation_settings(stills=1, detector={"image_size": (100, 100), "pixel_size": 1.2})
    simulate(settings, run_in_tmp_path)
    with pytest.raises(SystemExit, match="not that of the survey"):
        run(["simulated.expt", "simulated.refl", *OPTIONS, f"survey={folder / 'survey.pickle'}"])
    with pytest.raises(SystemExit, match="not a file that output.survey wrote"):
        run(["simulated.expt", "simulated.refl", *OPTIONS, "survey=simulated.refl"])
    with pytest.raises(ValueError, match="No such file"):
        MaskSurvey.from_file("nowhere.pickle")
