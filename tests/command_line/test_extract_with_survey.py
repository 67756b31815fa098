"""dials.diffuse_extract survey=: stills that are masked as they are read, against the two commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from simulations import simulate, simulation_settings

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.command_line import diffuse_extract, diffuse_mask
from dials_diffuse.masking.lattices import select_stills

INPUT = ["simulated.expt", "simulated.refl", "output.html=None"]
KEEP = "multi_lattice=keep"
FILES = [
    "diffuse_masked.expt",
    "diffuse_masked.refl",
    "diffuse_extracted.expt",
    "diffuse_extracted.refl",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four images of two lattices each; what two commands made of them is in the folder apart"""
    folder = tmp_path_factory.mktemp("made")
    settings = simulation_settings(
        stills=4, detector={"image_size": (150, 150), "pixel_size": 0.8}, crystal={"lattices": 2}
    )
    simulate(settings, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        diffuse_mask.run([*INPUT, "nproc=1", "border=3", KEEP, "output.survey=survey.pickle"])
        diffuse_extract.run([*FILES[:2], "output.html=None", "nproc=1", "subdivide=2,2,2"])
    (folder / "apart").mkdir()
    for name in FILES:
        (folder / name).rename(folder / "apart" / name)
    return folder


@pytest.fixture
def folder(made, copied_here):
    return copied_here(made)


def extract(*arguments):
    diffuse_extract.run([*INPUT, "survey=survey.pickle", "subdivide=2,2,2", *arguments])


@pytest.mark.parametrize("nproc", [1, 2])
def test_all_files_are_those_of_two_commands(made, nproc, monkeypatch, tmp_path):
    monkeypatch.chdir(made)
    names = [tmp_path / name for name in FILES]
    extract(
        f"nproc={nproc}",
        f"output.masked_experiments={names[0]}",
        f"output.masked_reflections={names[1]}",
        f"output.experiments={names[2]}",
        f"output.reflections={names[3]}",
        f"output.log={tmp_path / 'x.log'}",
    )
    table = flex.reflection_table.from_file(str(names[1]))
    assert table.size() > 1000 and set(table["id"]) == set(range(8))
    for name in FILES:
        if name == "diffuse_masked.refl":
            continue
        # DIALS writes which command has made a file
        ours, theirs = ((where / name).read_bytes() for where in (tmp_path, made / "apart"))
        if name.endswith(".expt"):
            ours, theirs = (
                json.dumps({**json.loads(text), "history": None}) for text in (ours, theirs)
            )
        assert ours == theirs, name
    # The rows of what no lattice explains have another place among them
    assert sorted_rows(table) == sorted_rows(
        flex.reflection_table.from_file(str(made / "apart" / names[1].name))
    )


def sorted_rows(table) -> list[tuple]:
    assert sorted(table.keys()) == [
        "bbox",
        "flags",
        "id",
        "mask.ellipse",
        "miller_index",
        "panel",
        "xyzcal.px",
    ]
    return sorted(zip(*(list(table[name]) for name in sorted(table.keys()))))


def test_batches_are_written_in_pairs(folder):
    extract("output.batch_size=3", "nproc=1")
    for number, n in ((1, 3), (2, 3), (3, 2)):
        for kind in ("masked", "extracted"):
            experiments = ExperimentList.from_file(
                f"diffuse_{kind}_{number:04d}.expt", check_format=False
            )
            table = flex.reflection_table.from_file(f"diffuse_{kind}_{number:04d}.refl")
            table.assert_experiment_identifiers_are_consistent(experiments)
            assert len(experiments) == n and set(table["id"]) == set(range(n))


def left_in() -> list[str]:
    names = []
    for kind in ("masked", "extracted"):
        experiments = ExperimentList.from_file(f"diffuse_{kind}.expt", check_format=False)
        table = flex.reflection_table.from_file(f"diffuse_{kind}.refl")
        table.assert_experiment_identifiers_are_consistent(experiments)
        assert set(table["id"]) == set(range(len(experiments)))
        names.append([experiment.identifier for experiment in experiments])
    assert names[0] == names[1]
    return names[0]


def test_images_that_cannot_be_masked_are_left_out(folder):
    experiments = ExperimentList.from_file("simulated.expt", check_format=False)
    names = [experiment.identifier for experiment in experiments]
    on_image = {}
    for experiment in experiments:
        on_image.setdefault(experiment.imageset.get_path(0), []).append(experiment.identifier)
    (missing, gone), (cut, short) = list(on_image.items())[:2]
    os.remove(missing)
    Path(cut).write_bytes(Path(cut).read_bytes()[:2000])
    extract("nproc=1", "output.json=extract.json")
    assert left_in() == [name for name in names if name not in (*gone, *short)]
    failures = json.loads((folder / "extract.json").read_text())["failures"]
    assert set(failures) == {missing, cut}
    assert all(name in reason for name, reason in failures.items())


def test_lattices_whose_spots_are_not_known_take_their_image_with_them(folder):
    from dials_diffuse.masking.survey_file import MaskSurvey

    before = MaskSurvey.from_file("survey.pickle")
    content = json.loads((folder / "simulated.expt").read_text())
    crystal = content["crystal"][content["experiment"][2]["crystal"]]
    for key in ("ML_half_mosaicity_deg", "ML_domain_size_ang"):
        crystal.pop(key)
    crystal["__id__"] = "crystal"
    (folder / "simulated.expt").write_text(json.dumps(content))
    diffuse_mask.run([*INPUT, "nproc=1", "bragg.size=model", KEEP, "output.survey=survey.pickle"])
    assert MaskSurvey.from_file("survey.pickle").predictor != before.predictor
    expected = left_in_masked()
    assert 0 < len(expected) < 8
    extract("nproc=1", "output.json=extract.json")
    assert left_in() == expected
    failures = json.loads((folder / "extract.json").read_text())["failures"]
    assert sorted("another lattice" in reason for reason in failures.values()) == [False, True]


def left_in_masked() -> list[str]:
    return [
        e.identifier for e in ExperimentList.from_file("diffuse_masked.expt", check_format=False)
    ]


def test_images_of_several_lattices_can_be_left_out(folder):
    """As they were when the survey was made"""
    experiments, reflections = DataPair(folder / "simulated.expt", folder / "simulated.refl").load(
        check_format=False
    )
    # one lattice less on the first image
    experiments, reflections = select_stills(list(experiments)[1:], reflections)
    experiments.as_file("simulated.expt")
    reflections.as_file("simulated.refl")
    diffuse_mask.run(
        [*INPUT, "nproc=1", "bragg.multi_lattice=exclude", "output.survey=survey.pickle"]
    )
    expected = left_in_masked()
    assert len(expected) == 1
    extract("nproc=1")
    assert left_in() == expected


def test_without_bragg_masks(folder):
    diffuse_mask.run([*INPUT, "nproc=1", "bragg.method=none", KEEP, "output.survey=survey.pickle"])
    extract("nproc=1")
    assert len(left_in_masked()) == 8
    assert flex.reflection_table.from_file("diffuse_masked.refl").size() == 0
    assert not any(flex.reflection_table.from_file("diffuse_extracted.refl")["bragg"])


@pytest.mark.parametrize(
    "options, text",
    [
        (["survey=nowhere.pickle"], "Can't read survey=nowhere.pickle"),
        (["survey=simulated.refl"], "not a file that output.survey wrote"),
    ],
)
def test_bad_surveys(folder, options, text):
    with pytest.raises(SystemExit, match=text):
        diffuse_extract.run([*INPUT, *options])
    assert not Path("diffuse_extracted.refl").exists() and not Path("diffuse_masked.refl").exists()


def test_stills_that_are_masked_already(folder):
    with pytest.raises(SystemExit, match="masked already"):
        diffuse_extract.run(
            ["apart/diffuse_masked.expt", "apart/diffuse_masked.refl", "survey=survey.pickle"]
        )


def test_saved_shoeboxes(folder):
    from dataclasses import replace

    from dials_diffuse.masking.survey_file import MaskSurvey

    replace(MaskSurvey.from_file("survey.pickle"), method="shoebox").write("survey.pickle")
    with pytest.raises(SystemExit, match="bragg.method=shoebox"):
        extract()


def test_stills_of_another_detector_or_space_group(folder, tmp_path, monkeypatch):
    settings = simulation_settings(stills=1, detector={"image_size": (100, 100), "pixel_size": 1.2})
    other = tmp_path / "other"
    other.mkdir()
    simulate(settings, other)
    monkeypatch.chdir(other)
    with pytest.raises(SystemExit, match="not that of the survey"):
        diffuse_extract.run([*INPUT, f"survey={folder / 'survey.pickle'}"])
    settings = simulation_settings(
        stills=1,
        crystal={"space_group": "P4"},
        detector={"image_size": (150, 150), "pixel_size": 0.8},
    )
    simulate(settings, other)
    with pytest.raises(SystemExit, match="different space groups"):
        diffuse_extract.run([*INPUT, f"survey={folder / 'survey.pickle'}"])
