"""Both maskers against the masks that they should give, and what each does with failures."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.images import read_raw, static_mask
from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.masking.masker import (
    RowMasker,
    SurveyMasker,
    UnknownSpots,
    complete_mask,
    masker_for,
    trusted_pixels,
)
from dials_diffuse.masking.survey_file import MaskSurvey
from dials_diffuse.masking.workflow import make_masks
from dials_diffuse.phil.mask import phil_scope


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stills of two lattices on two images, and the result of masking them"""
    folder = tmp_path_factory.mktemp("stills")
    settings = simulation_settings(
        stills=2, detector={"image_size": (150, 150), "pixel_size": 0.8}, crystal={"lattices": 2}
    )
    simulate(settings, folder)
    pair = DataPair(folder / "simulated.expt", folder / "simulated.refl")
    params = phil_scope.extract()
    params.nproc, params.output.mask, params.border = 1, str(folder / "pixels.mask"), 3
    params.bragg.multi_lattice = "keep"
    result = make_masks(*pair.load(), params)
    return pair, result, MaskSurvey.from_result(result, params)


def test_both_give_the_same_masks(made):
    pair, result, survey = made
    experiments, reflections = pair.load()
    by_rows = RowMasker().for_pair(result.experiments, result.reflections)
    by_survey = SurveyMasker(survey).for_pair(experiments, reflections)
    assert len(by_survey.images(experiments)) == len(by_rows.images(experiments)) == 2
    for group in by_survey.images(experiments):
        raw = read_raw(group[0].imageset, 0)
        painted, new = by_rows.mask(group, raw), by_survey.mask(group, raw)
        assert np.array_equal(painted.bragg[0], new.bragg[0]) and 0 < new.bragg[0].mean() < 0.9
        assert painted.rows == [[], []]
        assert [[other for _, other in rows] for rows in new.rows] == [[False, True], [False]]
        assert [still.index for still in new.stills] == [still.index for still in group]


def test_good_pixels(made):
    pair, result, survey = made
    imageset = load_experiments(pair.experiments)[0].imageset
    (good,) = SurveyMasker(survey).good_pixels(imageset)
    assert np.array_equal(good, survey.good[0]) and not good[:3].any()
    good[:] = False
    assert survey.good[0].any(), "a copy"
    (static,) = RowMasker().good_pixels(imageset)
    assert np.array_equal(static, static_mask(imageset)[0])


def test_several_lattices_can_be_excluded(made):
    from dataclasses import replace

    pair, _, survey = made
    experiments, _ = pair.load(check_format=False)
    assert SurveyMasker(replace(survey, multi_lattice="exclude")).images(experiments) == []


def test_files_that_cannot_be_masked(made):
    from dataclasses import replace

    pair, result, survey = made
    experiments, reflections = pair.load(check_format=False)
    with pytest.raises(ValueError, match="masked already"):
        SurveyMasker(survey).for_pair(result.experiments, result.reflections)
    with pytest.raises(ValueError, match="bragg.method=shoebox"):
        SurveyMasker(replace(survey, method="shoebox")).for_pair(experiments, reflections)
    with pytest.raises(ValueError, match="no Bragg mask"):
        RowMasker().for_pair(experiments, flex.reflection_table())


def test_stills_that_are_left_out(made):
    pair, _, survey = made
    one, other = stills_of(load_experiments(pair.experiments, check_format=False))[:2]
    masker = SurveyMasker(survey)
    unknown = UnknownSpots("no size", one.index)
    assert masker.left_out(one, unknown) == ("no size", one.experiment.identifier)
    reason, name = masker.left_out(other, unknown)
    assert "another lattice" in reason and name == other.experiment.identifier
    assert masker.left_out(one, OSError("unreadable")) == ("unreadable", one.path)
    assert masker.failures({"a": "b"}) == {"failures": {"a": "b"}}
    assert RowMasker().left_out(one, OSError("unreadable")) == ("unreadable", "")
    assert RowMasker().failures({}) == {}


def test_crystals_are_those_of_a_file(made):
    pair, _, survey = made
    experiments = load_experiments(pair.experiments, check_format=False)
    before = [experiment.crystal.get_A() for experiment in experiments]
    RowMasker().restore(experiments)
    assert [experiment.crystal.get_A() for experiment in experiments] == before
    SurveyMasker(survey).restore(experiments)
    after = [experiment.crystal.get_A() for experiment in experiments]
    assert np.allclose(before, after, rtol=1e-12)


def test_which_masker(made, tmp_path):
    _, _, survey = made
    survey.write(tmp_path / "survey.pickle")
    assert isinstance(masker_for(None), RowMasker)
    masker = masker_for(str(tmp_path / "survey.pickle"))
    assert isinstance(pickle.loads(pickle.dumps(masker)), SurveyMasker)


def test_complete_mask(made):
    _, result, _ = made
    group = group_by_image(stills_of(result.experiments))[0]
    raw = [np.ones((150, 150))]
    raw[0][5, 5] = -1.0
    static = [np.ones((150, 150), dtype=bool)]
    static[0][9] = False
    (good,), (bragg,) = complete_mask(group, RowMasker(result.reflections), raw, static)
    assert not good[5, 5] and not good[9].any() and good.sum() == 150 * 149 - 1
    assert bragg.any()


@pytest.mark.parametrize("kind", [np.int32, np.float64])
def test_trusted_pixels(kind):
    raw, good = np.arange(6, dtype=kind).reshape(2, 3), np.ones((2, 3), dtype=bool)
    good[1, 0] = False
    assert trusted_pixels(raw, good, 1.0, 4.5).tolist() == [
        [False, True, True],
        [False, True, False],
    ]
