"""Data that tests of scaling share"""

from __future__ import annotations

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.model.components import N_RADIAL, nearest_bins
from dials_diffuse.scaling.observations.source import ObservationSource


def source_of(truth, folder, n_pairs=1):
    """Write a truth as so many pairs of files"""
    pairs = []
    n = len(truth.experiments)
    for number in range(n_pairs):
        first, last = n * number // n_pairs, n * (number + 1) // n_pairs
        experiments = truth.experiments[first:last]
        ids = as_numpy(truth.table["id"])
        table = truth.table.select(flex.bool(((ids >= first) & (ids < last)).tolist()))
        for name in list(table.experiment_identifiers().keys()):
            del table.experiment_identifiers()[name]
        table["id"] = table["id"] - first
        for i, experiment in enumerate(experiments):
            table.experiment_identifiers()[i] = experiment.identifier
        expt, refl = folder / f"g{number}.expt", folder / f"g{number}.refl"
        experiments.as_file(str(expt))
        table.as_file(str(refl))
        pairs.append(DataPair(expt, refl))
    return ObservationSource(pairs)


def true_intensities(truth, voxels):
    known = {tuple(v): i for v, i in zip(truth.voxel, truth.intensity)}
    return np.array([known[tuple(v)] for v in unpack_voxels(voxels)])


def radial_bins(bins, q):
    """Bins of the table c(|q|) at |q|, 1/Angstrom"""
    return nearest_bins(np.asarray(q) * (N_RADIAL / bins.q_max), N_RADIAL)


def doubles(values):
    return flex.double(np.asarray(values, dtype=float).tolist())


def series_settings(
    intervals=None, p_order=None, offset_intervals=None, sensitivity_intervals=None
):
    return {
        "intervals": intervals,
        "p_order": p_order,
        "offset_intervals": offset_intervals,
        "sensitivity_intervals": sensitivity_intervals,
    }
