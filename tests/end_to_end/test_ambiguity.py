"""Stills of simulated images that were indexed in two settings, by the commands, to one map."""

from __future__ import annotations

import numpy as np
import pytest
from commands import run_command

from cctbx import sgtbx
from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.voxel_grid import grid_of
from dials_diffuse.io.integrated_reflections import read_integrated
from dials_diffuse.simulation.comparison import compare_with_truth

STILLS = 40


def run(folder, command, *arguments):
    result = run_command(folder, f"dials.diffuse_{command}", *arguments)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr


def setting(experiment):
    return np.array(experiment.crystal.get_A()).reshape(3, 3)


@pytest.mark.slow
def test_half_of_the_stills_of_a_p4_crystal_indexed_the_other_way(tmp_path):
    run(
        tmp_path,
        "simulate",
        f"stills={STILLS}",
        "crystal.space_group=P 4",
        "crystal.unit_cell=40,40,50,90,90,90",
        "detector.image_size=160,160",
        "detector.pixel_size=0.75",
        "exposure.mean_photons=5",
        "output.html=None",
    )
    experiments = ExperimentList.from_file(str(tmp_path / "simulated.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(tmp_path / "simulated.refl"))
    true_indices = as_numpy(table["miller_index"])
    as_simulated = [setting(experiment) for experiment in experiments]
    swap = sgtbx.change_of_basis_op("k,h,-l")
    # one less than half: the setting of most is the one that all get
    swapped = set(np.random.default_rng(4).permutation(STILLS)[: STILLS // 2 - 1].tolist())
    for number in swapped:
        experiments[number].crystal = experiments[number].crystal.change_basis(swap)
        mine = table["id"] == number
        table["miller_index"].set_selected(mine, swap.apply(table["miller_index"].select(mine)))
    experiments.as_file(str(tmp_path / "mixed.expt"))
    table.as_file(str(tmp_path / "mixed.refl"))

    run(tmp_path, "mask", "mixed.expt", "mixed.refl", "output.html=None")
    run(tmp_path, "extract", "diffuse_masked.expt", "diffuse_masked.refl", "output.html=None")
    run(tmp_path, "grid", "diffuse_extracted.expt", "diffuse_extracted.refl", "output.html=None")
    run(tmp_path, "scale", "diffuse_gridded.expt", "diffuse_gridded.refl", "output.html=None")

    scaled = ExperimentList.from_file(str(tmp_path / "diffuse_scaled.expt"), check_format=False)
    assert len(scaled) == STILLS
    # the operators of 4/m that leave the setting as it is
    same = [
        np.array(op.r().as_double()).reshape(3, 3) for op in sgtbx.space_group_info("P 4/m").group()
    ]
    for experiment, before in zip(scaled, as_simulated):
        assert any(np.allclose(setting(experiment), before @ op, atol=1e-8) for op in same)
    comparison = compare_with_truth(
        tmp_path / "truth.json",
        scaled,
        flex.reflection_table.from_file(str(tmp_path / "diffuse_scaled.refl")),
        flex.reflection_table.from_file(str(tmp_path / "diffuse_merged.refl")),
    )
    assert comparison.anisotropic > 0.97 * comparison.ceiling_anisotropic
    # the integrated reflections, which the user has in both settings, to those of the grid
    grid = grid_of(scaled)
    reflections = read_integrated(table, "mixed.refl", scaled, grid, np.ones(STILLS), 0.0)
    assert len(reflections.rows) > 1000
    assert np.array_equal(reflections.miller_index, grid.to_asu(true_indices[reflections.rows]))
