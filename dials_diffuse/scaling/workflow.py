"""The steps of dials.diffuse_scale, from files to files."""

from __future__ import annotations

import logging

import numpy as np

from dxtbx.model import ExperimentList

from dials.array_family import flex

from dials_diffuse.adapters.inputs import Inputs
from dials_diffuse.adapters.parameters import settings_from
from dials_diffuse.adapters.system import resolve_nproc
from dials_diffuse.adapters.tables import (
    double_column,
    int_column,
    miller_index_column,
    vec3_column,
)
from dials_diffuse.extraction.observations import write_derived_columns
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.batches import batch_name
from dials_diffuse.io.maps.map_file import write_map
from dials_diffuse.report.html import write_outputs
from dials_diffuse.scaling import report
from dials_diffuse.scaling.merging.merge import Merged
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.settings import ScaleSettings
from dials_diffuse.scaling.scale import Scaled, scale

# More threads wait for each other
MOST_THREADS = 8

logger = logging.getLogger("dials.diffuse.scaling.workflow")


def run(inputs: Inputs, params) -> Scaled:
    """Scale and merge gridded observations, and write all output files.

    Args:
        inputs: pairs of gridded .expt and .refl files, JSON copies of lost models
        params: extracted parameters of dials.diffuse_scale

    Raises:
        ValueError: input that can't be scaled; says what is wrong.
    """
    n_threads = min(resolve_nproc(params.nproc), MOST_THREADS)
    source = ObservationSource(inputs.pairs, inputs.model_copies(), params.sweeps.degrees)
    scaled = scale(source, settings_from(ScaleSettings, params), n_threads)
    report.log_results(scaled)
    for number in range(len(inputs.pairs)):
        _write_pair(scaled, number, params.output, n_threads)
    _write_merged(scaled, params.output, n_threads)
    if params.output.html or params.output.json:
        sections, numbers = report.sections(scaled), report.numbers(scaled)
        write_outputs(params.output, "dials.diffuse_scale", sections, numbers)
    return scaled


def _write_pair(scaled: Scaled, number: int, output, n_threads: int) -> None:
    """Write the scaled observations and the experiments of one pair."""
    source = scaled.source
    n_pairs = len(source.pairs)
    experiments = scaled_experiments(scaled, number)
    name = batch_name(output.reflections, number, n_pairs)
    logger.info("Saving scaled observations to %s", name)
    with replacing(name) as temporary:
        identifiers = dict(enumerate(experiments.identifiers()))
        source.table(number).write(temporary, identifiers, scale_columns(scaled, number, n_threads))
        if output.derived:
            write_derived_columns(temporary, experiments, source.grid)
    name = batch_name(output.experiments, number, n_pairs)
    logger.info("Saving experiments with scaling models to %s", name)
    with replacing(name) as temporary:
        experiments.as_file(temporary)


def _write_merged(scaled: Scaled, output, n_threads: int) -> None:
    """Write the merged intensities as a table, and as a map if so set."""
    grid = scaled.source.grid
    logger.info("Saving merged intensities to %s", output.merged)
    with replacing(output.merged) as temporary:
        merged_table(scaled.merged, grid).as_file(temporary)
    if output.map:
        logger.info("Saving the map to %s", output.map)
        voxel, columns = map_columns(scaled.merged)
        title = "Merged diffuse scattering"
        write_map(output.map, voxel, columns, grid, title, n_threads=n_threads)


def _rows_to_write(merged: Merged) -> np.ndarray:
    """Voxels with observations, sorted by index"""
    keep = np.flatnonzero(merged.n_obs > 0)
    return keep[np.argsort(merged.voxels[keep], kind="stable")]


def merged_table(merged: Merged, grid: VoxelGrid) -> flex.reflection_table:
    """The merged voxels with observations as a reflection table, a row a voxel."""
    keep = _rows_to_write(merged)
    voxel = unpack_voxels(merged.voxels[keep])
    table = flex.reflection_table()
    table["voxel"] = miller_index_column(voxel)
    table["hkl"] = vec3_column(grid.hkl_of_voxel(voxel))
    table["q"] = vec3_column(grid.q_of_voxel(voxel))
    table["d"] = double_column(grid.d_of_voxel(voxel))
    for name in ("intensity", "variance", "variance_scatter", "exposure", "masked_fraction"):
        table[name] = double_column(getattr(merged, name)[keep])
    for name in ("n_obs", "n_stills"):
        table[name] = int_column(getattr(merged, name)[keep])
    table["half_1"] = double_column(merged.half[0, keep])
    table["half_2"] = double_column(merged.half[1, keep])
    return table


def map_columns(merged: Merged) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(voxels, columns) of the merged voxels with observations, for a map file."""
    keep = _rows_to_write(merged)
    columns = {
        name: getattr(merged, name)[keep]
        for name in ("intensity", "variance", "n_obs", "n_stills", "exposure", "masked_fraction")
    }
    columns["half_1"], columns["half_2"] = merged.half[:, keep]
    return unpack_voxels(merged.voxels[keep]), columns


def scaled_experiments(scaled: Scaled, number: int) -> ExperimentList:
    """The experiments of one pair with their scaling models."""
    experiments = scaled.source.experiments_of(number)
    models = scaled.source.models_of(number, scaled.fit.models)
    for experiment, model in zip(experiments, models):
        experiment.scaling_model = model
    return experiments


def scale_columns(scaled: Scaled, number: int, n_threads: int) -> dict[str, np.ndarray]:
    """Columns inverse_scale_factor, offset, excluded and outlier of one pair, (N,) each.

    Rows under the Bragg mask get factors too, and are not excluded for that reason.
    """
    source, merger = scaled.source, scaled.merger
    g, h, excluded = [], [], []
    for part in source.parts(number, 0.0, everything=True, n_threads=n_threads):
        for values, more in zip((g, h), merger.tables.factors(part.rows)):
            values.append(more)
        excluded.append(merger.excluded[part.rows["still"]] | (part.rows["voxel"] < 0))
    ends = [*source.first_stills, len(source.experiments)]
    columns = {
        "inverse_scale_factor": np.concatenate(g),
        "offset": np.concatenate(h),
        "excluded": np.concatenate(excluded),
    }
    n_rows = len(columns["offset"])
    return {**columns, "outlier": merger.outliers((ends[number], ends[number + 1]), n_rows)}
