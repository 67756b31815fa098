"""The files of dials.diffuse_scale: scaled observations and the merged map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cctbx import crystal
from dxtbx.model.experiment_list import ExperimentList

from dials.array_family import flex

from dials_diffuse.absolute.integrated import ExposureTimes
from dials_diffuse.absolute.profile import ProfileAccumulator, RadialProfile
from dials_diffuse.absolute.wilson import NodeIntegrator, Nodes
from dials_diffuse.adapters.beams import XRAY, probe_of
from dials_diffuse.adapters.experiments import load_experiments, load_reflections
from dials_diffuse.adapters.inputs import DataPair, Inputs
from dials_diffuse.adapters.stills import check_given_once, one_of_each
from dials_diffuse.grid.voxel_grid import VoxelGrid, grid_of
from dials_diffuse.io.maps.merged_map import check_grid, is_merged
from dials_diffuse.io.model_copy import restore_models

# Temporaries stay small, whatever the size of a file
ROWS_AT_A_TIME = 2_000_000

# The profile extends to this |q| (1/Angstrom) where the grid has no limit
_DEFAULT_Q_MAX = 1.2


@dataclass
class ScaledData:
    """Experiments, and sums over the observations of all pairs of files.

    Attributes:
        grid: that of the experiments
        wavelength: mean, Angstrom
        experiments: of all pairs, with their scaling models
        profile: of total scattering
        nodes: Bragg intensities, integrated in the unmasked grid
        times: exposure times of the stills relative to each other
    """

    grid: VoxelGrid
    wavelength: float
    experiments: ExperimentList
    profile: RadialProfile
    nodes: Nodes
    times: ExposureTimes


def separate_tables(inputs: Inputs) -> tuple[list[DataPair], flex.reflection_table]:
    """Separate the scaled observations from the merged table, by their columns.

    Returns:
        pairs of experiments and scaled observations, not read yet; the merged table

    Raises:
        ValueError: not as many tables of observations as .expt files, or no merged table.
    """
    merged, observations = None, []
    # the merged table is usually the last; once it is found the others need not be read
    for path in reversed(inputs.of_type(".refl")):
        if merged is None:
            table = load_reflections(path)
            if is_merged(table):
                merged = table
                continue
        observations.insert(0, path)
    if merged is None:
        raise ValueError(
            "None of the .refl files is a merged map: give diffuse_merged.refl of dials.diffuse_scale too"
        )
    if merged.size() == 0:
        raise ValueError("The merged map is empty")
    if "incoherent" in merged:
        raise ValueError(
            "The merged map is on the absolute scale already: give diffuse_merged.refl of dials.diffuse_scale"
        )
    if len(observations) != len(inputs.pairs):
        raise ValueError(
            f"There are {len(inputs.pairs)} .expt files and {len(observations)} .refl files of scaled observations: "
            "give diffuse_scaled.expt, diffuse_scaled.refl and diffuse_merged.refl"
        )
    if not observations:
        raise ValueError(
            "Give diffuse_scaled.expt and diffuse_scaled.refl of dials.diffuse_scale too"
        )
    return [DataPair(p.experiments, r) for p, r in zip(inputs.pairs, observations)], merged


def check_xrays(experiments) -> None:
    """Raises ValueError if some stills were not taken with X-rays: there are no form factors then."""
    other = {probe_of(beam) for beam in experiments.beams() if beam is not None} - {XRAY}
    if other:
        raise ValueError(
            f"The stills were taken with {other.pop()}s, and the form factors of the absolute scale are those of "
            "X-rays: the map of dials.diffuse_scale stays on its relative scale"
        )


def symmetry_of(pair: DataPair, model_copies: list[Path]) -> crystal.symmetry:
    """Reference cell of the grid and space group of the first crystal.

    Raises:
        ValueError: no crystal, no grid, or stills that were not taken with X-rays.
    """
    experiments = load_experiments(pair.experiments, check_format=False)
    check_xrays(experiments)
    for path in model_copies:
        restore_models(experiments, path)
    first = one_of_each(experiments)[0].crystal
    return crystal.symmetry(
        unit_cell=grid_of(experiments).unit_cell,
        space_group=first.get_space_group(),
        assert_is_compatible_unit_cell=False,
    )


def read_data(
    pairs: list[DataPair],
    merged: flex.reflection_table,
    model_copies: list[Path],
    shell_width: float,
) -> ScaledData:
    """Read all pairs, one at a time.

    Args:
        pairs: experiments and scaled observations
        merged: the merged table, which must be on the same grid
        model_copies: JSON files with scaling models, for experiments that lost theirs
        shell_width: of the profile, 1/Angstrom

    Raises:
        ValueError: scaling models missing, different grids, columns missing, a still in two pairs.
    """
    everything, wavelengths, seen = ExperimentList(), [], {}
    grid = profile = nodes = None
    times = ExposureTimes()
    for pair in pairs:
        experiments, table = pair.load(check_format=False)
        check_given_once(experiments, pair.experiments, seen)
        check_xrays(experiments)
        for path in model_copies:
            restore_models(experiments, path)
        own = grid_of(experiments)
        if grid is None:
            grid, nodes = own, NodeIntegrator(own)
            q_max = 1 / grid.d_min if grid.d_min else _DEFAULT_Q_MAX
            profile = ProfileAccumulator(shell_width, q_max + 0.02)
        elif own.to_dict() != grid.to_dict():
            raise ValueError(
                "The experiments carry different grids: extract and grid them together"
            )
        stills = one_of_each(experiments)
        for start in range(0, table.size(), ROWS_AT_A_TIME):
            part = table[start : start + ROWS_AT_A_TIME]
            for accumulator in (profile, nodes, times):
                accumulator.add(stills, part)
        profile.count(len(stills))
        wavelengths += [still.beam.get_wavelength() for still in stills]
        everything.extend(experiments)
    check_grid(merged, grid)
    return ScaledData(
        grid,
        float(np.mean(wavelengths)),
        everything,
        profile.profile(grid.d_min),
        nodes.nodes(),
        times,
    )
