"""The fit of the scaling models: which components, cycle after cycle, until the scales stand still."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from dials.array_family import flex

from dials_diffuse.model.components import ScaleSeries, n_parameters_of
from dials_diffuse.model.scaling_model import DiffuseScalingModel
from dials_diffuse.model.series import SensitivitySeries
from dials_diffuse.scaling.observations.overview import Survey
from dials_diffuse.scaling.observations.source import Observations, ObservationSource
from dials_diffuse.scaling.refinement.bragg import bragg_observations, mean_bragg_intensity
from dials_diffuse.scaling.refinement.refinery import refine_cycle
from dials_diffuse.scaling.refinement.restraints import Restraints, apply_conventions, lift_offsets
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler
from dials_diffuse.scaling.refinement.settings import FitSettings
from dials_diffuse.scaling.refinement.still_models import (
    build_models,
    keep_offset_series_in,
    keep_sensitivity_series_in,
    put_series_in,
)
from dials_diffuse.scaling.refinement.target import DiffuseScalingTarget
from dials_diffuse.scaling.refinement.uncertainties import (
    series_variances,
    shifts_of_detector,
    still_covariances,
)

logger = logging.getLogger("dials.diffuse.scaling.fit")

COMPONENTS = ("scale", "offset", "panel", "sensitivity")

# Cycles end when no b moves by more e.s.d.s than this
SHIFT_TOLERANCE = 0.2

# Part of the free set's chi^2 by which a component has to lower it: half a percent of the intensities of
# observations of ten photons
LEAST_GAIN = 3e-4


@dataclass
class FitResult:
    """Outcome of the fit.

    Attributes:
        models: one a still, in the input's order
        components: names of the refined ones
        n_observations, n_voxels: of the fit, without the free set
        cycles: rows of the convergence table
        trials: for each set of components that was tried, chi^2 of the fit and the free set
            and whether it was kept
        lift: (n,) what was added to the intensities so that the smallest offset is 0
        bad_patches: (S, N_PATCHES) bool: patches of stills that were left out
    """

    models: list
    components: list[str]
    n_observations: int
    n_voxels: int
    cycles: list[dict] = field(default_factory=list)
    trials: list[dict] = field(default_factory=list)
    lift: np.ndarray | None = None
    bad_patches: np.ndarray | None = None


def select_for_fit(survey: Survey, settings: FitSettings) -> np.ndarray:
    """(V,) bool: voxels of the fit: seen by several stills, and a quasi-random choice of these
    when there are more observations than needed.

    The golden ratio's multiples modulo one are spread evenly over any run of voxels, so over
    reciprocal space too (voxels are sorted by index).
    """
    shared = survey.n_stills > 1
    total = survey.n_obs[shared].sum()
    if total <= settings.max_observations:
        return shared
    position = np.arange(len(shared)) * 0.6180339887498949 % 1.0
    return shared & (position < settings.max_observations / total)


def collect(
    source: ObservationSource, survey: Survey, chosen: np.ndarray, excluded: np.ndarray
) -> Observations:
    """The usable observations of the chosen voxels from all pairs"""
    parts = []
    for obs, index in source.indexed(survey.voxels):
        keep = obs.usable & (index >= 0) & ~excluded[obs.still]
        keep[keep] = chosen[index[keep]]
        parts.append(obs.select(keep))
    return Observations.concatenate(parts)


class Fitter:
    """Refines models with different sets of components on the same observations.

    Args:
        source, survey: input
        excluded: (S,) bool
        settings: what to do
        start: (S,) scales to start from, by default those of the radial profiles

    Raises:
        ValueError: no voxel is seen by two stills.
    """

    def __init__(self, source, survey, excluded, settings, start=None):
        self.source, self.survey, self.settings = source, survey, settings
        self.used = ~excluded
        # restraints and mean intensities stay with the radial profiles
        self.profile_scales = survey.still_scales()
        self.prior = survey.prior(self.profile_scales)
        self.start = self.profile_scales if start is None else np.asarray(start, dtype=float)
        self.places = None
        if settings.series.wanted:
            self.places = self._places(len(excluded))
        chosen = select_for_fit(survey, settings)
        position = np.arange(len(chosen)) * 0.7548776662466927 % 1.0
        free = position < settings.free_percentage / 100
        self.observations = collect(source, survey, chosen & ~free, excluded)
        self.free = collect(source, survey, chosen & free, excluded)
        self.free_freedom = 1
        if not len(self.observations):
            raise ValueError(
                "No voxel is seen by two stills: there is nothing that could relate their scales "
                "(coarser voxels, subdivide=1,1,1, may help)"
            )
        self.bragg = None
        if settings.bragg_files:
            reflections = bragg_observations(
                settings.bragg_files, source, settings.bragg, survey.relative_times()
            )
            reflections = reflections.select(self.used[reflections.still])
            mean = mean_bragg_intensity(reflections, self.profile_scales)
            self.bragg = (reflections, settings.bragg, mean)
        logger.info(
            "Fit on %d observations of voxels seen by two or more stills, %d more in the free set",
            len(self.observations),
            len(self.free),
        )

    def _places(self, n_stills: int) -> np.ndarray:
        series, model = self.settings.series, self.settings.model
        if self.settings.engine != "SimpleLBFGS":
            raise ValueError("Smooth functions of p_order (series) need fit.engine=SimpleLBFGS")
        for name, intervals, part in (
            ("intervals", series.intervals, "scale"),
            ("offset_intervals", series.offset_intervals, "offset"),
            ("sensitivity_intervals", series.sensitivity_intervals, "sensitivity"),
        ):
            if intervals is not None and getattr(model, part) is False:
                raise ValueError(f"series.{name} has nothing to do with model.{part}=False")
        places = series.places(n_stills, self.source.experiments)
        series.check_intervals(places[self.used])
        return places

    def series(self, scales: np.ndarray) -> ScaleSeries | None:
        """The smooth function of p_order closest to scales (S,), None if b is not smooth.

        Stills that are left out say nothing: they get what lies between the others.
        """
        if self.places is None or self.settings.series.intervals is None:
            return None
        used = np.flatnonzero(self.used)
        order = used[np.argsort(self.places[used], kind="stable")]
        between = np.interp(self.places, self.places[order], np.asarray(scales)[order])
        return ScaleSeries.through(between, self.places, self.settings.series.intervals)

    def scaler(
        self, models: list, observations: Observations, series: ScaleSeries | None = None
    ) -> DiffuseScaler:
        """Models with observations"""
        return DiffuseScaler(
            models,
            observations,
            self.prior,
            prior_strength=self.settings.prior_strength,
            readout_noise=self.settings.readout_noise,
            # the free set is of voxels only
            bragg=self.bragg if observations is self.observations else None,
            series=series,
            n_threads=self.settings.n_threads,
            extent=self.survey.extent,
        )

    def n_parameters(self, names: list[str]) -> int:
        """Parameters of a model with these components"""
        m, series = self.settings.model, self.settings.series

        def along(intervals: int | None, without: int) -> int:
            return without if intervals is None else n_parameters_of(intervals)

        n_stills = self.used.sum()
        each = {
            "scale": along(series.intervals, n_stills),
            "offset": along(series.offset_intervals, n_stills)
            * m.offset_parameters_to(self.survey.q_max),
            "panel": self.survey.n_panels,
            "sensitivity": along(series.sensitivity_intervals, 1) * m.sensitivity_parameters**2,
        }
        return int(sum(each[name] for name in names))

    def too_few(self, names: list[str]) -> bool:
        """True where there are fewer observations a parameter than asked for"""
        needed = self.settings.min_observations_per_parameter * self.n_parameters(names)
        return len(self.observations) < needed

    def refine(
        self, names: list[str], start, bad_patches: np.ndarray | None = None
    ) -> tuple[DiffuseScaler, list[dict]]:
        """Refine a model with these components.

        First the scales alone, then everything; after each cycle the expected variances and
        the outliers are found anew, until the scales stand still.

        Args:
            names: components
            start: models or scales to start from
            bad_patches: (S, N_PATCHES) bool: patches to leave out in any case

        Returns:
            (scaler with the models, rows of the convergence table)
        """
        settings = self.settings
        models = build_models(self.source, self.survey, settings.model, names, start)
        put_series_in(models, settings.series, self.places, start)
        scales = np.array([model.components["scale"].parameters[0] for model in models])
        scaler = self.scaler(models, self.observations, self.series(scales))
        restraints = Restraints(scaler, settings.restraints, self.profile_scales, self.prior)
        fresh = not isinstance(start[0], DiffuseScalingModel)
        order = [["scale"], names] if fresh and "scale" in names and len(names) > 1 else [names]
        cycles: list[dict] = []
        last = shift = None
        for cycle in range(settings.n_cycles if names else 0):
            scaler.accept_all()
            n_rejected = 0
            if bad_patches is not None:
                scaler.leave_out(bad_patches)
            if settings.outlier_cutoff:
                n_rejected = scaler.reject_outliers(settings.outlier_cutoff)
                scaler.update_weights()
            if settings.patch_cutoff is not None:
                scaler.reject_patches(settings.patch_cutoff)
                scaler.update_weights()
            if settings.outlier_cutoff:
                n_rejected += scaler.reject_outliers(settings.outlier_cutoff)
            step = order[min(cycle, len(order) - 1)]
            row = refine_cycle(scaler, restraints, step, settings)
            apply_conventions(scaler, self.used)
            b = scaler.b[self.used]
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
                    settings.n_cycles,
                )
        return scaler, cycles

    def free_chi2(self, refined: DiffuseScaler, weights: np.ndarray | None = None):
        """chi^2 per degree of freedom of the free set, its intensities in closed form.

        Args:
            refined: with the models
            weights: to be used instead of those that the models lead to, so that two
                models can be compared

        Returns:
            (chi^2, weights, squares of residuals over sigma); NaN and None without a free set
        """
        if not len(self.free):
            return float("nan"), None, None
        scaler = self.scaler(refined.models, self.free)
        if weights is not None:
            scaler.data.weight = weights
        else:
            scaler.leave_out(refined.bad_patches)
            if self.settings.outlier_cutoff:
                scaler.reject_outliers(self.settings.outlier_cutoff)
            scaler.update_weights()
        target = DiffuseScalingTarget(scaler)
        squares = target.squares(scaler.data)
        self.free_freedom = freedom_of(scaler)
        return float(squares.sum() / self.free_freedom), scaler.data.weight, squares


def chi2_of(scaler: DiffuseScaler) -> float:
    """chi^2 per degree of freedom: accepted observations less voxels"""
    target = DiffuseScalingTarget(scaler)
    functional, _ = target.functional_and_gradients(scaler.data)
    return float(functional / freedom_of(scaler))


def freedom_of(scaler: DiffuseScaler) -> int:
    """Accepted observations less voxels"""
    accepted = np.add.reduceat(scaler.data.weight > 0, scaler.data.start[:-1], dtype=np.int64)
    return max(int(np.sum(np.maximum(accepted - 1, 0))), 1)


def fit(
    source: ObservationSource,
    survey: Survey,
    excluded: np.ndarray,
    settings: FitSettings,
    start: np.ndarray | None = None,
) -> FitResult:
    """Refine all models; components that are left to choose stay if the free set agrees.

    Args:
        start: (S,) scales to start from, by default those of the radial profiles

    Raises:
        ValueError: no voxel is seen by two stills; too few observations for the model.
    """
    fitter = Fitter(source, survey, excluded, settings, start)
    wanted = settings.model
    names = [n for n in COMPONENTS if getattr(wanted, n)]
    if survey.n_panels == 1 and "panel" in names:
        logger.info("The detector has one panel: model.panel has nothing to do")
        names.remove("panel")
    panel_can_be_tried = survey.n_panels > 1
    if survey.n_panels > 1 and survey.n_layouts > 1 and wanted.panel is not False:
        panel_can_be_tried = False
        logger.warning(
            "The stills are from %d kinds of detectors: factors of panels would be shared by panels of the same number. %s",
            survey.n_layouts,
            "Scale the stills of each by themselves, or use model.panel=False"
            if wanted.panel
            else "They are not refined",
        )
    if fitter.too_few(names):
        raise ValueError(
            f"{len(fitter.observations)} observations shared by stills are too few for "
            f"{fitter.n_parameters(names)} parameters: use fewer components (model.offset=False "
            "model.sensitivity=False) or lower fit.min_observations_per_parameter"
        )
    scaler, cycles = fitter.refine(names, fitter.start)
    chi2, weights, squares = fitter.free_chi2(scaler)
    trials = [_trial(names, chi2_of(scaler), chi2, True)]
    for name in ("panel", "offset", "sensitivity"):
        if getattr(wanted, name) is not None or (name == "panel" and not panel_can_be_tried):
            continue
        more = [n for n in COMPONENTS if n in (*names, name)]
        if weights is None or fitter.too_few(more):
            reason = "no free set" if weights is None else "too few observations"
            trials.append(_trial(more, None, None, False, reason))
            continue
        try:
            # a would take up what it can of them; that of a series may be what they lack
            of_series = name == "sensitivity" and settings.series.sensitivity_intervals is not None
            trial, rows = fitter.refine(
                more, scaler.models, None if of_series else scaler.bad_patches
            )
        except ValueError as error:
            logger.info("No %s: %s", name, error)
            trials.append(_trial(more, None, None, False, "the fit failed"))
            continue
        new_chi2, _, new_squares = fitter.free_chi2(trial, weights)
        n_more = fitter.n_parameters(more) - fitter.n_parameters(names)
        better = is_real_gain(
            chi2, new_chi2, n_more, fitter.free_freedom, freedom_of(scaler)
        ) and is_certain_gain(squares, new_squares)
        trials.append(_trial(more, chi2_of(trial), new_chi2, better))
        if better:
            names, scaler = more, trial
            cycles.extend(rows)
            chi2, weights, squares = fitter.free_chi2(scaler)
    result = FitResult(
        scaler.models,
        names,
        scaler.data.size,
        len(scaler.data.voxel),
        cycles,
        trials,
        bad_patches=scaler.bad_patches,
    )
    _finish(scaler, fitter, result)
    return result


def is_real_gain(chi2: float, new_chi2: float, n_more: int, n_free: int, n_fit: int) -> bool:
    """True if the free set's chi^2 fell by more than useless parameters make it fall by chance.

    Parameters that mean nothing change the expectations of the fit's observations by n_more
    units of variance altogether, those of the free set by its share r = n_free / n_fit of that.
    The free set's sum of squares then rises by n_more r on the average, with a standard
    deviation of 2 sqrt(n_more r). Three of these are asked for.

    Args:
        chi2, new_chi2: of the free set per degree of freedom, without and with the parameters
        n_more: number of parameters that were added
        n_free, n_fit: degrees of freedom of the free set and of the fit, observations less voxels
    """
    return bool(n_free * (chi2 - new_chi2) > 6 * np.sqrt(n_more * n_free / n_fit))


def is_certain_gain(before: np.ndarray, after: np.ndarray) -> bool:
    """True if the squares of the free set's residuals (N,) fell by more than three times the
    uncertainty of the sum of their differences, and by so much that it matters."""
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
    """Standard deviations, and the convention for the offsets"""
    names = result.components
    restraints = Restraints(scaler, fitter.settings.restraints, fitter.profile_scales, fitter.prior)
    target = DiffuseScalingTarget(scaler)
    target.functional_and_gradients(scaler.data)
    covariances = still_covariances(scaler, restraints)
    scaler.set_units(target.reference, restraints, names)
    # the least-squares engines have found those of the other components with all correlations
    by_engine = fitter.settings.engine != "SimpleLBFGS"
    if scaler.series is not None:
        # The errors of b are smaller then, and as correlated with those of c as before
        ratio = np.sqrt(series_variances(scaler) / covariances[:, 0, 0])
        covariances[:, 0] *= ratio[:, None]
        covariances[:, :, 0] *= ratio[:, None]
        for model, place in zip(scaler.models, scaler.series.p_order):
            model.set_series(scaler.series, place)
    for model, covariance in zip(scaler.models, covariances):
        sigmas = np.sqrt(np.diagonal(covariance))
        if "scale" in names and not by_engine:
            model.components["scale"].parameter_esds = flex.double(sigmas[:1].tolist())
        if "offset" in names and scaler.offset_series is None:
            model.components["offset"].parameter_esds = flex.double(sigmas[1:].tolist())
    keep_offset_series_in(scaler.models, scaler, covariances)
    for name, component in scaler.shared.items():
        if not by_engine and name != "offset" and not isinstance(component, SensitivitySeries):
            variances = component.variances(convention=shifts_of_detector(scaler, name))
            component.parameter_esds = flex.double(np.sqrt(variances).tolist())
    if "offset" in names:
        result.lift = lift_offsets(scaler, fitter.used, covariances)
        if scaler.offset_series is not None:
            for model in scaler.models:
                model.configdict["offset_series"]["lift"] = result.lift.tolist()
    keep_sensitivity_series_in(scaler.models, scaler)
    for model in scaler.models:
        model.set_scaling_model_as_scaled()
