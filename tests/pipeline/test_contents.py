"""What the JSON of .expt files says about stills and images."""

from __future__ import annotations

import json

import pytest

from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList

from dials_diffuse.pipeline.contents import (
    batches_of,
    combined,
    groups_of,
    has_sweeps,
    image_keys,
    images_of,
    masks,
    n_pixels,
    read_contents,
)


def contents_with(*imagesets, scans=()):
    """Contents of an experiment on each image set, with a scan where there are scans."""
    experiments = [{"identifier": str(i), "imageset": i} for i in range(len(imagesets))]
    for number, experiment in enumerate(experiments[: len(scans)]):
        experiment["scan"] = number
    return {"experiment": experiments, "imageset": list(imagesets), "scan": list(scans)}


def test_names_of_files_become_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", str(tmp_path / "else"))
    imageset = {"images": ["a.cbf", "../b.cbf", "/c.cbf", "$WHERE/d.cbf"], "mask": "m/x.mask"}
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "in.expt").write_text(json.dumps(contents_with({**imageset, "gain": None})))
    contents = read_contents(folder / "in.expt")
    assert images_of(contents) == [
        f"{tmp_path}/data/a.cbf",
        f"{tmp_path}/b.cbf",
        "/c.cbf",
        f"{tmp_path}/else/d.cbf",
    ]
    assert masks(contents) == [f"{tmp_path}/data/m/x.mask"]
    assert contents["imageset"][0]["gain"] is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"experiment": []}', '{"experiment": 1}'])
def test_files_without_experiments(tmp_path, text):
    (tmp_path / "in.expt").write_text(text)
    with pytest.raises(ValueError, match="in.expt holds no experiments"):
        read_contents(tmp_path / "in.expt")
    with pytest.raises(ValueError, match="Can't read experiments from .*absent.expt: No such file"):
        read_contents(tmp_path / "absent.expt")


def test_experiments_share_a_key_if_they_are_on_one_image():
    single = {"images": ["a.cbf"]}
    of_file = [{"images": ["b.h5"], "single_file_indices": [i]} for i in (0, 1, 0)]
    keys = image_keys(contents_with(single, *of_file, {"images": ["a.cbf"]}))
    assert groups_of(keys) == [[0, 4], [1, 3], [2]]
    # image sets of several images, and templates with and without the same first image
    several = {"images": ["a.cbf", "b.cbf"]}
    template = {"template": "a_####.cbf"}
    scans = [{"image_range": r} for r in ([1, 2], [1, 2], [3, 3], [4, 4], [3, 3])]
    keys = image_keys(contents_with(several, several, template, template, template, scans=scans))
    assert groups_of(keys) == [[0, 1], [2, 4], [3]]
    # without an image set nothing is shared but its number
    nothing = {"experiment": [{"imageset": 0}, {"imageset": 1}, {}], "imageset": [None, None]}
    assert len(set(image_keys(nothing))) == 3


def test_sweeps():
    image = {"images": ["a.cbf"]}
    assert not has_sweeps(contents_with(image))
    assert not has_sweeps(contents_with(image, scans=[{"image_range": [3, 3]}]))
    assert has_sweeps(contents_with(image, scans=[{"image_range": [1, 9]}]))
    # of a scan that says nothing it is not known
    assert has_sweeps(contents_with(image, scans=[{}]))


def test_pixels_of_all_panels():
    contents = contents_with({"images": ["a.cbf"]})
    assert n_pixels(contents) == 0
    contents["experiment"][0]["detector"] = 0
    contents["detector"] = [{"panels": [{"image_size": [10, 20]}, {"image_size": [3, 5]}]}]
    assert n_pixels(contents) == 215


def test_masks_and_images():
    first, second = {"images": ["a.cbf"], "mask": "x.mask"}, {"images": ["b.cbf", "a.cbf"]}
    contents = contents_with(first, second, None)
    assert masks(contents) == ["x.mask", None, None]
    assert images_of(contents) == ["a.cbf", "b.cbf"]


@pytest.mark.parametrize(
    "keys, size, expected",
    [
        ("abcde", 2, [[0, 1], [2, 3], [4]]),
        ("aabbc", 2, [[0, 1], [2, 3], [4]]),
        # lattices of one image are never apart, even if they are more than fit
        ("aaab", 2, [[0, 1, 2], [3]]),
        ("abab", 2, [[0, 2], [1, 3]]),
        ("abc", 10, [[0, 1, 2]]),
    ],
)
def test_batches(keys, size, expected):
    assert batches_of(keys, size) == expected


@pytest.fixture
def parts(tmp_path):
    """Contents of two files of two stills each, with one beam and detector, written by dxtbx."""
    beam = BeamFactory.simple(1.0)
    detector = DetectorFactory.simple("PAD", 100, (50, 50), "+x", "-y", (0.5, 0.5), (200, 200))
    result = []
    for number in range(2):
        stills = [
            Experiment(
                identifier=f"{number}{i}",
                beam=beam,
                detector=detector,
                crystal=Crystal((30 + 2 * number + i, 0, 0), (0, 40, 0), (0, 0, 50), "P 1"),
            )
            for i in range(2)
        ]
        ExperimentList(stills).as_file(tmp_path / f"{number}.expt")
        result.append(read_contents(tmp_path / f"{number}.expt"))
    return result


def test_experiments_of_several_files_as_dxtbx_reads_them(parts, tmp_path):
    names = [["a", "b"], ["c", "d"]]
    whole = combined(parts, [[1], [0, 1]], names)
    (tmp_path / "whole.expt").write_text(json.dumps(whole))
    experiments = ExperimentList.from_file(tmp_path / "whole.expt", check_format=False)
    assert list(experiments.identifiers()) == ["b", "c", "d"]
    lengths = [e.crystal.get_unit_cell().parameters()[0] for e in experiments]
    assert lengths == pytest.approx([31, 32, 33])
    # beams and detectors that are equal are one, as stills usually share them; crystals never are
    assert len(experiments.beams()) == len(experiments.detectors()) == 1
    assert len(experiments.crystals()) == 3
    # models of experiments that were not taken are left out
    assert len(whole["crystal"]) == 3


def test_different_detectors_stay_apart(parts):
    parts[1]["detector"][0]["panels"][0]["image_size"] = [100, 100]
    whole = combined(parts, [[0, 1], [0]], [["a", "b"], ["c", "d"]])
    assert [e["detector"] for e in whole["experiment"]] == [0, 0, 1]
    assert len(whole["detector"]) == 2 and len(whole["beam"]) == 1
    assert whole["detector"][1]["panels"][0]["image_size"] == [100, 100]
