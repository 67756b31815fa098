"""Extracted observations with a known truth, made without images."""

from __future__ import annotations

import itertools

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
from dials_diffuse.grid.symmetry import laue_group_of, reciprocal_operators
from dials_diffuse.grid.voxel_grid import VoxelGrid, attach_grid


class Truth:
    """Intensity with the symmetry of a Laue group, anisotropic, of any point."""

    def __init__(self, laue_group, seed=0):
        self.operators = reciprocal_operators(laue_group)
        rng = np.random.default_rng(seed)
        self.waves = rng.normal(0, 1.2, (4, 3))
        self.phases = rng.uniform(0, 2 * np.pi, 4)

    def __call__(self, hkl, q):
        wave = np.zeros(len(hkl))
        for op in self.operators:
            for k, phase in zip(self.waves, self.phases):
                wave += np.cos(hkl @ op.T @ k + phase)
        wave /= np.sqrt(len(self.operators)) * 2
        return 100 * np.exp(-4 * q**2) * (1 + 0.5 * np.tanh(wave))


def random_rotation(rng):
    """A uniform random rotation matrix (from a random unit quaternion)"""
    w, x, y, z = (lambda v: v / np.linalg.norm(v))(rng.normal(size=4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def make_extracted(
    folder,
    n_stills=6,
    n_files=1,
    space_group="P 4",
    cell=(40, 40, 60, 90, 90, 90),
    subdivide=(3, 3, 3),
    d_min=5.0,
    exposure=0.2,
    swapped=None,
    cells=None,
    seed=0,
):
    """Write extracted_0001.expt/.refl ... and return (names, voxel, values of the truth, grid).

    Args:
        swapped: (operator as text, which stills are indexed that way)
        cells: number of a still -> its own cell
    """
    group = sgtbx.space_group_info(space_group).group()
    unit_cell = uctbx.unit_cell(cell)
    grid = VoxelGrid(subdivide, unit_cell, laue_group_of(group), d_min=d_min)
    truth = Truth(grid.laue_group)
    reach = [int(p * n / d_min) + 1 for p, n in zip(cell, subdivide)]
    voxel = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    voxel = voxel[grid.contains(voxel) & np.any(voxel != 0, axis=1)]
    frame = np.array(unit_cell.fractionalization_matrix()).reshape(3, 3).T
    hkl = grid.hkl_of_voxel(voxel)
    values = truth(hkl, np.linalg.norm(hkl @ frame.T, axis=1))
    beam = Beam((0, 0, 1), 1.0)
    s0 = np.array(beam.get_s0())
    names = []
    edge = 0.5 / np.max(np.array(cell[:3]) * subdivide)
    for file_number, stills in enumerate(np.array_split(np.arange(n_stills), n_files)):
        experiments, columns = ExperimentList(), []
        for local, still in enumerate(stills):
            # the same still whatever file it is in
            rng = np.random.default_rng([seed, still])
            own = uctbx.unit_cell((cells or {}).get(int(still), cell))
            b = np.array(own.fractionalization_matrix()).reshape(3, 3).T
            a = random_rotation(rng) @ b
            axes = np.linalg.inv(a)
            crystal = Crystal(*(tuple(axis) for axis in axes), group)
            q = hkl @ a.T
            hit = np.abs(np.linalg.norm(q + s0, axis=1) - 1.0) < edge
            time = exposure * rng.uniform(0.7, 1.3, hit.sum())
            counts = rng.poisson(time * values[hit] + 0.5)
            indices = voxel[hit]
            if swapped and still in swapped[1]:
                change = sgtbx.change_of_basis_op(swapped[0])
                matrix = np.array(change.c_inv().r().as_double()).reshape(3, 3).T
                indices = np.rint(indices @ matrix.T).astype(int)
                crystal = crystal.change_basis(change)
                crystal.set_space_group(group)
            pixels = rng.integers(1, 9, hit.sum())
            columns.append((np.full(hit.sum(), local), indices, counts, time, pixels))
            experiments.append(
                Experiment(
                    identifier=f"still-{still}", beam=beam, detector=Detector(), crystal=crystal
                )
            )
        ids, indices, counts, time, pixels = (np.concatenate(part) for part in zip(*columns))
        size = len(ids)
        table = flex.reflection_table()
        table["id"] = int_column(ids)
        table["panel"] = size_t_column(np.zeros(size))
        table["voxel"] = miller_index_column(indices)
        table["xyzobs.px.value"] = vec3_column(np.column_stack([counts, pixels, ids]))
        table["bragg"] = bool_column(np.all(indices % np.array(subdivide) == 0, axis=1))
        table["num_pixels.valid"] = int_column(pixels)
        table["counts"] = double_column(counts)
        table["background"] = double_column(np.full(size, 0.5))
        table["background.variance"] = double_column(np.full(size, 0.01))
        table["exposure"] = double_column(time)
        for local, experiment in enumerate(experiments):
            table.experiment_identifiers()[local] = experiment.identifier
        attach_grid(experiments, grid)
        suffix = f"_{file_number + 1:04d}" if n_files > 1 else ""
        for name, data in (
            (f"extracted{suffix}.expt", experiments),
            (f"extracted{suffix}.refl", table),
        ):
            data.as_file(str(folder / name))
            names.append(name)
    return names, voxel, values, grid
