from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from commands import run_command

import iotbx.mtz
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import double_column, int_column, miller_index_column
from dials_diffuse.grid.symmetry import laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid
from dials_diffuse.io.model_copy import models_to_json


@pytest.fixture
def folder(tmp_path):
    """scaled.expt and merged.refl of a small tetragonal map, and models.json."""
    crystal = Crystal((40, 0, 0), (0, 40, 0), (0, 0, 60), space_group_symbol="P 41")
    experiment = Experiment(
        identifier="one", crystal=crystal, beam=Beam((0, 0, 1), 1.1), detector=Detector()
    )
    experiments = ExperimentList([experiment])
    grid = VoxelGrid(
        (3, 3, 2), crystal.get_unit_cell(), laue_group_of(crystal.get_space_group()), d_min=9
    )
    voxel = np.indices((41, 41, 41)).reshape(3, -1).T - 20
    voxel = np.unique(grid.to_asu(voxel[grid.contains(voxel)]), axis=0)
    attach_grid(experiments, grid)
    experiments.as_file(str(tmp_path / "scaled.expt"))
    (tmp_path / "models.json").write_text(json.dumps({"models": models_to_json(experiments)}))
    experiments[0].scaling_model = None
    experiments.as_file(str(tmp_path / "lost.expt"))
    rng = np.random.default_rng(8)
    table = flex.reflection_table()
    table["voxel"] = miller_index_column(voxel)
    table["intensity"] = double_column(rng.normal(50, 5, len(voxel)))
    table["variance"] = double_column(np.full(len(voxel), 4.0))
    table["n_obs"] = int_column(np.full(len(voxel), 2))
    table.as_file(str(tmp_path / "merged.refl"))
    return tmp_path


def export(folder, *arguments):
    return run_command(folder, "dials.diffuse_export", *arguments)


def test_all_formats_report_and_pictures(folder):
    arguments = ["format=mtz+ccp4+h5+npz+hkl", "output.png=True", "output.json=numbers.json"]
    result = subprocess.run(
        ["dials.diffuse_export", "scaled.expt", "merged.refl", *arguments, "section=hk0 h0.333l"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert not result.returncode and not result.stderr
    names = {path.name for path in folder.iterdir()}
    assert {f"merged.{kind}" for kind in ("mtz", "ccp4", "h5", "npz", "hkl")} <= names
    assert {"merged_hk0.png", "merged_h0.333l.png", "dials.diffuse_export.html"} <= names
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["grid"]["subdivide"] == [3, 3, 2]
    assert len(numbers["plots"]) == 4  # two sections, each with and without the isotropic part
    (array, multiplicity) = iotbx.mtz.object(str(folder / "merged.mtz")).as_miller_arrays()
    assert array.size() == numbers["voxels"] == multiplicity.size()
    assert array.unit_cell().parameters() == pytest.approx((120, 120, 120, 90, 90, 90), rel=1e-5)
    assert array.info().wavelength == pytest.approx(1.1)
    assert not [name for name in names if name.startswith(".")]


def test_isotropic_part_removed_and_limits(folder):
    result = export(
        folder,
        "scaled.expt",
        "merged.refl",
        "format=hkl",
        "remove_isotropic=True",
        "d_min=12",
        "output.prefix=rest",
    )
    assert not result.returncode and not result.stderr
    table = np.loadtxt(folder / "rest.hkl")
    assert abs(table[:, 3].mean()) < 2 and table[:, 3].std() > 3
    d = 1 / np.linalg.norm(table[1:, :3] / [40, 40, 60], axis=1)
    assert d.min() >= 12 - 1e-4  # indices are rounded in the file
    assert not (folder / "merged.mtz").exists()


@pytest.mark.parametrize(
    "arguments, name",
    [
        (["remove_isotropic=True"], "merged_anisotropic"),
        (["d_min=12"], "merged_limited"),
        (["remove_isotropic=True", "d_max=30"], "merged_anisotropic_limited"),
        (["extent=asymmetric"], "merged_asymmetric"),
    ],
)
def test_changed_content_does_not_replace_the_map_of_the_input(folder, arguments, name):
    (folder / "merged.h5").write_text("what dials.diffuse_scale wrote")
    result = export(
        folder, "scaled.expt", "merged.refl", "format=h5", "output.json=numbers.json", *arguments
    )
    assert not result.returncode and not result.stderr
    assert (folder / "merged.h5").read_text() == "what dials.diffuse_scale wrote"
    assert (folder / f"{name}.h5").is_file()
    assert json.loads((folder / "numbers.json").read_text())["files"] == {"h5": f"{name}.h5"}


def test_all_batches_at_once_with_their_observations(folder):
    """What a shell makes of diffuse_scaled_* and diffuse_merged.refl"""
    experiments = ExperimentList.from_file(folder / "scaled.expt", check_format=False)
    experiments[0].identifier = "two"
    experiments[0].beam.set_wavelength(1.3)
    experiments.as_file(folder / "scaled_2.expt")
    observations = flex.reflection_table()
    for name in ("counts", "exposure"):
        observations[name] = flex.double([1.0])
    observations["voxel"] = flex.miller_index([(1, 2, 3)])
    observations.as_file(folder / "scaled.refl")
    result = export(folder, "scaled.expt", "scaled.refl", "scaled_2.expt", "merged.refl")
    assert not result.returncode and not result.stderr
    (array, _) = iotbx.mtz.object(str(folder / "merged.mtz")).as_miller_arrays()
    assert array.info().wavelength == pytest.approx(1.2)
    result = export(folder, "scaled.expt", "scaled.refl")
    assert result.returncode and "None of the .refl files is a merged map" in result.stderr


def test_a_section_of_another_column_has_its_units(folder):
    for column, units in (("n_obs", ""), ("sigma", "photons/(s sr)")):
        result = export(
            folder,
            "scaled.expt",
            "merged.refl",
            "format=hkl",
            f"column={column}",
            "output.json=column.json",
            "output.prefix=column",
        )
        assert not result.returncode and not result.stderr
        plots = json.loads((folder / "column.json").read_text())["plots"]
        (plot,) = (plots[name] for name in plots if "hk0" in name)
        assert plot["data"][0]["colorbar"]["title"]["text"] == units


def test_lost_models_come_from_the_copy(folder):
    result = export(folder, "lost.expt", "merged.refl", "models.json", "format=hkl")
    assert not result.returncode and not result.stderr
    assert (folder / "merged.hkl").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["lost.expt", "merged.refl"], "carries no grid"),
        (["scaled.expt"], "No .refl file in the input"),
        (["scaled.expt", "merged.refl", "section=h00"], "Unknown section"),
        (["scaled.expt", "merged.refl", "column=phase"], "no column=phase"),
        (["scaled.expt", "merged.refl", "d_min=2", "d_max=3"], "No voxel lies between"),
        (["scaled.expt", "merged.refl", "format=pdb"], "format"),
        (["scaled.expt", "merged.refl", "output.prefix=absent/map"], "Can't write"),
    ],
)
def test_bad_input(folder, arguments, message):
    before = {path.name for path in folder.iterdir()}
    result = export(folder, *arguments)
    assert result.returncode
    assert message in result.stderr and "Traceback" not in result.stderr
    assert {path.name for path in folder.iterdir()} - before <= {"dials.diffuse_export.log"}
