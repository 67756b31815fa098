"""dials.diffuse_extract as users run it."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from plain_images import crystal_at, flat_detector, write_stills
from simulations import simulate, simulation_settings

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.tables import as_numpy, mask_as_flex
from dials_diffuse.command_line.diffuse_extract import run
from dials_diffuse.grid.voxel_grid import grid_of
from dials_diffuse.io import batches
from dials_diffuse.io.pixel_file import read_pixels

COLUMNS = {
    "id": flex.int,
    "panel": flex.size_t,
    "voxel": flex.miller_index,
    "xyzobs.px.value": flex.vec3_double,
    "bragg": flex.bool,
    "num_pixels.valid": flex.int,
    "counts": flex.double,
    "background": flex.double,
    "background.variance": flex.double,
    "exposure": flex.double,
}


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Four simulated stills with a lookup mask and one masked spot each."""
    folder = tmp_path_factory.mktemp("masked")
    simulate(
        simulation_settings(
            **{
                "stills": 4,
                "detector": {"image_size": [150, 150], "pixel_size": 0.8},
                "background": {"flat": 0.5, "empty_shots": 2},
            }
        ),
        folder,
    )
    experiments = load_experiments(folder / "simulated.expt")
    mask = np.ones((150, 150), dtype=bool)
    mask[:, 60:70] = False
    with open(folder / "pixels.mask", "wb") as handle:
        pickle.dump((mask_as_flex(mask),), handle)
    for experiment in experiments:
        experiment.imageset.external_lookup.mask.filename = str(folder / "pixels.mask")
    experiments.as_file(folder / "diffuse_masked.expt")
    table = flex.reflection_table()
    table["id"] = flex.int(range(4))
    table["panel"] = flex.size_t(4, 0)
    table["miller_index"] = flex.miller_index(4, (1, 2, 3))
    table["xyzcal.px"] = flex.vec3_double(4, (30.0, 30.0, 0.5))
    table["bbox"] = flex.int6(*(flex.int(4, v) for v in (24, 37, 24, 37, 0, 1)))
    table["mask.ellipse"] = flex.vec3_double(4, (1 / 25, 0, 1 / 25))
    for index, experiment in enumerate(experiments):
        table.experiment_identifiers()[index] = experiment.identifier
    table.as_file(folder / "diffuse_masked.refl")
    return folder


@pytest.fixture
def folder(masked, copied_here):
    return copied_here(masked)


def extract(*arguments):
    run(["diffuse_masked.expt", "diffuse_masked.refl", "nproc=1", *arguments])


def result(stem="diffuse_extracted"):
    experiments = load_experiments(f"{stem}.expt", check_format=False)
    table = flex.reflection_table.from_file(f"{stem}.refl")
    table.assert_experiment_identifiers_are_consistent(experiments)
    return experiments, table


def test_files_and_columns(folder):
    process = subprocess.run(
        [
            "dials.diffuse_extract",
            "diffuse_masked.expt",
            "diffuse_masked.refl",
            "output.json=out.json",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert not process.returncode and not process.stderr, process.stderr
    assert "photons/pixel" in process.stdout
    experiments, table = result()
    assert len(experiments) == 4
    assert {name: type(table[name]) for name in table.keys()} == COLUMNS
    grid = grid_of(experiments)
    assert grid.subdivide == (3, 3, 3)
    assert grid.laue_group.type().lookup_symbol() == "P 4/m m m"
    cell = experiments[0].crystal.get_unit_cell().parameters()
    assert grid.unit_cell.parameters() == pytest.approx(cell)
    # 10 columns are masked, and the disc of radius 5 is Bragg on every image
    pixels = as_numpy(table["num_pixels.valid"])
    assert pixels.sum() == 4 * 150 * 140
    bragg = as_numpy(table["bragg"])
    assert pixels[bragg].sum() == 4 * 80
    for name in ("dials.diffuse_extract.log", "dials.diffuse_extract.html", "out.json"):
        assert (folder / name).stat().st_size > 100
    content = json.loads((folder / "out.json").read_text())
    assert set(content["models"]) == set(experiments.identifiers())
    assert len(content["stills"]) == 4 and "extract_diffuse" in content["plots"]
    # the mask still belongs to the images
    with_images = load_experiments("diffuse_extracted.expt")
    assert not with_images[0].imageset.external_lookup.mask.data.empty()


def test_derived_columns_and_pixels(folder):
    extract(
        "output.derived=True",
        "output.pixels=pixels.h5",
        "d_min=2",
        "subdivide=2,2,1",
        "output.html=None",
    )
    experiments, table = result()
    assert set(table.keys()) == set(COLUMNS) | {
        "miller_index",
        "s1",
        "d",
        "intensity.sum.value",
        "intensity.sum.variance",
    }
    assert grid_of(experiments).subdivide == (2, 2, 1)
    assert min(table["d"]) > 1.9
    assert not (folder / "dials.diffuse_extract.html").exists()
    found = dict(read_pixels("pixels.h5"))
    assert list(found) == list(experiments.identifiers())
    diffuse = ~as_numpy(table["bragg"])
    assert sum(map(len, found.values())) == as_numpy(table["num_pixels.valid"])[diffuse].sum()


def test_limits_of_zero_are_none(folder):
    extract()
    _, everything = result()
    extract("d_min=0", "d_max=0")
    assert result()[1].size() == everything.size()


def test_batches_hold_what_one_file_would(folder):
    extract()
    experiments, table = result()
    extract("output.batch_size=3", "nproc=2")
    parts = [result(f"diffuse_extracted_000{i}") for i in (1, 2)]
    assert [len(expts) for expts, _ in parts] == [3, 1]
    identifiers = [i for expts, _ in parts for i in expts.identifiers()]
    assert identifiers == list(experiments.identifiers())
    assert grid_of(parts[1][0]).to_dict() == grid_of(experiments).to_dict()
    for name in ("counts", "exposure", "voxel"):
        joined = np.concatenate([as_numpy(part[name]) for _, part in parts])
        assert np.array_equal(joined, as_numpy(table[name]))


def test_batches_where_one_file_would_be_too_long(folder, monkeypatch):
    extract()
    _, table = result()
    most = (as_numpy(table["id"]) == 0).sum()
    monkeypatch.setattr(batches, "MOST_ROWS", 3 * most)
    extract()
    parts = [result(f"diffuse_extracted_000{i}")[1] for i in (1, 2, 3, 4)]
    joined = np.concatenate([as_numpy(part["counts"]) for part in parts])
    assert np.array_equal(joined, as_numpy(table["counts"]))


def test_several_pairs_of_files(folder):
    extract()
    _, once = result()
    experiments = load_experiments("diffuse_masked.expt")
    table = flex.reflection_table.from_file("diffuse_masked.refl")
    names = []
    for number, chosen in enumerate(([0, 1], [2, 3])):
        part = type(experiments)([experiments[i] for i in chosen])
        part.as_file(f"part{number}.expt")
        table.select_on_experiment_identifiers(list(part.identifiers())).as_file(
            f"part{number}.refl"
        )
        names += [f"part{number}.expt", f"part{number}.refl"]
    run([*names, "nproc=1"])
    _, twice = result()
    for name in ("id", "counts", "exposure", "voxel", "bragg"):
        assert np.array_equal(as_numpy(once[name]), as_numpy(twice[name]))


def test_background_of_empty_shots(folder):
    extract("background=background.expt")
    _, table = result()
    per_pixel = as_numpy(table["background"]).sum() / as_numpy(table["num_pixels.valid"]).sum()
    assert per_pixel == pytest.approx(0.5, rel=0.05)


def refused(*arguments) -> str:
    with pytest.raises(SystemExit) as error:
        extract(*arguments)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert not list(Path.cwd().glob("*diffuse_extracted*"))
    return message


def change_expt(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["gain=0"], "gain"),
        (["exposure_time=0"], "exposure_time"),
        (["d_min=3", "d_max=2"], "d_min"),
        (["d_min=8000", "d_max=9000"], "usable pixel"),
        (["subdivide=3,2,3"], "subdivide"),
        (["background=nothing.expt"], "nothing.expt"),
        (["background=-3"], "background"),
        (["sensor.material=Xx"], "sensor.mu"),
        (["output.experiments=nowhere/x.expt"], "nowhere"),
        (["output.pixels=nowhere/x.h5"], "nowhere"),
    ],
)
def test_bad_parameters(folder, arguments, words):
    assert words in refused(*arguments)


def test_background_of_another_size(folder):
    np.save("map.npy", np.zeros((10, 10)))
    assert "map.npy" in refused("background=map.npy")


@pytest.mark.parametrize("wavelength", [0.0, float("nan")])
def test_bad_wavelength(folder, wavelength):
    change_expt(
        folder / "diffuse_masked.expt",
        lambda content: [beam.update(wavelength=wavelength) for beam in content["beam"]],
    )
    assert "wavelength" in refused()


def test_gain_zero_in_the_model(folder):
    change_expt(
        folder / "diffuse_masked.expt",
        lambda content: content["detector"][0]["panels"][0].update(gain=0.0),
    )
    assert "gain" in refused()


def test_empty_trusted_range(folder):
    change_expt(
        folder / "diffuse_masked.expt",
        lambda content: content["detector"][0]["panels"][0].update(trusted_range=[10.0, 5.0]),
    )
    assert "trusted range" in refused()


def test_saturated_pixels_are_not_counted(folder):
    change_expt(
        folder / "diffuse_masked.expt",
        lambda content: content["detector"][0]["panels"][0].update(trusted_range=[-0.5, 3.5]),
    )
    extract("output.pixels=pixels.h5", "corrections.air=False")
    _, table = result()
    raw = [
        e.imageset.get_raw_data(0)[0].as_numpy_array()
        for e in load_experiments("diffuse_masked.expt")
    ]
    allowed = np.ones((150, 150), dtype=bool)
    allowed[:, 60:70] = False
    good = [(r >= 0) & (r <= 3) & allowed for r in raw]
    assert sum(g.sum() for g in good) == as_numpy(table["num_pixels.valid"]).sum()
    assert sum(r[g].sum() for r, g in zip(raw, good)) == as_numpy(table["counts"]).sum()


def test_a_bad_image_does_not_stop_the_others(folder):
    bad = load_experiments("diffuse_masked.expt", check_format=False)[2].imageset.get_path(0)
    with open(bad, "r+b") as handle:
        handle.truncate(2500)
    extract()
    experiments, table = result()
    assert len(experiments) == 4 and set(table["id"]) == {0, 1, 3}
    log = (folder / "dials.diffuse_extract.log").read_text()
    assert "Processing still 2 failed" in log and bad in log


def test_a_missing_first_image_does_not_stop_a_run_with_background(folder):
    Path(
        load_experiments("diffuse_masked.expt", check_format=False)[0].imageset.get_path(0)
    ).unlink()
    extract("background=0.1")
    _, table = result()
    assert set(table["id"]) == {1, 2, 3}


def test_no_images_left(folder):
    shutil.rmtree(folder / "images")
    assert "images" in refused()
    assert "images" in refused("background=0.1")


def test_the_same_still_in_two_pairs(folder):
    experiments = load_experiments("diffuse_masked.expt", check_format=False)
    experiments[1:2].as_file("part.expt")
    table = flex.reflection_table.from_file("diffuse_masked.refl")
    table.select_on_experiment_identifiers([experiments[1].identifier]).as_file("part.refl")
    message = refused("part.expt", "part.refl")
    assert "give each still once" in message and "part.expt" in message


def test_a_copy_of_models_is_not_taken(folder):
    """Nothing is restored from it: to accept it would say otherwise."""
    Path("models.json").write_text("{}")
    assert "models.json" in refused("models.json")


def test_without_the_reflections(folder):
    with pytest.raises(SystemExit, match="refl"):
        run(["diffuse_masked.expt"])


@pytest.mark.parametrize("two_theta", [100.0, -150.0])
def test_detector_beyond_90_degrees(tmp_path, two_theta):
    """Even scattering on images of plain numpy arrays: all pixels of all stills count the same"""
    rng = np.random.default_rng(1)
    shape = (120, 140)
    detector = flat_detector(shape, two_theta=two_theta)
    images = [rng.poisson(3.0, shape) for _ in range(4)]
    files = write_stills(tmp_path, images, [crystal_at(rng) for _ in images], detector)
    size = ("bragg.mosaicity=0.05", "bragg.domain_size=2000")
    for command in (
        ("dials.diffuse_mask", *files, *size, "nproc=1"),
        ("dials.diffuse_extract", "diffuse_masked.expt", "diffuse_masked.refl", "nproc=1"),
    ):
        result = run_command(tmp_path, *command)
        assert result.returncode == 0, result.stderr
    table = flex.reflection_table.from_file(str(tmp_path / "diffuse_extracted.refl"))
    pixels = np.array(table["num_pixels.valid"])
    assert pixels.sum() > 0.99 * 4 * shape[0] * shape[1]
    assert np.array(table["counts"]).sum() / pixels.sum() == pytest.approx(3.0, rel=0.01)
