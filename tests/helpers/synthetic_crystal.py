"""Scaled observations of a crystal without interference, for tests of dials.diffuse_absolute."""

from __future__ import annotations

import numpy as np
import xraylib

from cctbx import sgtbx, uctbx
from dxtbx.imageset import ImageSetFactory
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    bool_column,
    double_column,
    int_column,
    miller_index_column,
    size_t_column,
    vec3_column,
)
from dials_diffuse.grid.symmetry import laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.model.scaling_model import DiffuseScalingModel

CELL = (21.0, 21.0, 26.0, 90, 90, 90)
FORMULA = "C 30 H 48 N 9 O 9 S 1"
COPIES = 8
ATOMS = {"C": 30, "H": 48, "N": 9, "O": 9, "S": 1}


def sum_over_atoms(function, q, power):
    """Sum over the unit cell of an xraylib table, function(Z, |q|/2)"""
    total = np.zeros(len(q))
    grid = np.linspace(0.0, q.max() + 0.01, 400)
    for element, number in ATOMS.items():
        z = xraylib.SymbolToAtomicNumber(element)
        values = [function(z, max(x / 2, 0.001)) for x in grid]
        total += COPIES * number * np.interp(q, grid, values) ** power
    return total


class SyntheticCrystal:
    """Observations whose absolute scale is known: intensity = (coherent + incoherent) / scale."""

    def __init__(
        self, scale=5.0, b_factor=12.0, d_min=1.25, n_stills=6, rows=60000, seed=3, background=0.0
    ):
        self.scale = scale
        group = sgtbx.space_group_info("P41212").group()
        self.grid = VoxelGrid((2, 2, 2), uctbx.unit_cell(CELL), laue_group_of(group), d_min=d_min)
        rng = np.random.default_rng(seed)
        limit = [int(2 * c / d_min) + 1 for c in CELL[:3]]
        axes = np.meshgrid(*(np.arange(-n, n + 1) for n in limit), indexing="ij")
        voxels = np.stack([a.ravel() for a in axes], axis=1)
        q = np.linalg.norm(self.grid.q_of_voxel(voxels), axis=1)
        voxels = voxels[(q > 0.03) & (q < 1 / d_min)]
        self.voxels = voxels
        f2 = sum_over_atoms(xraylib.FF_Rayl, np.linspace(0, 1.4, 600), 2)
        inc = sum_over_atoms(xraylib.SF_Compt, np.linspace(0, 1.4, 600), 1)
        table_q = np.linspace(0, 1.4, 600)
        self.experiments = ExperimentList()
        self.table = flex.reflection_table()
        beam = BeamFactory.simple(1.0)
        detector = DetectorFactory.simple("PAD", 100, (50, 50), "+x", "-y", (0.5, 0.5), (200, 200))
        for i in range(n_stills):
            crystal = Crystal((CELL[0], 0, 0), (0, CELL[1], 0), (0, 0, CELL[2]), "P41212")
            axis = rng.normal(size=3)
            crystal.rotate_around_origin(tuple(axis / np.linalg.norm(axis)), rng.uniform(0, 360))
            g, offset = rng.uniform(0.5, 1.5), rng.uniform(0, 3.0)
            model = DiffuseScalingModel(
                {"scale": {"parameters": flex.double([g])}},
                {"corrections": ["scale"], "grid": self.grid.to_dict()},
            )
            self.experiments.append(
                Experiment(
                    beam=beam,
                    detector=detector,
                    crystal=crystal,
                    scaling_model=model,
                    imageset=ImageSetFactory.make_imageset([f"still_{i}.cbf"], check_format=False),
                    identifier=f"still{i}",
                )
            )
            chosen = rng.choice(len(voxels), rows, replace=False)
            v = voxels[chosen]
            q = np.linalg.norm(self.grid.q_of_voxel(v), axis=1)
            # Bragg intensity lies in the voxel of the node, one of eight
            node = (v % 2 == 0).all(axis=1)
            coherent, incoherent = np.interp(q, table_q, f2), np.interp(q, table_q, inc)
            fading = np.exp(-b_factor * q**2 / 2)
            wilson = rng.exponential(size=len(v))
            intensity = coherent * (1 - fading) + incoherent
            intensity = intensity + np.where(node, 8 * coherent * fading * wilson, 0)
            exposure = rng.uniform(0.5, 1.5, len(v)) * 50.0 * scale / f2[0]
            expected = exposure * (g * intensity / scale + offset)
            expected_background = exposure * 4.0
            part = flex.reflection_table()
            part["id"] = int_column(np.full(len(v), i))
            part["panel"] = size_t_column(np.zeros(len(v)))
            part["voxel"] = miller_index_column(v)
            part["asu_voxel"] = miller_index_column(self.grid.to_asu(v))
            part["xyzobs.px.value"] = vec3_column(np.zeros((len(v), 3)))
            part["bragg"] = bool_column(node)
            part["num_pixels.valid"] = int_column(np.full(len(v), 4))
            part["counts"] = double_column(
                rng.poisson(
                    expected + expected_background + background * g * exposure * f2[-1] / scale
                )
            )
            part["background"] = double_column(expected_background)
            part["background.variance"] = double_column(np.zeros(len(v)))
            part["exposure"] = double_column(exposure)
            part["inverse_scale_factor"] = double_column(np.full(len(v), g))
            part["offset"] = double_column(np.full(len(v), offset))
            self.table.extend(part)
        for i, experiment in enumerate(self.experiments):
            self.table.experiment_identifiers()[i] = experiment.identifier
        self.merged = self._merged(table_q, f2, inc, b_factor)

    def _merged(self, table_q, f2, inc, b_factor):
        asu = np.unique(self.grid.to_asu(self.voxels), axis=0)
        asu = asu[~(asu % 2 == 0).all(axis=1)]
        q = np.linalg.norm(self.grid.q_of_voxel(asu), axis=1)
        self.truth = np.interp(q, table_q, f2) * (1 - np.exp(-b_factor * q**2 / 2))
        intensity = (self.truth + np.interp(q, table_q, inc)) / self.scale
        merged = flex.reflection_table()
        merged["voxel"] = miller_index_column(asu)
        merged["hkl"] = vec3_column(self.grid.hkl_of_voxel(asu))
        merged["q"] = vec3_column(self.grid.q_of_voxel(asu))
        merged["d"] = double_column(1 / q)
        merged["intensity"] = double_column(intensity)
        merged["variance"] = double_column(0.01 * intensity)
        scatter = 0.02 * intensity
        scatter[::11] = np.nan
        merged["variance_scatter"] = double_column(scatter)
        merged["n_obs"] = int_column(np.full(len(asu), 5))
        merged["n_stills"] = int_column(np.full(len(asu), 5))
        half = intensity.copy()
        half[::7] = np.nan
        merged["half_1"] = double_column(half)
        merged["half_2"] = double_column(intensity)
        merged["exposure"] = double_column(np.ones(len(asu)))
        return merged

    def save(self, folder):
        """diffuse_scaled.expt, diffuse_scaled.refl and diffuse_merged.refl"""
        self.experiments.as_file(folder / "diffuse_scaled.expt")
        self.table.as_file(folder / "diffuse_scaled.refl")
        self.merged.as_file(folder / "diffuse_merged.refl")
        return [
            str(folder / n)
            for n in ("diffuse_scaled.expt", "diffuse_scaled.refl", "diffuse_merged.refl")
        ]
