"""The fit of the scaling models: selection of components, and cycles until the scales converge."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from dials.array_family import flex

from dials_diffuse.model.components import ScaleSeries, n_parameters_of
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import SensitivitySeries
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.observations.source import Observations, ObservationSource
from dials_diffuse.scaling.refinement.bragg import (
    BraggReference,
    bragg_observations,
    mean_bragg_intensity,
)
from dials_diffuse.scaling.refinement.offset_zero import fix_offset_zero
from dials_diffuse.scaling.refinement.order import check_intervals, p_order_of
from dials_diffuse.scaling.refinement.refinery import refine_cycle
from dials_diffuse.scaling.refinement.restraints import Restraints, apply_conventions
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.settings import ScaleSettings
from dials_diffuse.scaling.refinement.still_models import (
    build_models,
    put_series_in,
    split_offset_series,
    split_sensitivity_series,
)
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.uncertainties import (
    series_variances,
    shifts_of_detector,
    still_covariances,
)
from dials_diffuse.scaling.refinement.units import set_units

logger = logging.getLogger("dials.diffuse.scaling.fit")

COMPONENTS = ("scale", "offset", "panel", "sensitivity")

# Cycles end when no b moves by more e.s.d.s than this
SHIFT_TOLERANCE = 0.2

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
        bad_patches: (S, N_PATCHES) bool: patches of stills that were left out
        lift: (n,) what was added to the intensities so that the smallest offset is 0
    """

    models: list
    components: list[str]
    cycles: list[dict]
    trials: list[dict]
    bad_patches: np.ndarray
    lift: np.ndarray | None = None


def select_for_fit(overview: Overview, max_observations: int) -> np.ndarray:
    """(V,) bool: voxels of the fit: those that several stills see, or a quasi-random choice of these.

    Multiples of the golden ratio modulo one are spread evenly over any range of voxels, and so over
    reciprocal space (voxels are sorted by index).
    """
    shared = overview.n_stills > 1
    total = overview.n_obs[shared].sum()
    if total <= max_observations:
        return shared
    position = np.arange(len(shared)) * 0.6180339887498949 % 1.0
    return shared & (position < max_observations / total)


def collect(
    source: ObservationSource, overview: Overview, chosen: np.ndarray, excluded: np.ndarray
) -> Observations:
    """The usable observations of the chosen voxels (V,) bool from all pairs of files."""
    per_pair = []
    for obs, index in source.indexed(overview.voxels):
        keep = obs.usable & (index >= 0) & ~excluded[obs.still]
        keep[keep] = chosen[index[keep]]
        per_pair.append(obs.select(keep))
    return Observations.concatenate(per_pair)


@dataclass
class FreeChi2:
    """chi^2 of the free set.

    Attributes:
        value: chi^2 per degree of freedom; NaN without a free set
        n_freedom: degrees of freedom
        weights: (N,) of its observations; None without a free set
        squares: (N,) squares of residuals over sigma; None without a free set
    """

    value: float = float("nan")
    n_freedom: int = 1
    weights: np.ndarray | None = None
    squares: np.ndarray | None = None


class Fitter:
    """Refines models with different sets of components on the same observations.

    Args:
        source, overview: input
        excluded: (S,) bool
        settings: all settings
        start: (S,) scales to start from, by default those of the radial profiles
        n_threads: that share the work

    Raises:
        ValueError: no voxel is seen by two stills; series and stills do not fit.
    """

    def __init__(
        self,
        source: ObservationSource,
        overview: Overview,
        excluded: np.ndarray,
        settings: ScaleSettings,
        start: np.ndarray | None = None,
        n_threads: int = 1,
    ):
        self.source, self.overview, self.settings = source, overview, settings
        self.n_threads = n_threads
        self.used = ~excluded
        # restraints and mean intensities stay with the radial profiles
        self.profile_scales = overview.still_scales()
        self.prior = overview.prior(self.profile_scales)
        self.start = self.profile_scales if start is None else np.asarray(start, dtype=float)
        self.p_order = self._p_order() if settings.series.all_intervals() else None
        chosen = select_for_fit(overview, settings.fit.max_observations)
        position = np.arange(len(chosen)) * 0.7548776662466927 % 1.0
        free = position < settings.fit.free_percentage / 100
        self.observations = collect(source, overview, chosen & ~free, excluded)
        self.free = collect(source, overview, chosen & free, excluded)
        if not len(self.observations):
            raise ValueError(
                "No voxel is seen by two stills: there is nothing that could relate their scales "
                "(coarser voxels, subdivide=1,1,1, may help)"
            )
        self.bragg = None
        if any(settings.bragg.reflections):
            times = overview.relative_times()
            reflections = bragg_observations(source, settings.bragg, times)
            reflections = reflections.select(self.used[reflections.still])
            mean = mean_bragg_intensity(reflections, self.profile_scales)
            self.bragg = BraggReference(reflections, settings.bragg, mean)
        logger.info(
            "Fit on %d observations of voxels seen by two or more stills, %d more in the free set",
            len(self.observations),
            len(self.free),
        )

    def _p_order(self) -> np.ndarray:
        """p_order (S,) of all stills."""
        series, model = self.settings.series, self.settings.model
        if self.settings.fit.engine != "SimpleLBFGS":
            raise ValueError("Smooth functions of p_order (series) need fit.engine=SimpleLBFGS")
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
        p_order = p_order_of(series, self.source.experiments)
        check_intervals(series, p_order[self.used])
        return p_order

    def series(self, scales: np.ndarray) -> ScaleSeries | None:
        """The smooth function of p_order closest to scales (S,); None if b is no such function.

        Excluded stills do not contribute: their scales are interpolated between the others.
        """
        if self.p_order is None or self.settings.series.intervals is None:
            return None
        used = np.flatnonzero(self.used)
        order = used[np.argsort(self.p_order[used], kind="stable")]
        between = np.interp(self.p_order, self.p_order[order], np.asarray(scales)[order])
        return ScaleSeries.through(between, self.p_order, self.settings.series.intervals)

    def scaler(
        self, models: list, observations: Observations, series: ScaleSeries | None = None
    ) -> DiffuseScaler:
        """A scaler of the models with observations of the fit or of the free set."""
        return DiffuseScaler(
            models,
            observations,
            self.prior,
            self.settings.weighting,
            # the free set consists of voxels only
            bragg=self.bragg if observations is self.observations else None,
            series=series,
            extent=self.overview.extent,
            n_threads=self.n_threads,
        )

    def n_parameters(self, names: list[str]) -> int:
        """Number of parameters of a model with these components."""
        m, series = self.settings.model, self.settings.series

        def along(intervals: int | None, without: int) -> int:
            return without if intervals is None else n_parameters_of(intervals)

        n_stills = self.used.sum()
        numbers = {
            "scale": along(series.intervals, n_stills),
            "offset": along(series.offset_intervals, n_stills)
            * m.offset_parameters_to(self.overview.q_max),
            "panel": self.overview.n_panels,
            "sensitivity": along(series.sensitivity_intervals, 1) * m.sensitivity_parameters**2,
        }
        return int(sum(numbers[name] for name in names))

    def too_few(self, names: list[str]) -> bool:
        """True if there are fewer observations a parameter than the settings demand."""
        needed = self.settings.fit.min_observations_per_parameter * self.n_parameters(names)
        return len(self.observations) < needed

    def refine(
        self, names: list[str], start, bad_patches: np.ndarray | None = None
    ) -> tuple[DiffuseScaler, list[dict]]:
        """Refine a model with these components.

        First the scales alone, then everything. Before each cycle the expected variances and the
        outliers are determined anew, until the scales converge.

        Args:
            names: components
            start: models or scales to start from
            bad_patches: (S, N_PATCHES) bool: patches to leave out in any case

        Returns:
            (scaler with the models, rows of the convergence table)
        """
        settings = self.settings
        models = build_models(self.source, self.overview, settings.model, names, start)
        put_series_in(models, settings.series, self.p_order, start)
        scales = np.array([model.components["scale"].parameters[0] for model in models])
        scaler = self.scaler(models, self.observations, self.series(scales))
        restraints = Restraints(scaler, settings.restraints, self.profile_scales, self.prior)
        fresh = not isinstance(start[0], DiffuseScalingModel)
        order = [["scale"], names] if fresh and "scale" in names and len(names) > 1 else [names]
        cycles: list[dict] = []
        last = shift = None
        for cycle in range(settings.fit.n_cycles if names else 0):
            n_rejected = self._reject(scaler, bad_patches)
            step = order[min(cycle, len(order) - 1)]
            row = refine_cycle(scaler, restraints, step, settings.fit)
            apply_conventions(scaler, self.used)
            b = scaler.tables.b[self.used]
            shift = None
            if last is not None:
                sigma = np.sqrt(still_covariances(scaler, restraints)[self.used, 0, 0])
                shift = float(np.max(abs(b - last) / sigma))
            row.update(cycle=cycle + 1, outliers=n_rejected, shift=shift)
            cycles.append(row)
            logger.info(
                "%s, cycle %d: RMSD %.5f -> %.5f in %d steps",
                " ".join(step),
                cycle + 1,
                row["rmsd_start"],
                row["rmsd_end"],
                row["steps"],
            )
            if cycle >= len(order) and shift < SHIFT_TOLERANCE:
                break
            last = b
        else:
            if shift is not None:
                logger.warning(
                    "Scales moved by up to %.2f of their e.s.d. in the last of %d cycles: give a larger fit.n_cycles",
                    shift,
                    settings.fit.n_cycles,
                )
        return scaler, cycles

    def _reject(self, scaler: DiffuseScaler, bad_patches: np.ndarray | None) -> int:
        """Determine weights, outliers and bad patches anew; returns the number of outliers."""
        outliers = self.settings.outliers
        scaler.accept_all()
        n_rejected = 0
        if bad_patches is not None:
            scaler.leave_out(bad_patches)
        if outliers.cutoff:
            n_rejected = scaler.reject_outliers(outliers.cutoff)
            scaler.update_weights()
        if outliers.patch_cutoff is not None:
            scaler.reject_patches(outliers.patch_cutoff)
            scaler.update_weights()
        if outliers.cutoff:
            n_rejected += scaler.reject_outliers(outliers.cutoff)
        return n_rejected

    def free_chi2(self, refined: DiffuseScaler, weights: np.ndarray | None = None) -> FreeChi2:
        """chi^2 of the free set, its intensities in closed form.

        Args:
            refined: with the models
            weights: to use instead of those that follow from the models, so that two models can be
                compared
        """
        if not len(self.free):
            return FreeChi2()
        scaler = self.scaler(refined.models, self.free)
        if weights is not None:
            scaler.data.weight[:] = weights
        else:
            scaler.leave_out(refined.bad_patches)
            if self.settings.outliers.cutoff:
                scaler.reject_outliers(self.settings.outliers.cutoff)
            scaler.update_weights()
        squares = DiffuseScalingTarget(scaler).squares(scaler.data)
        n_freedom = freedom_of(scaler)
        return FreeChi2(float(squares.sum() / n_freedom), n_freedom, scaler.data.weight, squares)


def chi2_of(scaler: DiffuseScaler) -> float:
    """chi^2 per degree of freedom: accepted observations less voxels."""
    target = DiffuseScalingTarget(scaler)
    functional, _ = target.functional_and_gradients(scaler.data)
    return float(functional / freedom_of(scaler))


def freedom_of(scaler: DiffuseScaler) -> int:
    """Degrees of freedom: accepted observations less voxels."""
    accepted = np.add.reduceat(scaler.data.weight > 0, scaler.data.start[:-1], dtype=np.int64)
    return max(int(np.sum(np.maximum(accepted - 1, 0))), 1)


def fit(
    source: ObservationSource,
    overview: Overview,
    excluded: np.ndarray,
    settings: ScaleSettings,
    start: np.ndarray | None = None,
    n_threads: int = 1,
) -> FitResult:
    """Refine the scaling models of all stills that are not excluded.

    In cycles: the components b, c, d and a are refined, then weights and outliers are made anew, until the
    scales converge. A component whose parameter is Auto (None) is refined on trial. It stays if that
    lowers chi^2 of the free set, voxels that the refinement does not use, significantly.

    Args:
        source: the observations, read in parts
        overview: numbers of observations of voxels and stills, radial profiles
        excluded: (S,) bool, True for stills that are left out
        settings: of scaling
        start: (S,) scales to start from, by default those of the radial profiles
        n_threads: number of threads; the result does not depend on it

    Returns:
        models of all stills (excluded ones keep b of their radial profile), components, trials and errors

    Raises:
        ValueError: no voxel is seen by two stills; too few observations for the model.
    """
    fitter = Fitter(source, overview, excluded, settings, start, n_threads)
    names, candidates = _components_to_refine(overview, settings)
    if fitter.too_few(names):
        raise ValueError(
            f"{len(fitter.observations)} observations shared by stills are too few for "
            f"{fitter.n_parameters(names)} parameters: use fewer components (model.offset=False "
            "model.sensitivity=False) or lower fit.min_observations_per_parameter"
        )
    scaler, cycles = fitter.refine(names, fitter.start)
    free = fitter.free_chi2(scaler)
    trials = [_trial(names, chi2_of(scaler), free.value, True)]
    for name in candidates:
        extended = [n for n in COMPONENTS if n in (*names, name)]
        if free.weights is None or fitter.too_few(extended):
            reason = "no free set" if free.weights is None else "too few observations"
            trials.append(_trial(extended, None, None, False, reason))
            continue
        try:
            # a could follow deviating patches; a(x, y, p_order) may be what explains them
            series = name == "sensitivity" and settings.series.sensitivity_intervals is not None
            bad_patches = None if series else scaler.bad_patches
            trial, rows = fitter.refine(extended, scaler.models, bad_patches)
        except ValueError as error:
            logger.info("%s is not refined: %s", name, error)
            trials.append(_trial(extended, None, None, False, "the fit failed"))
            continue
        new = fitter.free_chi2(trial, free.weights)
        n_added = fitter.n_parameters(extended) - fitter.n_parameters(names)
        better = beats_useless_parameters(
            free.value, new.value, n_added, new.n_freedom, freedom_of(scaler)
        ) and gain_is_significant(free.squares, new.squares)
        trials.append(_trial(extended, chi2_of(trial), new.value, better))
        if better:
            names, scaler = extended, trial
            cycles.extend(rows)
            free = fitter.free_chi2(scaler)
    result = FitResult(scaler.models, names, cycles, trials, scaler.bad_patches)
    _finish(scaler, fitter, result)
    return result


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


def _trial(names, chi2, free_chi2, kept: bool, reason: str | None = None) -> dict:
    return {
        "components": list(names),
        "chi2": chi2,
        "free_chi2": free_chi2,
        "kept": kept,
        "reason": reason,
    }


def _finish(scaler: DiffuseScaler, fitter: Fitter, result: FitResult) -> None:
    """Set standard deviations and the zero of the offsets, and complete the models in place."""
    names = result.components
    restraints = Restraints(scaler, fitter.settings.restraints, fitter.profile_scales, fitter.prior)
    target = DiffuseScalingTarget(scaler)
    target.functional_and_gradients(scaler.data)
    covariances = still_covariances(scaler, restraints)
    set_units(scaler, target.reference, restraints, names)
    # the least-squares engines have found those of the other components with all correlations
    by_engine = fitter.settings.fit.engine != "SimpleLBFGS"
    if scaler.series is not None:
        # the errors of b are smaller then; its correlations with c are kept
        ratio = np.sqrt(series_variances(scaler) / covariances[:, 0, 0])
        covariances[:, 0] *= ratio[:, None]
        covariances[:, :, 0] *= ratio[:, None]
        for model, p in zip(scaler.models, scaler.series.p_order):
            model.set_series(scaler.series, p)
    for model, covariance in zip(scaler.models, covariances):
        sigmas = np.sqrt(np.diagonal(covariance))
        if "scale" in names and not by_engine:
            model.components["scale"].parameter_esds = flex.double(sigmas[:1].tolist())
        if "offset" in names and scaler.offset_series is None:
            model.components["offset"].parameter_esds = flex.double(sigmas[1:].tolist())
    split_offset_series(scaler.models, scaler, covariances)
    for name, component in scaler.shared.items():
        if not by_engine and name != "offset" and not isinstance(component, SensitivitySeries):
            variances = component.variances(convention=shifts_of_detector(scaler, name))
            component.parameter_esds = flex.double(np.sqrt(variances).tolist())
    if "offset" in names:
        result.lift = fix_offset_zero(scaler, fitter.used, covariances)
        if scaler.offset_series is not None:
            for model in scaler.models:
                model.configdict["offset_series"]["lift"] = result.lift.tolist()
    split_sensitivity_series(scaler.models, scaler)
    for model in scaler.models:
        model.set_scaling_model_as_scaled()
