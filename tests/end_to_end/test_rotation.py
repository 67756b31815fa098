"""A rotation series by DIALS's commands and dials.diffuse_process, against the truth.

benchmarks/bench_rotation.py compares a longer one, indexed from nothing, with random stills.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.simulation.comparison import compare_with_truth


def run(folder, module, *arguments):
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-2000:]


@pytest.mark.slow
def test_a_crystal_that_turns_gives_the_map_that_noise_allows(tmp_path):
    run(
        tmp_path,
        "dials_diffuse.command_line.diffuse_simulate",
        "stills=20",
        "crystal.orientation=rotation",
        "crystal.rotation_step=1",
        "crystal.rotation_samples=5",
        "detector.image_size=160,160",
        "detector.pixel_size=0.75",
        "output.html=None",
        "nproc=2",
    )
    # the orientation at the start is in sequence.expt: indexing from nothing takes longer
    run(tmp_path, "dials.command_line.find_spots", "sequence.expt", "nproc=1")
    run(tmp_path, "dials.command_line.index", "sequence.expt", "strong.refl")
    run(tmp_path, "dials.command_line.refine", "indexed.expt", "indexed.refl", "scan_varying=True")
    run(
        tmp_path,
        "dials_diffuse.command_line.diffuse_process",
        "refined.expt",
        "refined.refl",
        "mp.nproc=2",
        "scale.sweeps.degrees=1",
        "output.html=None",
    )
    experiments = ExperimentList.from_file(
        str(tmp_path / "diffuse_scaled.expt"), check_format=False
    )
    assert len(experiments) == 1
    comparison = compare_with_truth(
        tmp_path / "truth.json",
        experiments,
        flex.reflection_table.from_file(str(tmp_path / "diffuse_scaled.refl")),
        flex.reflection_table.from_file(str(tmp_path / "diffuse_merged.refl")),
    )
    assert comparison.n_voxels > 10000
    assert comparison.correlation == pytest.approx(comparison.ceiling, abs=0.002)
    assert comparison.anisotropic == pytest.approx(comparison.ceiling_anisotropic, abs=0.005)
    assert comparison.bias == pytest.approx(0, abs=0.01)
    assert comparison.scales > 0.999
