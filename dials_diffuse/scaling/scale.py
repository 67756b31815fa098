"""The algorithm of scaling: overview, fit, merge, and again without the stills that disagree."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_diffuse.grid.reindexing import hand_on_reindexing
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.merging.error_model import ErrorModel, fit_error_model
from dials_diffuse.scaling.merging.halves import Halves, deal
from dials_diffuse.scaling.merging.merge import Merged, Merger, Voxels
from dials_diffuse.scaling.merging.statistics import Statistics, statistics
from dials_diffuse.scaling.observations.overview import Overview, read_observations
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.selection import FitResult, fit
from dials_diffuse.scaling.refinement.settings import ScaleSettings, StillSettings

logger = logging.getLogger("dials.diffuse.scaling.scale")

# Stills that disagree spoil the map that the others are compared with: each round may find more
MOST_ROUNDS = 5
# b of most stills over its error, as a multiple of what is asked of each, for those of single ones to be judged alone
ENOUGH = 1.5
# More outliers than this fraction of the observations count in the error model
FEW_OUTLIERS = 1e-4


@dataclass
class Scaled:
    """Result of scaling.

    Attributes:
        source, overview: input
        fit: models of all stills
        merger: with the scales and outliers of the merged map
        merged: the map
        excluded: still -> reason
        weak: (M,) stills that take no part in the map, since their b is not above 0 by three standard
            deviations. Where c takes what depends on |q| only, b is the amount of the map in the rest, which is 0
            for a still of wrong orientation
        halves: half sets of the stills
        error_model: its parameters
        chi2_before_error_model: overall, with counting statistics alone
        statistics: of the merged map
        merged_unscaled, unscaled: map and statistics of the same observations with all scales 1
    """

    source: ObservationSource
    overview: Overview
    fit: FitResult
    merger: Merger
    merged: Merged
    excluded: dict[int, str]
    weak: np.ndarray
    halves: Halves
    error_model: ErrorModel
    chi2_before_error_model: float
    statistics: Statistics
    merged_unscaled: Merged
    unscaled: Statistics


def scale(source: ObservationSource, settings: ScaleSettings, n_threads: int = 1) -> Scaled:
    """Scale and merge all observations, with and without the stills that disagree if so set.

    Args:
        source: observations
        settings: all settings
        n_threads: that share the work; the result does not depend on it

    Raises:
        ValueError: input that can't be scaled as a whole.
    """
    names = excluded_names(settings.stills)
    reasons = dict.fromkeys(numbers_of_stills(names, source.experiments), "by stills.exclude")
    everything = read_observations(
        source, settings.weighting.readout_noise, settings.memory.keep_observations, n_threads
    )
    if reasons:
        _check_enough(source, reasons)
    overview = everything.without(reasons)
    reasons = {**unusable_stills(overview), **reasons}
    overview = everything.without(reasons)
    for still, reason in reasons.items():
        logger.warning("Still %d is excluded: %s", still, reason)
    scaled = _scale_without(reasons, source, overview, settings, n_threads)
    for _ in range(MOST_ROUNDS):
        disagreeing = {
            still: reason
            for still, reason in disagreements(scaled, settings.stills).items()
            if still not in reasons
        }
        if not disagreeing:
            break
        for still, reason in disagreeing.items():
            logger.info("Still %d is excluded: %s", still, reason)
        reasons = {**reasons, **disagreeing}
        _check_enough(source, reasons)
        # excluded stills connect no others
        overview = everything.without(reasons)
        reasons = {**unusable_stills(overview), **reasons}
        overview = everything.without(reasons)
        start = scaled.merger.tables.b
        scaled = _scale_without(reasons, source, overview, settings, n_threads, start)
    else:
        logger.warning(
            "Stills were excluded in %d rounds, and some of the remaining ones may still disagree with "
            "the others: run again with more of them in stills.exclude",
            MOST_ROUNDS,
        )
    return scaled


def excluded_names(settings: StillSettings) -> list[str]:
    """Numbers or identifiers in stills.exclude, which commas may separate, as in other parameters."""
    return [name for name in ",".join(settings.exclude or ()).split(",") if name]


def numbers_of_stills(names: Sequence[str], experiments: Sequence) -> list[int]:
    """Numbers of stills that are given by number or by experiment identifier.

    Raises:
        ValueError: there is no such still.
    """
    by_identifier = {experiment.identifier: number for number, experiment in enumerate(experiments)}
    stills = []
    for name in names:
        number = by_identifier.get(name)
        if number is None and name.isdecimal() and int(name) < len(experiments):
            number = int(name)
        if number is None:
            raise ValueError(
                f"stills.exclude={name}: there is no still of this number (0 to {len(experiments) - 1}) or identifier"
            )
        stills.append(number)
    return stills


def unusable_stills(overview: Overview) -> dict[int, str]:
    """Stills that can't be scaled, with the reason."""
    reasons = {}
    for still in np.flatnonzero(~overview.excluded):
        still = int(still)
        if overview.still_obs[still] == 0:
            reasons[still] = "no usable observations"
        elif overview.profile_counts[still].sum() <= 0:
            reasons[still] = "no counts above background"
        elif overview.connections.shared[still] == 0:
            reasons[still] = "no voxel in common with another still"
    return reasons


def disagreements(scaled: Scaled, settings: StillSettings) -> dict[int, str]:
    """Stills that disagree with the others, with the reason, as far as they are to be excluded."""
    reasons, cc = {}, scaled.statistics.still_cc
    if settings.exclude_misoriented:
        for still in scaled.weak:
            reasons[int(still)] = "its scale can't be told from 0"
        for still in scaled.statistics.misoriented():
            reasons[int(still)] = (
                f"it does not follow the map of all others (correlation {cc[still]:.3f})"
            )
    if settings.min_cc is not None:
        for still in np.flatnonzero(cc < settings.min_cc):
            reasons[int(still)] = f"its correlation with the map of all others is {cc[still]:.3f}"
    return reasons


def _check_enough(source: ObservationSource, reasons: dict[int, str]) -> None:
    """Raise ValueError if fewer than two stills are left."""
    if len(source.experiments) - len(reasons) < 2:
        still, reason = next(iter(reasons.items()))
        raise ValueError(
            "Fewer than two stills are left to scale: no voxel is seen by two stills with counts above "
            "background (coarser voxels, subdivide=1,1,1, may help), or too many are excluded by stills.exclude, "
            f"stills.min_cc or stills.exclude_misoriented (still {still}: {reason})"
        )


def _warn_of_input(overview: Overview) -> None:
    groups = overview.groups()
    if len(groups) > 1:
        logger.warning(
            "The stills fall into %d groups that have no voxel in common, of %s stills: the scale of "
            "one group relative to another rests on their radial profiles alone. The smaller groups: %s",
            len(groups),
            ", ".join(str(len(group)) for group in groups[:10]),
            "; ".join(", ".join(map(str, group[:10])) for group in groups[1:10]),
        )
    if overview.n_not_finite:
        logger.warning(
            "%d observations are not used: their values are not finite", overview.n_not_finite
        )


def _scale_without(
    reasons: dict[int, str],
    source: ObservationSource,
    overview: Overview,
    settings: ScaleSettings,
    n_threads: int,
    start: np.ndarray | None = None,
) -> Scaled:
    """Fit and merge without the stills in reasons; start: (S,) scales to start from."""
    _check_enough(source, reasons)
    _warn_of_input(overview)
    result = fit(source, overview, settings, start, n_threads)
    hand_on_reindexing(source.experiments, result.models)
    tables = ScaleTables.of_models(result.models, overview.n_panels)
    excluded = overview.excluded.copy()
    weak = weak_stills(result, excluded, settings.stills.min_b_over_sigma)
    if np.count_nonzero(~excluded) - len(weak) >= 2:
        excluded[weak] = True
    halves = deal(source.experiments, ~excluded, settings.seed)
    rest = excluded, result.bad_patches, halves, settings.weighting.prior_strength, n_threads
    voxels = Voxels(overview.rows, source.grid)
    merger = Merger(overview, voxels, tables, *rest)
    merged = merger.merge(settings.outliers.cutoff or 0.0)
    if merger.n_found > FEW_OUTLIERS * overview.n_usable:
        # they were in the expected intensities, and so in the variances
        merged = merger.merge()
    raw = statistics(merger, merged)
    error_model = ErrorModel()
    if settings.error_model.refine:
        error_model = fit_error_model(raw.sizes)
    if merger.n_found or error_model.b > 0:
        merged = merger.merge(error_b=error_model.b)
    numbers = statistics(merger, merged, variance_factor=error_model.a**2)
    merged.variance *= error_model.a**2
    plain = ScaleTables.without_model(len(excluded), overview.n_panels)
    before = Merger(overview, voxels, plain, *rest)
    before.rejected = merger.rejected
    merged_before = before.merge()
    return Scaled(
        source=source,
        overview=overview,
        fit=result,
        merger=merger,
        merged=merged,
        excluded=reasons,
        weak=weak,
        halves=halves,
        error_model=error_model,
        chi2_before_error_model=raw.overall.chi2,
        statistics=numbers,
        merged_unscaled=merged_before,
        unscaled=statistics(before, merged_before),
    )


def weak_stills(result: FitResult, excluded: np.ndarray, least: float | None) -> np.ndarray:
    """(M,) stills whose b is not above 0 by this many standard deviations; none for None.

    By the final b, which is drawn to what stills have in common; and by what the still's own data say, where those
    of most stills say enough.
    """
    if least is None:
        return np.zeros(0, dtype=np.int64)
    b, sigma = scales_of(result.models)
    weak = b < least * sigma
    alone = result.significance
    if alone is not None and np.nanmedian(alone[~excluded]) > ENOUGH * least:
        weak |= alone < least
    return np.flatnonzero(~excluded & weak)


def scales_of(models: list) -> tuple[np.ndarray, np.ndarray]:
    """b of all stills and their standard deviations (S,), NaN for those without."""
    components = [model.components["scale"] for model in models]
    b = np.array([component.parameters[0] for component in components])
    esds = [component.parameter_esds for component in components]
    return b, np.array([esd[0] if esd else np.nan for esd in esds])
