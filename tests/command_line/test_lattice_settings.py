"""Stills of one lattice in several settings give the map of the pure set; images of plain numpy arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import run_command
from plain_images import write_stills

from cctbx import crystal, sgtbx, uctbx
from dxtbx.model import Crystal

from dials.array_family import flex

SHAPE = (120, 120)
C2 = ((80.0, 50.0, 60.0, 90.0, 105.0, 90.0), "C 1 2 1")
P1 = ((40.0, 47.0, 55.0, 80.0, 95.0, 103.0), "P 1")
R3 = ((80.0, 80.0, 120.0, 90.0, 90.0, 120.0), "R 3 :H")
TO_RHOMBOHEDRAL = crystal.symmetry(R3[0], R3[1]).change_of_basis_op_to_primitive_setting().as_xyz()
STEPS = (
    (
        "dials.diffuse_mask",
        "stills.expt",
        "stills.refl",
        "bragg.method=none",
        "dynamic.enable=False",
        "dynamic.shadow=False",
        "output.html=None",
    ),
    (
        "dials.diffuse_extract",
        "diffuse_masked.expt",
        "diffuse_masked.refl",
        "output.json=extract.json",
    ),
    (
        "dials.diffuse_grid",
        "diffuse_extracted.expt",
        "diffuse_extracted.refl",
        "ambiguity.resolve=False",
    ),
)


def crystals_of(kind, bases):
    rng = np.random.default_rng(3)
    made = []
    for basis in bases:
        cell, symbol = kind
        axes = np.array(uctbx.unit_cell(cell).orthogonalization_matrix()).reshape(3, 3).T
        each = Crystal(*map(tuple, axes), space_group_symbol=symbol)
        axis = rng.normal(size=3)
        each.rotate_around_origin(tuple(axis / np.linalg.norm(axis)), rng.uniform(0, 360))
        made.append(each.change_basis(sgtbx.change_of_basis_op(basis)))
    return made


def map_of(folder, crystals):
    """voxel of the asymmetric unit -> (counts, exposure)"""
    rng = np.random.default_rng(4)
    images = [rng.poisson(3.0, SHAPE) for _ in crystals]
    write_stills(folder, images, crystals)
    for step in STEPS:
        result = run_command(folder, *step, "nproc=1")
        assert result.returncode == 0, result.stderr
    table = flex.reflection_table.from_file(str(folder / "diffuse_gridded.refl"))
    voxels, rows = np.unique(np.array(table["asu_voxel"]), axis=0, return_inverse=True)
    sums = [np.bincount(rows.ravel(), np.array(table[n])) for n in ("counts", "exposure")]
    return voxels, np.array(sums)


@pytest.mark.parametrize(
    "kind, others",
    [
        (C2, ["x-z,y,z", "x,y,x+z", "x+z,-y,-z"]),
        (P1, ["x+y,y,z", "y,z,x", "-x-y-z,y,-z"]),
        (R3, [TO_RHOMBOHEDRAL]),
    ],
)
def test_a_mixture_gives_the_map_of_the_pure_set(tmp_path, kind, others):
    bases = ["x,y,z"] * 3 + others
    voxels, sums = map_of(tmp_path / "pure", crystals_of(kind, ["x,y,z"] * len(bases)))
    mixed_voxels, mixed_sums = map_of(tmp_path / "mixed", crystals_of(kind, bases))
    np.testing.assert_array_equal(mixed_voxels, voxels)
    np.testing.assert_allclose(mixed_sums, sums, rtol=1e-6)
    stills = json.loads((tmp_path / "mixed" / "extract.json").read_text())["stills"]
    assert [bool(still["reindexed"]) for still in stills] == [basis != "x,y,z" for basis in bases]
    log = (tmp_path / "mixed" / "dials.diffuse_extract.log").read_text()
    assert f"indexed in {len(others) + 1} settings of one lattice" in log
    assert "one lattice" not in (tmp_path / "pure" / "dials.diffuse_extract.log").read_text()


def test_crystals_of_two_forms_are_refused(tmp_path):
    other = ((70.0, 71.0, 72.0, 85.0, 95.0, 100.0), "P 1")
    crystals = [*crystals_of(P1, ["x,y,z"] * 3), *crystals_of(other, ["x,y,z"] * 2)]
    images = [np.ones(SHAPE, dtype=int) for _ in crystals]
    write_stills(tmp_path, images, crystals)
    for step in STEPS[:2]:
        assert run_command(tmp_path, *step, "nproc=1").returncode == 0
    result = run_command(tmp_path, *STEPS[2], "nproc=1")
    assert result.returncode == 1 and len(result.stderr.strip().splitlines()) == 1
    assert "2 of 5 stills have another cell" in result.stderr
    assert run_command(tmp_path, *STEPS[2], "grid.max_cell_deviation=0.05").returncode == 0
