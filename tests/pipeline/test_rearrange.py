from __future__ import annotations

import json
import os
import shutil

import pytest
from simulations import simulate, simulation_settings

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.pipeline.contents import batches_of, image_keys, read_contents
from dials_diffuse.pipeline.rearrange import join, split, spread


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Six lattices on three images"""
    folder = tmp_path_factory.mktemp("stills")
    settings = simulation_settings(
        stills=3,
        crystal={"lattices": 2},
        detector={"image_size": (60, 60), "pixel_size": 2.0},
        bragg={"strong": 1.0},
    )
    simulate(settings, folder)
    return DataPair(folder / "simulated.expt", folder / "simulated.refl")


def rows(experiments, table):
    """All that is in a pair, in an order that does not depend on ids"""
    names = [e.identifier for e in experiments]
    columns = zip(
        table["id"], table["miller_index"], table["xyzcal.px"], table["intensity.sum.value"]
    )
    return sorted((names[number], *values) for number, *values in columns)


def load(names):
    return DataPair(*names).load(check_format=False)


def test_lattices_of_an_image_stay_together(pair):
    experiments = image_keys(read_contents(pair.experiments))
    assert len(experiments) == 6
    assert [len(batch) for batch in batches_of(experiments, 4)] == [4, 2]
    assert [len(batch) for batch in batches_of(experiments, 3)] == [2, 2, 2]
    assert [len(batch) for batch in batches_of(experiments, 1)] == [2, 2, 2]
    assert sorted(i for batch in batches_of(experiments, 3) for i in batch) == list(range(6))


def test_split_and_joined_again(pair, tmp_path):
    names = [(tmp_path / f"{i}.expt", tmp_path / f"{i}.refl") for i in range(2)]
    split(pair, 4, names)
    parts = [load(name) for name in names]
    assert [len(experiments) for experiments, _ in parts] == [4, 2]
    for experiments, table in parts:
        table.assert_experiment_identifiers_are_consistent(experiments)
        assert set(table["id"]) == set(range(len(experiments)))
    whole = rows(*pair.load(check_format=False))
    assert sorted(row for part in parts for row in rows(*part)) == whole
    joined = (tmp_path / "all.expt", tmp_path / "all.refl")
    join([DataPair(*name) for name in names], joined)
    assert rows(*load(joined)) == whole


def test_not_a_bit_of_the_models_changes(pair, tmp_path):
    names = [(tmp_path / f"{i}.expt", tmp_path / f"{i}.refl") for i in range(3)]
    split(pair, 2, names)
    before = json.loads(pair.experiments.read_text())
    crystals = [before["crystal"][e["crystal"]] for e in before["experiment"]]
    after = []
    for expt, _ in names:
        contents = json.loads(expt.read_text())
        assert len(contents["detector"]) == 1
        after += [contents["crystal"][e["crystal"]] for e in contents["experiment"]]
    # batches keep the order where images do
    assert after == crystals


def test_lookup_masks_are_kept(pair, tmp_path):
    experiments, table = pair.load()
    mask = tmp_path / "pixels.mask"
    import pickle

    with open(mask, "wb") as handle:
        pickle.dump((flex.bool(flex.grid(60, 60), True),), handle)
    for imageset in experiments.imagesets():
        imageset.external_lookup.mask.filename = str(mask)
    experiments.as_file(str(tmp_path / "masked.expt"))
    table.as_file(str(tmp_path / "masked.refl"))
    names = [(tmp_path / f"{i}.expt", tmp_path / f"{i}.refl") for i in range(3)]
    split(DataPair(tmp_path / "masked.expt", tmp_path / "masked.refl"), 2, names)
    for expt, _ in names:
        for experiment in ExperimentList.from_file(str(expt)):
            assert experiment.imageset.external_lookup.mask.filename == str(mask)


def test_some_stills_of_all_batches(pair, tmp_path):
    names = [(tmp_path / f"{i}.expt", tmp_path / f"{i}.refl") for i in range(3)]
    split(pair, 2, names)
    chosen = (tmp_path / "some.expt", tmp_path / "some.refl")
    spread([DataPair(*name) for name in names], 2, chosen)
    experiments, table = load(chosen)
    table.assert_experiment_identifiers_are_consistent(experiments)
    # the first and the last image, both lattices each
    (first, _), (last, _) = load(names[0]), load(names[2])
    identifiers = {e.identifier for e in (*first, *last)}
    assert {e.identifier for e in experiments} == identifiers and len(identifiers) == 4
    assert len(experiments.detectors()) == 1
    whole = rows(*pair.load(check_format=False))
    assert rows(experiments, table) == [row for row in whole if row[0] in identifiers]


def test_files_are_found_from_elsewhere(pair, tmp_path):
    """Names in a .expt are relative to its folder, the batches are in another"""
    contents = json.loads(pair.experiments.read_text())
    folder = pair.experiments.parent
    moved = tmp_path / "moved"
    moved.mkdir()
    for imageset in contents["imageset"]:
        imageset["images"] = [os.path.relpath(name, moved) for name in imageset["images"]]
    (moved / "in.expt").write_text(json.dumps(contents))
    shutil.copy(pair.reflections, moved / "in.refl")
    names = [(tmp_path / f"{i}.expt", tmp_path / f"{i}.refl") for i in range(2)]
    split(DataPair(moved / "in.expt", moved / "in.refl"), 4, names)
    for expt, _ in names:
        for imageset in json.loads(expt.read_text())["imageset"]:
            assert os.path.dirname(imageset["images"][0]).startswith(str(folder))
            assert os.path.isfile(imageset["images"][0])


def test_a_still_that_comes_twice(pair, tmp_path):
    with pytest.raises(ValueError, match="give each still once"):
        join([pair, pair], (tmp_path / "all.expt", tmp_path / "all.refl"))
    assert not list(tmp_path.iterdir())
