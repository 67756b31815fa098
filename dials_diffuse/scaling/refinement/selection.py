"""Which components the data support, and the final fit with these."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from dials_diffuse.model.components import n_parameters_of
from dials_diffuse.scaling.expectation.patches import N_PATCHES
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.observations.source import ObservationSource
from dials_diffuse.scaling.refinement.bragg import read_bragg
from dials_diffuse.scaling.refinement.fit import (
    Fitter,
    Refined,
    chosen_voxels,
    fit_data,
    free_voxels,
)
from dials_diffuse.scaling.refinement.kernels import FitData
from dials_diffuse.scaling.refinement.objective import Objective, Preconditioner
from dials_diffuse.scaling.refinement.offset_zero import (
    OffsetZero,
    fix_offset_zero,
    warn_of_background,
)
from dials_diffuse.scaling.refinement.order import check_intervals, p_order_of
from dials_diffuse.scaling.refinement.parameters import Parameters, Part
from dials_diffuse.scaling.refinement.settings import ScaleSettings
from dials_diffuse.scaling.refinement.still_models import Components, finished_models

logger = logging.getLogger("dials.diffuse.scaling.selection")

COMPONENTS = ("scale", "offset", "panel", "sensitivity")

# Observations on which components are tried: at most so many, or so many a still
MOST_TRIED, MOST_TRIED_OF_STILL = 500_000, 10_000
# Cycles of a trial, from the parameters before it
TRIAL_CYCLES = 2
# Fraction of the free set's chi^2 by which a component must lower it: half a percent of the
# intensities of observations of ten photons
LEAST_GAIN = 3e-4


@dataclass
class FitResult:
    """Result of the fit.

    Attributes:
        models: one a still, in the order of the input
        components: names of the refined ones
        cycles: rows of the convergence table
        trials: for each set of components that was tried, chi^2 of the fit and the free set
            and whether it was kept
        bad_patches: (S, N_PATCHES + 1) bool: patches of stills that were left out
        zero: of the offsets; None without offsets
        significance: (S,) b over its standard deviation by the data of the still alone, NaN if unknown
    """

    models: list
    components: list[str]
    cycles: list[dict]
    trials: list[dict]
    bad_patches: np.ndarray
    zero: OffsetZero | None = None
    significance: np.ndarray | None = None


def fit(
    source: ObservationSource,
    overview: Overview,
    settings: ScaleSettings,
    start: np.ndarray | None = None,
    n_threads: int = 1,
) -> FitResult:
    """Refine the scaling models of all stills that are not excluded.

    A component whose parameter is Auto (None) is refined on trial, on a part of the observations. It stays if
    that lowers chi^2 of the free set, voxels that the refinement does not use, significantly. Then all
    components that stay are refined on all observations of the fit.

    Args:
        source: for experiments and Bragg reflections
        overview: all observations
        settings: of scaling
        start: (S,) scales to start from, by default those of the radial profiles
        n_threads: number of threads; the result does not depend on it

    Returns:
        models of all stills (excluded ones keep b of their radial profile), components, trials and errors

    Raises:
        ValueError: no voxel is seen by two stills; too few observations for the model.
    """
    scales = overview.still_scales()
    prior = overview.prior(scales)
    components = Components(overview, settings, _p_order(source, overview, settings))
    chosen = chosen_voxels(overview, settings.fit.max_observations)
    free = free_voxels(overview, settings.fit.free_percentage)
    bragg = read_bragg(source, overview, settings.bragg, scales)
    data = fit_data(overview, chosen & ~free, prior, bragg)
    if not len(data.rows):
        raise ValueError(
            "No voxel is seen by two stills: there is nothing that could relate their scales "
            "(coarser voxels, subdivide=1,1,1, may help)"
        )
    names, candidates = _components_to_refine(overview, settings)
    selection = _Selection(components, data, scales, prior, n_threads)
    selection.check_enough(names)
    begin = selection.begin(names, start)
    trials, tried = [], data
    if candidates:
        enough = max(MOST_TRIED, MOST_TRIED_OF_STILL * np.count_nonzero(overview.used))
        if len(data.rows) > enough:
            few = chosen_voxels(overview, enough)
            tried = fit_data(overview, few & chosen & ~free, prior, bragg)
        small = _Selection(components, tried, scales, prior, n_threads)
        held_back = fit_data(overview, chosen & free, prior)
        logger.info(
            "Components are tried on %d observations of voxels seen by two or more stills, %d more in the free set",
            len(tried.rows),
            len(held_back.rows),
        )
        begin, trials = small.select(begin, candidates, held_back, selection)
    logger.info("Fit on %d observations of voxels seen by two or more stills", len(data.rows))
    refined = selection.fitter.refine(begin.names, begin)
    trials = trials or [_trial(names, _chi2(refined.objective), None, True)]
    return _finished(source, components, selection.fitter, refined, trials)


def _p_order(source, overview: Overview, settings: ScaleSettings) -> np.ndarray | None:
    """p_order (S,) of all stills; None without series."""
    series, model = settings.series, settings.model
    if not series.all_intervals():
        return None
    components = {
        "intervals": "scale",
        "offset_intervals": "offset",
        "sensitivity_intervals": "sensitivity",
    }
    for name in series.all_intervals():
        if getattr(model, components[name]) is False:
            raise ValueError(
                f"series.{name} has no effect with model.{components[name]}=False: omit one of them"
            )
    p_order = p_order_of(series, source.experiments)
    check_intervals(series, p_order[overview.used])
    return p_order


def _components_to_refine(
    overview: Overview, settings: ScaleSettings
) -> tuple[list[str], list[str]]:
    """(components to refine in any case, components to try)."""
    model = settings.model
    names = [n for n in COMPONENTS if getattr(model, n)]
    candidates = [n for n in ("panel", "offset", "sensitivity") if getattr(model, n) is None]
    if overview.n_panels == 1:
        if "panel" in names:
            logger.info("The detector has one panel: model.panel has no effect")
        names = [n for n in names if n != "panel"]
    elif overview.n_layouts > 1 and model.panel is not False:
        logger.warning(
            "The stills are from %d kinds of detectors: factors of panels would be shared by panels of the same number. %s",
            overview.n_layouts,
            "Scale the stills of each by themselves, or use model.panel=False"
            if model.panel
            else "They are not refined",
        )
    if overview.n_panels == 1 or overview.n_layouts > 1:
        candidates = [n for n in candidates if n != "panel"]
    return names, candidates


class _Selection:
    """Selection of components on some observations."""

    def __init__(self, components: Components, data: FitData, scales, prior, n_threads: int):
        self.components, self.data = components, data
        self.fitter = Fitter(components, data, scales, prior, n_threads)

    def begin(self, names: list[str], start: np.ndarray | None) -> Refined:
        """A model before refinement, with scales to start from (S,), or those of the radial profiles."""
        parts = {name: self.fitter.part(name) for name in names}
        if start is not None and "scale" in parts and parts["scale"].by_still:
            parts["scale"].values = np.maximum(start[:, None], parts["scale"].positive)
        bad = np.zeros((len(self.fitter.start), N_PATCHES + 1), dtype=bool)
        return Refined(parts, bad_patches=bad)

    def n_parameters(self, names: list[str]) -> int:
        """Number of parameters of a model with these components."""
        settings, overview = self.components.settings, self.components.overview
        m, series = settings.model, settings.series

        def along(intervals: int | None, without: int) -> int:
            return without if intervals is None else n_parameters_of(intervals)

        n_stills = np.count_nonzero(self.fitter.used)
        numbers = {
            "scale": along(series.intervals, n_stills),
            "offset": along(series.offset_intervals, n_stills)
            * m.offset_parameters_to(overview.bins.q_max),
            "panel": overview.n_panels,
            "sensitivity": along(series.sensitivity_intervals, 1) * m.sensitivity_parameters**2,
        }
        return int(sum(numbers[name] for name in names))

    def too_few(self, names: list[str]) -> bool:
        """True if there are fewer observations a parameter than the settings demand."""
        needed = self.components.settings.fit.min_observations_per_parameter
        return len(self.data.rows) < needed * self.n_parameters(names)

    def check_enough(self, names: list[str]) -> None:
        """Raise ValueError if there are too few observations for these components."""
        if self.too_few(names):
            raise ValueError(
                f"{len(self.data.rows)} observations shared by stills are too few for "
                f"{self.n_parameters(names)} parameters: use fewer components (model.offset=False "
                "model.sensitivity=False) or lower fit.min_observations_per_parameter"
            )

    def select(
        self, begin: Refined, candidates: list[str], held_back: FitData, final: _Selection
    ) -> tuple[Refined, list[dict]]:
        """Try components one after the other.

        Args:
            held_back: observations of the free set
            final: on all observations of the fit, whose number decides what can be tried

        Returns:
            (the model with those that stay, rows of the table of trials)
        """
        model = self.fitter.refine(begin.names, begin, TRIAL_CYCLES)
        squares = self._free_squares(model, held_back, True)
        trials = [_trial(model.names, _chi2(model.objective), _mean(squares, held_back), True)]
        for name in candidates:
            extended = [n for n in COMPONENTS if n in (*model.names, name)]
            if not len(held_back.rows) or final.too_few(extended):
                reason = "too few observations" if len(held_back.rows) else "no free set"
                trials.append(_trial(extended, None, None, False, reason))
                continue
            try:
                trial = self.fitter.refine(extended, model, TRIAL_CYCLES, patches=False)
            except ValueError as error:
                logger.info("%s is not refined: %s", name, error)
                trials.append(_trial(extended, None, None, False, "the fit failed"))
                continue
            new = self._free_squares(trial, held_back, False)
            n_added = self.n_parameters(extended) - self.n_parameters(model.names)
            n_free, n_fit = freedom_of(held_back), freedom_of(self.data)
            fitted = model.objective.squares(), trial.objective.squares()
            better = beats_useless_parameters(
                squares.sum() / n_free, new.sum() / n_free, n_added, n_free, n_fit
            ) and gain_is_significant(squares, new)
            better = better or gain_is_certain(*fitted, squares, new, n_added)
            trials.append(_trial(extended, _chi2(trial.objective), _mean(new, held_back), better))
            if name == "offset" and not better:
                self._check_background(trial)
            if better:
                model = trial
                self.fitter.weigh_anew(model)
                squares = self._free_squares(model, held_back, True)
        return model, trials

    def _check_background(self, trial: Refined) -> None:
        """Warn of a wrong background by offsets that are not significant otherwise."""
        trial.objective.evaluate()
        covariances = self.fitter.still_covariances(trial, Preconditioner(trial.objective))
        scales = trial.objective.parameters.tables().b
        warn_of_background(trial.parts["offset"], scales, self.fitter, covariances)

    def _free_squares(self, model: Refined, data: FitData, new_weights: bool) -> np.ndarray:
        """(N,) squares of residuals over sigma in the free set, its intensities in closed form."""
        if new_weights and len(data.rows):
            self.fitter.weigh(model, data)
        parts = list(model.parts.values())
        objective = Objective(data, Parameters(parts, self.fitter.tables), self.fitter.n_threads)
        return objective.squares()


def freedom_of(data: FitData) -> int:
    """Degrees of freedom: accepted observations less voxels."""
    if not len(data.rows):
        return 1
    accepted = np.add.reduceat(data.weight > 0, data.start[:-1], dtype=np.int64)
    return max(int(np.sum(np.maximum(accepted - 1, 0))), 1)


def _mean(squares: np.ndarray, data: FitData) -> float:
    return float(squares.sum() / freedom_of(data)) if len(squares) else float("nan")


def _chi2(objective: Objective) -> float:
    """chi^2 per degree of freedom"""
    return _mean(objective.squares(), objective.data)


def beats_useless_parameters(
    chi2: float, new_chi2: float, n_added: int, n_free: int, n_fit: int
) -> bool:
    """True if the free set's chi^2 fell by more than useless parameters lower it by chance.

    Useless parameters change the expectations of the fit's observations by n_added units of variance
    altogether, those of the free set by its share r = n_free / n_fit of that. The free set's sum of
    squares then rises by n_added r on average, with a standard deviation of 2 sqrt(n_added r). The
    threshold is three of these.

    Args:
        chi2, new_chi2: of the free set per degree of freedom, without and with the parameters
        n_added: number of parameters that were added
        n_free, n_fit: degrees of freedom of the free set and of the fit
    """
    return bool(n_free * (chi2 - new_chi2) > 6 * np.sqrt(n_added * n_free / n_fit))


def gain_is_significant(before: np.ndarray, after: np.ndarray) -> bool:
    """True if the sum of the squares of the free set's residuals (N,) fell significantly.

    By more than three times the uncertainty of the sum of their differences, and by LEAST_GAIN.
    """
    gains = before - after
    uncertainty = np.sqrt(np.sum((gains - gains.mean()) ** 2))
    return bool(gains.sum() > max(3 * uncertainty, LEAST_GAIN * before.sum()))


def gain_is_certain(
    before: np.ndarray, after: np.ndarray, free: np.ndarray, new_free: np.ndarray, n_added: int
) -> bool:
    """True if the fit's sum of squares fell far more than by useless parameters, and the free set's did not rise.

    A small free set can't tell of parameters that each still has for itself what all observations tell.

    Args:
        before, after: (N,) squares of the fit
        free, new_free: (M,) squares of the free set
        n_added: number of parameters that were added
    """
    gain = before.sum() - after.sum()
    certain = gain > max(n_added + 6 * np.sqrt(2 * n_added), LEAST_GAIN * before.sum())
    return bool(certain and new_free.sum() < free.sum())


def _trial(names, chi2, free_chi2, kept: bool, reason: str | None = None) -> dict:
    return {
        "components": list(names),
        "chi2": chi2,
        "free_chi2": free_chi2,
        "kept": kept,
        "reason": reason,
    }


def _finished(
    source: ObservationSource,
    components: Components,
    fitter: Fitter,
    refined: Refined,
    trials: list[dict],
) -> FitResult:
    """Standard deviations, zero of the offsets, and the models of all stills."""
    parts = refined.parts
    covariances = np.full((len(fitter.start), 1, 1), np.nan)
    of_detector = {}
    if parts:
        refined.objective.evaluate()
        preconditioner = Preconditioner(refined.objective)
        covariances = fitter.still_covariances(refined, preconditioner)
        for name in ("panel", "sensitivity"):
            if name in parts:
                row = _mean_row(parts[name], fitter, name)
                shift = np.eye(parts[name].values.size) - np.outer(parts[name].values.ravel(), row)
                of_detector[name] = shift @ preconditioner.covariance_of(name) @ shift.T
    scales = refined.objective.parameters.tables().b if parts else fitter.start
    zero = None
    if "offset" in parts:
        drawn = "offset" in refined.priors
        zero = fix_offset_zero(parts["offset"], scales, fitter, covariances, drawn)
    grid = source.grid.to_dict()
    lift = None if zero is None else zero.lift
    models = finished_models(components, parts, scales, covariances, of_detector, lift, grid)
    for model in models:
        if zero is not None and not parts["offset"].by_still:
            model.configdict["offset_series"]["lift"] = zero.lift.tolist()
        model.set_scaling_model_as_scaled()
    return FitResult(
        models,
        refined.names,
        refined.cycles,
        trials,
        refined.bad_patches,
        zero,
        refined.significance,
    )


def _mean_row(part: Part, fitter: Fitter, name: str) -> np.ndarray:
    """(n,): mean of d or a over the accepted observations = row @ parameters."""
    rows = fitter.data.rows[fitter.data.weight > 0]
    seen = fitter.observations_of(name, rows)
    return part.by_parameters(seen / max(len(rows), 1)).ravel()
