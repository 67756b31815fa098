from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.stills import NothingLeft, stills_of
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking.bragg_rows import bragg_rows, integrated_spots, shoebox_table
from dials_diffuse.masking.spot_predictor import BraggMaskSettings, SpotPredictor
from dials_diffuse.phil.defaults import default_settings

GOOD = [np.ones((150, 150), dtype=bool)]


def predictor(**changes) -> SpotPredictor:
    return SpotPredictor.from_fit(default_settings(BraggMaskSettings, **changes), None, 0.01)


def test_integrated_spots_of_each_still(pair):
    stills = stills_of(pair[0])
    table = flex.reflection_table()
    table["id"] = flex.int([2, 0, 2, 2])
    table["miller_index"] = flex.miller_index([(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)])
    table["intensity.sum.value"] = flex.double([1, 2, 3, 4])
    table["flags"] = flex.size_t(4, 0)
    table.set_flags(flex.bool([True, True, False, True]), table.flags.integrated_sum)
    spots = integrated_spots(table, stills)
    assert [(spots[i, 0][0][:, 0].tolist(), spots[i, 0][1].tolist()) for i in range(4)] == [
        ([2], [2.0]),
        ([], []),
        ([1, 4], [1.0, 4.0]),
        ([], []),
    ]
    del table["intensity.sum.value"]
    for absent in (None, table):
        assert integrated_spots(absent, stills) == dict.fromkeys((i, 0) for i in range(4))


def test_rows_are_those_of_each_still_and_of_its_other_spots(pair, masked):
    experiments, reflections = pair
    settings = default_settings(BraggMaskSettings, other_spots=False)
    # Bright integrated spots are masked further out
    known = dataclasses.replace(masked.predictor, settings=settings)
    integrated = integrated_spots(reflections, stills_of(experiments))
    kept, table, failures, _ = bragg_rows(experiments, reflections, "predicted", known, GOOD, 1)
    assert kept == experiments and not failures
    table.assert_experiment_identifiers_are_consistent(kept)
    for still in stills_of(experiments):
        rows = known.predict(still, integrated[still.key])
        assert not np.array_equal(rows.ellipse, known.predict(still).ellipse)
        mine = table.select(table["id"] == still.index)
        assert np.array_equal(as_numpy(mine["miller_index"]), rows.miller_index)
        assert np.array_equal(as_numpy(mine["mask.ellipse"]), rows.ellipse)
    # Spots to low resolution are predicted alone: the others are found on the images
    few = predictor(d_min=8.0)
    table = bragg_rows(experiments, reflections, "predicted", few, GOOD, 1)[1]
    counts = bragg_rows(experiments, reflections, "predicted", few, GOOD, 1)[3]
    other = table.select(table.get_flags(table.flags.strong))
    assert sum(count.found for count in counts.values()) == len(other)
    assert list(counts) == [still.path for still in stills_of(experiments)]
    assert set(other["id"]) == {0, 1, 2, 3}
    assert set(other["miller_index"]) == {(0, 0, 0)}
    # but not where all pixels are bad
    table = bragg_rows(experiments, reflections, "predicted", few, [~GOOD[0]], 1)[1]
    assert table.get_flags(table.flags.strong).count(True) == 0


def test_stills_that_can_not_be_masked(pair, monkeypatch):
    experiments, reflections = pair
    names = [experiment.identifier for experiment in experiments]
    predict = SpotPredictor.predict

    def some(self, still, integrated=None):
        if still.index in unknown:
            raise ValueError("unknown size")
        return predict(self, still, integrated)

    monkeypatch.setattr(SpotPredictor, "predict", some)
    unknown = {1}
    known = predictor(other_spots=False)
    kept, table, failures, _ = bragg_rows(experiments, reflections, "predicted", known, GOOD, 1)
    assert failures == {names[1]: "unknown size"}
    assert [experiment.identifier for experiment in kept] == [names[0], names[2], names[3]]
    assert set(table["id"]) == {0, 1, 2}
    unknown = {0, 1, 2, 3}
    with pytest.raises(NothingLeft, match="unknown size"):
        bragg_rows(experiments, reflections, "predicted", known, GOOD, 1)


def test_an_image_that_can_not_be_read_keeps_its_still(pair, tmp_path, monkeypatch, caplog):
    from dials_diffuse.masking.bright import other_spots

    def unreadable(imageset, index):
        raise ValueError("truncated")

    monkeypatch.setattr(other_spots, "read_raw", unreadable)
    kept, table, failures, _ = bragg_rows(*pair, "predicted", predictor(), GOOD, 1)
    assert len(kept) == 4 and set(table["id"]) == {0, 1, 2, 3}
    assert failures == {still.path: "truncated" for still in stills_of(pair[0])}


def test_no_spots_and_shoeboxes(pair):
    experiments, reflections = pair
    kept, table, failures, _ = bragg_rows(experiments, reflections, "none", None, GOOD, 1)
    assert (len(table), failures) == (0, {})
    table.assert_experiment_identifiers_are_consistent(kept)
    with pytest.raises(ValueError, match="needs a .refl file with shoeboxes"):
        bragg_rows(experiments, reflections, "shoebox", None, GOOD, 1)
    reflections["shoebox"] = flex.shoebox(len(reflections))
    reflections["unused"] = flex.double(len(reflections))
    assert "unused" not in shoebox_table(reflections)
    table = bragg_rows(experiments, reflections, "shoebox", None, GOOD, 1)[1]
    assert len(table) == len(reflections) and "shoebox" in table
