"""dials.diffuse_export as a function: what it writes of a map, and under which name."""

from __future__ import annotations

import numpy as np
import pytest
from merged_maps import merged_map

from cctbx import sgtbx
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.tables import double_column, miller_index_column
from dials_diffuse.export import workflow
from dials_diffuse.grid.voxel_grid import attach_grid
from dials_diffuse.phil.export import phil_scope


@pytest.fixture
def merged(run_in_tmp_path):
    """A tetragonal map, and its files scaled.expt and merged.refl in the working directory."""
    merged = merged_map("4/mmm")
    group = sgtbx.space_group_info("P 43 21 2").group()
    experiments = ExperimentList(
        [
            Experiment(
                identifier="one",
                crystal=Crystal((33, 0, 0), (0, 33, 0), (0, 0, 50), group),
                beam=Beam((0, 0, 1), 1.1),
                detector=Detector(),
            )
        ]
    )
    attach_grid(experiments, merged.grid)
    experiments.as_file("scaled.expt")
    table = flex.reflection_table()
    table["voxel"] = miller_index_column(merged.voxel)
    table["intensity"] = double_column(merged.columns["intensity"])
    table["variance"] = double_column(merged.columns["sigma"] ** 2)
    table.as_file("merged.refl")
    return merged


def export(folder, output=None, **changes):
    """workflow.run on the files of the fixture, without report."""
    params = phil_scope.extract()
    changes.setdefault("format", ["hkl"])
    for name, value in changes.items():
        setattr(params, name, value)
    for name, value in {"html": None, "json": None, **(output or {})}.items():
        setattr(params.output, name, value)
    pairs = [DataPair(folder / "scaled.expt")]
    return workflow.run(Inputs(pairs, [folder / "merged.refl"]), params)


def written(name, merged):
    """(hkl, intensity) of a text file, in the order of the map's voxels"""
    table = np.loadtxt(name)
    voxel = np.rint(table[:, :3] * merged.grid.subdivide).astype(int)
    return voxel, table[:, 3]


def test_the_map_is_written_and_shown(merged, run_in_tmp_path):
    result = export(run_in_tmp_path, format=["hkl", "mtz"], output={"json": "numbers.json"})
    assert result.files == {"hkl": "merged.hkl", "mtz": "merged.mtz"}
    voxel, intensity = written("merged.hkl", merged)
    np.testing.assert_array_equal(voxel, merged.voxel)
    assert intensity == pytest.approx(merged.columns["intensity"], rel=1e-6)
    # three sections, each with and without the isotropic part
    assert len(result.plots) == 6
    names = {path.name for path in run_in_tmp_path.iterdir()}
    assert names == {"scaled.expt", "merged.refl", "merged.hkl", "merged.mtz", "numbers.json"}


def test_limits(merged, run_in_tmp_path):
    result = export(run_in_tmp_path, d_min=12.0, d_max=30.0)
    d = merged.grid.d_of_voxel(merged.voxel)
    inside = (d >= 12) & (d <= 30)
    voxel, _ = written("merged_limited.hkl", merged)
    np.testing.assert_array_equal(voxel, merged.voxel[inside])
    assert len(result.merged) == inside.sum() < len(merged)


def test_voxels_under_the_bragg_mask_are_left_out(merged, run_in_tmp_path):
    table = flex.reflection_table.from_file("merged.refl")
    share = np.linspace(0, 1, len(merged))
    table["masked_fraction"] = double_column(share)
    table.as_file("merged.refl")
    export(run_in_tmp_path, max_masked_fraction=0.3)
    voxel, _ = written("merged_limited.hkl", merged)
    np.testing.assert_array_equal(voxel, merged.voxel[share <= 0.3])


def test_the_isotropic_part_is_removed_from_files_only(merged, run_in_tmp_path):
    result = export(run_in_tmp_path, remove_isotropic=True)
    voxel, rest = written("merged_anisotropic.hkl", merged)
    np.testing.assert_array_equal(voxel, merged.voxel)
    # what was removed depends on |q| alone: equal d, equal mean
    mean = merged.columns["intensity"] - rest
    d = np.round(merged.grid.d_of_voxel(voxel), 6)
    several = [mean[d == value] for value in np.unique(d) if (d == value).sum() > 1]
    assert several and all(np.ptp(values) < 1e-4 for values in several)
    assert abs(rest.mean()) < 2 < rest.std() and mean.mean() == pytest.approx(100, abs=3)
    np.testing.assert_array_equal(result.merged.columns["intensity"], merged.columns["intensity"])


def test_pictures_and_sections_of_another_column(merged, run_in_tmp_path):
    result = export(
        run_in_tmp_path, column="sigma", section=["hk0"], output={"png": True, "prefix": "figure"}
    )
    assert len(result.plots) == 1
    names = {path.name for path in run_in_tmp_path.iterdir()}
    assert {"figure.hkl", "figure_hk0.png"} <= names
    assert (run_in_tmp_path / "figure_hk0.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": []}, "Nothing to write"),
        ({"section": ["h00"]}, "Unknown section"),
        ({"column": "phase"}, "no column=phase; there are intensity, sigma"),
        ({"d_min": 2.0, "d_max": 3.0}, "No voxel lies between"),
        ({"max_masked_fraction": 0.2}, "no column masked_fraction"),
    ],
)
def test_nothing_is_written_for_bad_parameters(merged, run_in_tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        export(run_in_tmp_path, **changes)
    assert {path.name for path in run_in_tmp_path.iterdir()} == {"scaled.expt", "merged.refl"}
