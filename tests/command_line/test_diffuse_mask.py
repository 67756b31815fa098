from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.stills import stills_of
from dials_diffuse.command_line.diffuse_mask import run
from dials_diffuse.masking.bragg_mask_file import read_bragg_mask
from dials_diffuse.masking.masker import RowMasker
from dials_diffuse.masking.survey_file import MaskSurvey


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    settings = simulation_settings(
        **{"detector": {"image_size": (150, 150), "pixel_size": 0.8}}, stills=5
    )
    simulate(settings, folder)
    return folder


@pytest.fixture
def folder(made, copied_here):
    """A copy of the simulated stills; the working directory."""
    return copied_here(made)


def fails(capsys, *arguments):
    """The one line with which the command ends that must fail."""
    with pytest.raises(SystemExit) as caught:
        run([*arguments, "nproc=1"])
    message = str(caught.value)
    assert message.startswith("Sorry: ") and len(message.splitlines()) == 1
    return message


def test_files_agree_and_dials_obeys_the_mask(folder):
    run(
        [
            "simulated.expt",
            "simulated.refl",
            "nproc=2",
            "border=3",
            "output.json=mask.json",
            "output.bragg_mask=bragg.h5",
        ]
    )
    experiments, reflections = DataPair(
        folder / "diffuse_masked.expt", folder / "diffuse_masked.refl"
    ).load()
    assert len(experiments) == 5
    reflections.assert_experiment_identifiers_are_consistent(experiments)
    with open("pixels.mask", "rb") as handle:
        (stored,) = pickle.load(handle)
    assert stored[:3, :].count(True) == 0 and stored.count(True) > 0.8 * 150**2
    for experiment in experiments:
        lookup = experiment.imageset.external_lookup.mask
        assert lookup.filename.endswith("pixels.mask")
        assert (lookup.data.tile(0).data() == stored).count(False) == 0
        # dxtbx's own mask, which all of DIALS uses
        assert (experiment.imageset.get_mask(0)[0] & ~stored).count(True) == 0
    masker = RowMasker(reflections)
    for number, still in enumerate(stills_of(experiments)):
        (bragg,) = masker.bragg([still])
        assert bragg.any()
        assert np.array_equal(read_bragg_mask("bragg.h5", number)[0], bragg)
    numbers = json.loads((folder / "mask.json").read_text())
    assert numbers["pixels_removed"][0][0] == "panel"
    assert sum(numbers["spots_per_still"]) == reflections.size()
    html = (folder / "dials.diffuse_mask.html").read_text()
    assert "Images with their masks" in html and "data:image/png" in html
    with pytest.raises(ValueError, match="no image 99"):
        read_bragg_mask("bragg.h5", 99)


def test_the_result_does_not_depend_on_nproc(folder):
    """To the last bit"""
    for nproc in (1, 2):
        run(
            [
                "simulated.expt",
                "simulated.refl",
                f"nproc={nproc}",
                f"output.reflections={nproc}.refl",
                f"output.mask={nproc}.mask",
                f"output.survey={nproc}.survey",
            ]
        )
    assert (folder / "1.refl").read_bytes() == (folder / "2.refl").read_bytes()
    assert (folder / "1.mask").read_bytes() == (folder / "2.mask").read_bytes()
    one, two = (MaskSurvey.from_file(f"{n}.survey").predictor for n in (1, 2))
    assert pickle.dumps(one) == pickle.dumps(two)


def test_without_a_report_no_image_is_checked_for_it(folder):
    run(["simulated.expt", "simulated.refl", "nproc=1"])
    run(
        [
            "simulated.expt",
            "simulated.refl",
            "nproc=1",
            "output.html=None",
            "output.log=short.log",
            "output.reflections=again.refl",
        ]
    )
    checked = "Images compared with their masks"
    assert checked in (folder / "dials.diffuse_mask.log").read_text()
    assert checked not in (folder / "short.log").read_text()
    assert (folder / "diffuse_masked.refl").read_bytes() == (folder / "again.refl").read_bytes()


def test_reflections_may_be_absent(folder):
    run(["simulated.expt", "nproc=1"])
    assert flex.reflection_table.from_file("diffuse_masked.refl").size() > 0


def lookup(folder, mask):
    """Give the stills a lookup mask."""
    with open("lookup.mask", "wb") as handle:
        pickle.dump((mask,), handle)
    content = json.loads((folder / "simulated.expt").read_text())
    for imageset in content["imageset"]:
        imageset["mask"] = str(folder / "lookup.mask")
    (folder / "simulated.expt").write_text(json.dumps(content))


def test_an_existing_lookup_mask_is_combined(folder):
    mask = flex.bool(flex.grid(150, 150), True)
    mask[70:75, 20:40] = flex.bool(flex.grid(5, 20), False)
    lookup(folder, mask)
    run(["simulated.expt", "simulated.refl", "nproc=1", "untrusted.rectangle=0,10,0,10"])
    with open("pixels.mask", "rb") as handle:
        (stored,) = pickle.load(handle)
    assert stored[70:75, 20:40].count(True) == 0
    assert stored[0:10, 0:10].count(True) == 0
    assert stored[80, 25]


def test_a_mask_of_another_size(folder, capsys):
    lookup(folder, flex.bool(flex.grid(150, 140), True))
    assert "150" in fails(capsys, "simulated.expt", "simulated.refl")


def test_nothing_left_of_the_detector(folder, capsys):
    lookup(folder, flex.bool(flex.grid(150, 150), False))
    assert "no pixel" in fails(capsys, "simulated.expt", "simulated.refl")
    assert not (folder / "diffuse_masked.expt").exists()


@pytest.mark.parametrize(
    "argument, text",
    [
        ("border=75", "border"),
        ("untrusted.panel=3", "panel"),
        ("untrusted.polygon=1,2,3", "polygon"),
        ("untrusted.pixel=500,2", "pixel"),
        ("output.experiments=nowhere/masked.expt", "nowhere"),
        ("bragg.method=shoebox", "shoebox"),
        ("bragg.methode=halo", "methode"),
    ],
)
def test_parameters_that_make_no_sense(folder, capsys, argument, text):
    assert text in fails(capsys, "simulated.expt", "simulated.refl", argument)
    assert not (folder / "pixels.mask").exists()


def test_a_value_out_of_range(folder, capfd):
    # Newer DIALS ends such a line itself
    with pytest.raises(SystemExit) as caught:
        run(["simulated.expt", "bragg.n_sigma=0"])
    assert caught.value.code != 0
    assert "n_sigma" in str(caught.value.code) + capfd.readouterr().err


def test_d_min_above_d_max(folder, capsys):
    assert "d_max" in fails(capsys, "simulated.expt", "d_min=5", "d_max=3")


def test_a_truncated_image_is_named_and_the_others_go_on(folder, capsys):
    experiments = ExperimentList.from_file("simulated.expt", check_format=False)
    broken = experiments[1].imageset.get_path(0)
    with open(broken, "r+b") as handle:
        handle.truncate(3000)
    run(["simulated.expt", "simulated.refl", "nproc=1", "output.json=mask.json"])
    failures = json.loads((folder / "mask.json").read_text())["failures"]
    assert list(failures) == [broken]
    # The still keeps its rows: whether its image can be used is for the next step to see
    assert set(flex.reflection_table.from_file("diffuse_masked.refl")["id"]) == {0, 1, 2, 3, 4}
    for experiment in experiments:
        with open(experiment.imageset.get_path(0), "r+b") as handle:
            handle.truncate(3000)
    assert "None of the images" in fails(capsys, "simulated.expt", "simulated.refl")


def left_in(folder) -> list[str]:
    """Identifiers in the output, which agree in both files"""
    experiments, table = DataPair(
        folder / "diffuse_masked.expt", folder / "diffuse_masked.refl"
    ).load()
    table.assert_experiment_identifiers_are_consistent(experiments)
    assert set(table["id"]) == set(range(len(experiments)))
    return [experiment.identifier for experiment in experiments]


def test_a_missing_image_is_named_and_the_others_go_on(folder):
    experiments = ExperimentList.from_file("simulated.expt", check_format=False)
    missing = experiments[1].imageset.get_path(0)
    os.remove(missing)
    run(["simulated.expt", "simulated.refl", "nproc=1", "output.json=mask.json"])
    failures = json.loads((folder / "mask.json").read_text())["failures"]
    assert list(failures) == [missing] and missing in failures[missing]
    assert left_in(folder) == [e.identifier for i, e in enumerate(experiments) if i != 1]


def without_mosaicity(folder, still):
    content = json.loads((folder / "simulated.expt").read_text())
    crystal = content["crystal"][content["experiment"][still]["crystal"]]
    for key in ("ML_half_mosaicity_deg", "ML_domain_size_ang"):
        crystal.pop(key)
    crystal["__id__"] = "crystal"
    (folder / "simulated.expt").write_text(json.dumps(content))


def test_stills_whose_spots_are_not_known_are_left_out(folder):
    """Their Bragg spots would pass for diffuse scattering; so would those of another lattice"""
    without_mosaicity(folder, 2)
    experiments = ExperimentList.from_file("simulated.expt", check_format=False)
    names = [experiment.identifier for experiment in experiments]
    options = [
        "nproc=1",
        "bragg.size=model",
        "output.json=mask.json",
        "output.survey=survey.pickle",
    ]
    run(["simulated.expt", "simulated.refl", *options])
    assert left_in(folder) == [name for name in names if name != names[2]]
    failures = json.loads((folder / "mask.json").read_text())["failures"]
    assert list(failures) == [names[2]] and "mosaicity" in failures[names[2]]
    # with a second lattice on its image, and by what was learnt before
    content = json.loads((folder / "simulated.expt").read_text())
    content["experiment"][3]["imageset"] = content["experiment"][2]["imageset"]
    (folder / "simulated.expt").write_text(json.dumps(content))
    run(
        [
            "simulated.expt",
            "simulated.refl",
            "nproc=1",
            "survey=survey.pickle",
            "bragg.multi_lattice=keep",
            "output.json=mask.json",
        ]
    )
    assert left_in(folder) == [names[0], names[1], names[4]]
    failures = json.loads((folder / "mask.json").read_text())["failures"]
    assert set(failures) == {names[2], names[3]} and "another lattice" in failures[names[3]]


def test_neither_spots_nor_mosaicity(folder, capsys):
    content = json.loads((folder / "simulated.expt").read_text())
    for crystal in content["crystal"]:
        for key in ("ML_half_mosaicity_deg", "ML_domain_size_ang"):
            crystal.pop(key)
        crystal["__id__"] = "crystal"
    (folder / "simulated.expt").write_text(json.dumps(content))
    message = fails(capsys, "simulated.expt", "simulated.refl", "bragg.size=model")
    assert "bragg.mosaicity" in message
    run(
        [
            "simulated.expt",
            "nproc=1",
            "bragg.size=model",
            "bragg.mosaicity=0.1",
            "bragg.domain_size=1000",
            "dynamic.enable=False",
            "dynamic.shadow=False",
        ]
    )
    assert flex.reflection_table.from_file("diffuse_masked.refl").size() > 0
