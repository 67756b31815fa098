"""Time and memory of dials.diffuse_grid against the number of stills.

    python benchmarks/bench_grid.py [--stills 1500] [--observations 80000] [--batch 100] [--folder DIR]

Makes batches of synthetic extracted observations (random orientations, Ewald sphere through a grid
of n = 3), grids a quarter, half and all of them, and prints seconds, seconds a still and the
peak resident memory of the command.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

from cctbx import sgtbx, uctbx
from dxtbx.model import Beam, Crystal, Detector, Experiment
from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    bool_column,
    double_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.grid.symmetry import laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid

CELL = (58.0, 58.0, 150.0, 90, 90, 90)
D_MIN = 1.4  # at least 80,000 voxels on the Ewald sphere of any orientation
WAVELENGTH = 1.0


def rotation(rng) -> np.ndarray:
    """A random rotation matrix"""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def write_batch(folder: pathlib.Path, number: int, n_stills: int, n_observations: int) -> int:
    """Write a batch of stills, voxels on their Ewald spheres within D_MIN; how many observations"""
    rng = np.random.default_rng(number)
    group = sgtbx.space_group_info("P 41 21 2").group()
    grid = VoxelGrid((3, 3, 3), uctbx.unit_cell(CELL), laue_group_of(group), d_min=D_MIN)
    b = np.array(grid.unit_cell.fractionalization_matrix()).reshape(3, 3).T
    beam, detector = Beam((0, 0, 1), WAVELENGTH), Detector()
    experiments, voxels = ExperimentList(), []
    two_theta = 2 * np.arcsin(WAVELENGTH / 2 / D_MIN)
    for still in range(n_stills):
        a = rotation(rng) @ b
        # uniform over the cap of the sphere; more than enough, then each voxel once
        cosine = rng.uniform(np.cos(two_theta), 1, 6 * n_observations)
        phi = rng.uniform(0, 2 * np.pi, cosine.size)
        sine = np.sqrt(1 - cosine**2)
        q = np.stack([sine * np.cos(phi), sine * np.sin(phi), 1 - cosine], axis=1) / WAVELENGTH
        hkl = q @ np.linalg.inv(a).T
        keys = np.unique(pack_voxels(np.floor(hkl * grid.subdivide + 0.5).astype(np.int32)))
        voxels.append(unpack_voxels(keys[rng.permutation(len(keys))[:n_observations]]))
        axes = np.linalg.inv(a)
        crystal = Crystal(*(tuple(axis) for axis in axes), group)
        experiments.append(
            Experiment(
                identifier=f"{number}-{still}", beam=beam, detector=detector, crystal=crystal
            )
        )
    attach_grid(experiments, grid)
    ids = np.repeat(np.arange(n_stills), [len(v) for v in voxels])
    size = len(ids)
    table = flex.reflection_table()
    table["id"] = int_column(ids)
    table["panel"] = size_t_column(np.zeros(size))
    table["voxel"] = miller_index_column(np.concatenate(voxels))
    table["xyzobs.px.value"] = vec3_column(rng.uniform(0, 2000, (size, 3)))
    table["bragg"] = bool_column(rng.random(size) < 0.1)
    table["num_pixels.valid"] = int_column(np.full(size, 60))
    table["counts"] = double_column(rng.poisson(240, size))
    table["background"] = double_column(np.full(size, 100.0))
    table["background.variance"] = double_column(np.full(size, 1.0))
    table["exposure"] = double_column(rng.uniform(0.9, 1.1, size))
    for i, experiment in enumerate(experiments):
        table.experiment_identifiers()[i] = experiment.identifier
    experiments.as_file(str(folder / f"extracted_{number:04d}.expt"))
    table.as_file(str(folder / f"extracted_{number:04d}.refl"))
    return size


def measure(folder: pathlib.Path, n_batches: int) -> tuple[float, float]:
    """Seconds and peak memory (GB) of dials.diffuse_grid on the first batches"""
    names = [
        str(folder / f"extracted_{i:04d}.{kind}")
        for i in range(n_batches)
        for kind in ("expt", "refl")
    ]
    code = (
        "import resource, sys; from dials_diffuse.command_line.diffuse_grid import run; run(sys.argv[1:]); "
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = folder / "out"
    out.mkdir()
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=out, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    if result.returncode:
        raise SystemExit(result.stdout[-2000:] + result.stderr[-2000:])
    peak = int(result.stdout.split("PEAK")[1]) / 1024**2
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stills", type=int, default=1500)
    parser.add_argument("--observations", type=int, default=80_000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--folder", default=None, help="where to put the data (some 7 MB a still)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = pathlib.Path(name)
        n_batches = -(-args.stills // args.batch)
        size = sum(write_batch(folder, i, args.batch, args.observations) for i in range(n_batches))
        print(
            f"{n_batches * args.batch} stills, {size / n_batches / args.batch:.0f} observations a still"
        )
        print(f"{'stills':>8} {'seconds':>9} {'ms/still':>9} {'peak GB':>8}")
        for part in sorted({max(1, n_batches // 4), max(1, n_batches // 2), n_batches}):
            seconds, peak = measure(folder, part)
            n = part * args.batch
            print(f"{n:8d} {seconds:9.1f} {1000 * seconds / n:9.1f} {peak:8.2f}", flush=True)


if __name__ == "__main__":
    main()
