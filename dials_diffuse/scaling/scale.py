"""From gridded observations to scales and a merged map: the steps of dials.diffuse_scale."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    double_column,
    int_column,
    miller_index_column,
    vec3_column,
)
from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.grid.reindexing import hand_on_reindexing
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.scaling.merging.error_model import ErrorModel, fit_error_model
from dials_diffuse.scaling.merging.merge import Merged, Merger, ScaleTables, split_halves
from dials_diffuse.scaling.merging.statistics import Statistics, statistics
from dials_diffuse.scaling.observations.overview import Survey, survey
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.fit import FitResult, fit
from dials_diffuse.scaling.refinement.settings import FitSettings

logger = logging.getLogger("dials.diffuse.scaling.scale")


@dataclass
class Scaled:
    """All that scaling found.

    Attributes:
        excluded: still -> reason
        chi2_before_error_model: overall, with counting statistics alone
        statistics: of the merged map
        merged_unscaled, unscaled: map and statistics of the same observations with all scales 1
    """

    source: ObservationSource
    survey: Survey
    fit: FitResult
    merger: Merger
    merged: Merged
    excluded: dict[int, str]
    error_model: ErrorModel
    chi2_before_error_model: float
    statistics: Statistics
    merged_unscaled: Merged
    unscaled: Statistics


@dataclass(frozen=True)
class StillSettings:
    """Which stills to leave out; see phil/scale.py.

    Attributes:
        exclude: numbers in the input, or experiment identifiers
        min_cc: lowest correlation with the map of all others
        exclude_misoriented: leave out those that clearly do not follow that map
    """

    exclude: tuple[str, ...] = ()
    min_cc: float | None = None
    exclude_misoriented: bool = False


def exclusions(found: Survey) -> dict[int, str]:
    """Stills that can't be scaled, with the reason"""
    reasons = {}
    for still in range(found.n_stills_in):
        if found.still_obs[still] == 0:
            reasons[still] = "no usable observations"
        elif found.profile_counts[still].sum() <= 0:
            reasons[still] = "no counts above background"
        elif found.still_shared[still] == 0:
            reasons[still] = "no voxel in common with another still"
    return reasons


def named_stills(names: Sequence[str], experiments: Sequence) -> list[int]:
    """Numbers of stills given by number or by experiment identifier

    Raises:
        ValueError: there is no such still.
    """
    known = {experiment.identifier: number for number, experiment in enumerate(experiments)}
    stills = []
    for name in names:
        number = known.get(name)
        if number is None and name.isdecimal() and int(name) < len(experiments):
            number = int(name)
        if number is None:
            raise ValueError(
                f"stills.exclude={name}: there is no still of this number (0 to {len(experiments) - 1}) or identifier"
            )
        stills.append(number)
    return stills


# Stills that are left out spoil the map that the others are judged by: look again without them
MOST_ROUNDS = 5


def scale(
    source: ObservationSource,
    settings: FitSettings,
    use_error_model: bool = True,
    stills: StillSettings = StillSettings(),
) -> Scaled:
    """Survey, fit, merge; again without the stills that do not agree, if so asked.

    Raises:
        ValueError: input that can't be scaled as a whole.
    """
    found = survey(source)
    # what there is is known only now
    reasons = dict.fromkeys(named_stills(stills.exclude, source.experiments), "by stills.exclude")
    if reasons:
        _check_enough(source, reasons)
        found = survey(source, reasons)
    reasons = {**exclusions(found), **reasons}
    for still, reason in reasons.items():
        logger.warning("Still %d is excluded: %s", still, reason)
    scaled = _scale_without(reasons, source, found, settings, use_error_model)
    for _ in range(MOST_ROUNDS):
        more = {
            still: reason
            for still, reason in disagreements(scaled, stills).items()
            if still not in reasons
        }
        if not more:
            break
        for still, reason in more.items():
            logger.info("Still %d is left out: %s", still, reason)
        reasons = {**reasons, **more}
        _check_enough(source, reasons)
        # they connect no others any more
        found = survey(source, reasons)
        reasons = {**exclusions(found), **reasons}
        scaled = _scale_without(
            reasons, source, found, settings, use_error_model, scaled.merger.tables.b
        )
    else:
        logger.warning(
            "Stills were left out %d times, and among those that are kept some may still not agree with "
            "the others: run again with more of them in stills.exclude",
            MOST_ROUNDS,
        )
    return scaled


def without_scale(scaled: Scaled) -> np.ndarray:
    """(M,) stills whose b is not above 0 by three standard deviations: where c takes what depends on |q| only, b is what
    a still has of the rest, and of a wrong orientation that is nothing"""
    esds = [model.components["scale"].parameter_esds for model in scaled.fit.models]
    sigma = np.array([of[0] if of else np.nan for of in esds])
    tables = scaled.merger.tables
    return np.flatnonzero(~tables.excluded & (tables.b < 3 * sigma))


def disagreements(scaled: Scaled, stills: StillSettings) -> dict[int, str]:
    """Stills to leave out, with the reason"""
    reasons, found = {}, scaled.statistics
    if stills.exclude_misoriented:
        for still in without_scale(scaled):
            reasons[int(still)] = "its scale can't be told from 0"
        for still in found.misoriented():
            reasons[int(still)] = (
                f"it does not follow the map of all others (correlation {found.still_cc[still]:.3f})"
            )
    if stills.min_cc is not None:
        for still in np.flatnonzero(found.still_cc < stills.min_cc):
            reasons[int(still)] = (
                f"its correlation with the map of all others is {found.still_cc[still]:.3f}"
            )
    return reasons


def _check_enough(source: ObservationSource, reasons: dict[int, str]) -> None:
    """Raises ValueError if fewer than two stills are left"""
    if len(source.experiments) - len(reasons) < 2:
        still, reason = next(iter(reasons.items()))
        raise ValueError(
            "Fewer than two stills are left to scale: no voxel is seen by two stills with counts above "
            "background (coarser voxels, subdivide=1,1,1, may help), or too many are left out by stills.exclude, "
            f"stills.min_cc or stills.exclude_misoriented (still {still}: {reason})"
        )


def _scale_without(
    reasons: dict[int, str],
    source: ObservationSource,
    found: Survey,
    settings: FitSettings,
    use_error_model: bool,
    start: np.ndarray | None = None,
) -> Scaled:
    excluded = np.zeros(found.n_stills_in, dtype=bool)
    excluded[list(reasons)] = True
    _check_enough(source, reasons)
    groups = found.groups()
    if len(groups) > 1:
        logger.warning(
            "The stills fall into %d groups that have no voxel in common, of %s stills: the scale of "
            "one group relative to another rests on their radial profiles alone. The smaller groups: %s",
            len(groups),
            ", ".join(str(len(group)) for group in groups[:10]),
            "; ".join(", ".join(map(str, group[:10])) for group in groups[1:10]),
        )
    if found.n_not_finite:
        logger.warning(
            "%d observations are not used: their values are not finite", found.n_not_finite
        )
    result = fit(source, found, excluded, settings, start)
    hand_on_reindexing(source.experiments, result.models)
    tables = ScaleTables.of_models(result.models, excluded)
    tables.n_threads = settings.n_threads
    half = split_halves(~excluded, settings.seed)
    prior = found.prior(tables.b)
    arguments = (prior, half, settings.prior_strength, settings.readout_noise)
    merger = Merger(source, found, tables, *arguments)
    merger.reject_patches(result.bad_patches)
    if settings.outlier_cutoff:
        merged = merger.reject_outliers(settings.outlier_cutoff)
    else:
        merged = merger.merge()
    error_model = ErrorModel()
    raw = statistics(merger, merged)
    if use_error_model:
        error_model = fit_error_model(raw.by_size)
        if error_model.b > 0:
            merger.error_b = error_model.b
            merged = merger.merge()
    numbers = statistics(merger, merged, variance_factor=error_model.a**2)
    merged.variance *= error_model.a**2
    before = Merger(source, found, ScaleTables(np.ones(len(excluded)), excluded), *arguments)
    before.rejected = merger.rejected
    merged_before = before.merge()
    return Scaled(
        source=source,
        survey=found,
        fit=result,
        merger=merger,
        merged=merged,
        excluded=reasons,
        error_model=error_model,
        chi2_before_error_model=raw.overall.chi2,
        statistics=numbers,
        merged_unscaled=merged_before,
        unscaled=statistics(before, merged_before),
    )


def merged_table(merged: Merged, grid: VoxelGrid):
    """The merged voxels as a reflection table, a row a voxel with observations"""
    keep = merged.n_obs > 0
    voxel = unpack_voxels(merged.voxels[keep])
    table = flex.reflection_table()
    table["voxel"] = miller_index_column(voxel)
    table["hkl"] = vec3_column(grid.hkl_of_voxel(voxel))
    table["q"] = vec3_column(grid.q_of_voxel(voxel))
    table["d"] = double_column(grid.d_of_voxel(voxel))
    for name in ("intensity", "variance", "variance_scatter", "exposure"):
        table[name] = double_column(getattr(merged, name)[keep])
    for name in ("n_obs", "n_stills"):
        table[name] = int_column(getattr(merged, name)[keep])
    table["half_1"] = double_column(merged.half[0, keep])
    table["half_2"] = double_column(merged.half[1, keep])
    return table


def map_columns(merged: Merged) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(voxels, columns) of the measured voxels, for a map file"""
    keep = merged.n_obs > 0
    columns = {
        name: getattr(merged, name)[keep]
        for name in ("intensity", "variance", "n_obs", "n_stills", "exposure")
    }
    columns["half_1"], columns["half_2"] = merged.half[:, keep]
    return unpack_voxels(merged.voxels[keep]), columns


def scaled_experiments(scaled: Scaled, number: int):
    """The experiments of one pair with their scaling models"""
    experiments = scaled.source.experiments_of(number)
    first = scaled.source.first_stills[number]
    for index, experiment in enumerate(experiments):
        experiment.scaling_model = scaled.fit.models[first + index]
    return experiments


def scale_columns(scaled: Scaled, number: int) -> dict[str, np.ndarray]:
    """inverse_scale_factor, offset, excluded and outlier of the rows of one pair, (N,) each.

    Rows under the Bragg mask get factors too, and are not excluded for being Bragg.
    """
    obs = scaled.source.of_pair(number)
    g, h = scaled.merger.tables.factors(obs)
    columns = {
        "inverse_scale_factor": g,
        "offset": h,
        "excluded": scaled.merger.tables.excluded[obs.still]
        | ~(obs.usable | (obs.bragg & obs.finite)),
        "outlier": scaled.merger.outliers(number, len(obs)),
    }
    return {name: scaled.source.in_table_order(number, values) for name, values in columns.items()}
