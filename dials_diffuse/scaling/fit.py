"""Refinement of the scaling models with DIALS's parameter manager and refinery."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field

import numpy as np

from dials.algorithms.scaling.active_parameter_managers import (
    active_parameter_manager,
    multi_active_parameter_manager,
)
from dials.algorithms.scaling.scaling_refiner import scaling_refinery
from dials.array_family import flex

from dials_diffuse.scaling.bragg import (
    BraggSettings,
    bragg_observations,
    mean_bragg_intensity,
)
from dials_diffuse.scaling.components import (
    RadialOffset,
    ScaleSeries,
    Sensitivity,
    whitening,
)
from dials_diffuse.scaling.model import DiffuseScalingModel
from dials_diffuse.scaling.observations import Observations, ObservationSource
from dials_diffuse.scaling.order import SeriesSettings
from dials_diffuse.scaling.restraints import (
    Restraints,
    RestraintSettings,
    apply_conventions,
    lift_offsets,
    mean_over_observations,
)
from dials_diffuse.scaling.scaler import DiffuseScaler
from dials_diffuse.scaling.series import (
    OffsetSeries,
    SensitivitySeries,
    n_parameters_of,
)
from dials_diffuse.scaling.survey import Survey
from dials_diffuse.scaling.target import DiffuseScalingTarget

logger = logging.getLogger("dials.diffuse.scaling.fit")

COMPONENTS = ("scale", "offset", "panel", "sensitivity")

# Cycles end when no b moves by more e.s.d.s than this
SHIFT_TOLERANCE = 0.2

# Part of the free set's chi^2 by which a component has to lower it: half a percent of the intensities of
# observations of ten photons
LEAST_GAIN = 3e-4


@dataclass(frozen=True)
class ModelSettings:
    """Components of the model; see phil/scale.py.

    Attributes:
        scale, offset, panel, sensitivity: refine them or not; None for the last three: if
            it lowers the chi^2 of the free set
        offset_parameters: of c over |q|
        sensitivity_parameters: of a along x and along y
    """

    scale: bool = True
    offset: bool | None = None
    panel: bool | None = None
    sensitivity: bool | None = None
    offset_parameters: int = 8
    sensitivity_parameters: int = 13


@dataclass(frozen=True)
class FitSettings:
    """What the fit is to do; see phil/scale.py for the meaning of each value."""

    model: ModelSettings = ModelSettings()
    bragg: BraggSettings = BraggSettings()
    bragg_files: tuple = ()
    restraints: RestraintSettings = RestraintSettings()
    series: SeriesSettings = SeriesSettings()
    engine: str = "SimpleLBFGS"
    max_iterations: int | None = None
    n_cycles: int = 6
    max_observations: int = 5_000_000
    min_observations_per_parameter: float = 5.0
    free_percentage: float = 5.0
    outlier_cutoff: float | None = 6.0
    prior_strength: float = 2.0
    readout_noise: float = 0.0
    seed: int = 42


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
    """

    models: list
    components: list[str]
    n_observations: int
    n_voxels: int
    cycles: list[dict] = field(default_factory=list)
    trials: list[dict] = field(default_factory=list)
    lift: np.ndarray | None = None


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


def build_models(
    source: ObservationSource,
    survey: Survey,
    settings: ModelSettings,
    names: list[str],
    start: list | np.ndarray,
) -> list:
    """Models of all stills at the start.

    Args:
        names: components they have
        start: models whose values are taken over where they have the component, or
            scales; the rest begins at null
    """
    x0, x1, y0, y1 = survey.extent
    extent = (x0 - 1e-6, x1 + 1e-6, y0 - 1e-6, y1 + 1e-6)
    n = settings.sensitivity_parameters
    grid = source.grid.to_dict()
    models = []
    for begin in start:
        model = DiffuseScalingModel.create(
            grid,
            offset={
                "n_parameters": settings.offset_parameters,
                "q_max": survey.q_max * (1 + 1e-6),
            }
            if "offset" in names
            else None,
            n_panels=survey.n_panels if "panel" in names else None,
            sensitivity={"extent": extent, "shape": (n, n)} if "sensitivity" in names else None,
        )
        if isinstance(begin, DiffuseScalingModel):
            for name, component in begin.components.items():
                if not isinstance(component, (OffsetSeries, SensitivitySeries)):
                    model.components[name].set_values(component.values())
        else:
            model.components["scale"].set_values([begin])
        models.append(model)
    return models


def put_series_in(
    models: list, settings: SeriesSettings, places: np.ndarray | None, start: list | np.ndarray
) -> None:
    """Exchange the offsets, and the sensitivity, for functions of p_order that all stills share.

    Args:
        models: as build_models made them; changed
        places: (S,) p_order, None to do nothing
        start: models whose values are taken over where they have the component
    """
    if places is None:
        return
    made = {}
    first = models[0].components
    if settings.offset_intervals is not None and "offset" in first:
        n = first["offset"].n_params
        values = flex.double(n * n_parameters_of(settings.offset_intervals), 0.0)
        made["offset"] = OffsetSeries(values, first["offset"].q_max, n, places)
    if settings.sensitivity_intervals is not None and "sensitivity" in first:
        of = first["sensitivity"]
        values = flex.double(of.n_params * n_parameters_of(settings.sensitivity_intervals), 1.0)
        made["sensitivity"] = SensitivitySeries(values, of.extent, of.shape, places)
    for name, component in made.items():
        if isinstance(start[0], DiffuseScalingModel) and name in start[0].components:
            component.set_values(start[0].components[name].values())
        for model in models:
            model.components[name] = component


def keep_offset_series_in(models: list, scaler: DiffuseScaler, covariances: np.ndarray) -> None:
    """The reverse, after the fit: what each still has of c(|q|, p_order) becomes its own, and the
    function is kept beside it.

    Args:
        models: changed
        covariances: (S, 1 + n, 1 + n) of b and c
    """
    series = scaler.offset_series
    if series is None:
        return
    kept = series.to_dict()
    for model, values, of, place in zip(models, series.by_still(), covariances, series.p_order):
        component = RadialOffset(flex.double(len(values), 0.0), series.q_max)
        component.set_values(values)
        component.parameter_esds = flex.double(np.sqrt(np.diagonal(of)[1:]).tolist())
        model.components["offset"] = component
        model.keep_series("offset", kept, place)


def keep_sensitivity_series_in(models: list, scaler: DiffuseScaler) -> None:
    """The same for a(x, y, p_order); stills at the same place share a component"""
    series = scaler.shared.get("sensitivity")
    if not isinstance(series, SensitivitySeries):
        return
    n = series.plane.n_params
    shifts = shifts_of_detector(scaler, "sensitivity").reshape(series.n_p, n, -1)
    made = []
    for values, weights in zip(series.of_places(), series.weights):
        component = Sensitivity(flex.double(n, 1.0), series.extent, series.shape)
        component.set_values(values)
        variances = series.variances(convention=np.tensordot(weights, shifts, axes=(0, 0)))
        component.parameter_esds = flex.double(np.sqrt(variances).tolist())
        made.append(component)
    for number, (model, place) in enumerate(zip(models, series.place)):
        model.components["sensitivity"] = made[place]
        # a thousand numbers or more: once is enough
        kept = series.to_dict() if number == 0 else {"range": list(series.range)}
        model.keep_series("sensitivity", kept, series.p_order[number])


def refine_cycle(scaler, restraints, names: list[str], settings: FitSettings) -> dict:
    """One refinement of the named components by DIALS. Returns a row of the convergence table."""
    restraints.hold_means(scaler)
    target = DiffuseScalingTarget(scaler, restraints, names)
    target.functional_and_gradients(scaler.data)
    before = target.rmsds(None, None)[0]
    scaler.set_units(target.reference, restraints, names)
    components = [manager.components for manager in scaler.data_managers]
    manager = multi_active_parameter_manager(
        target, components, [names] * len(components), active_parameter_manager
    )
    start = manager.get_param_vals().deep_copy()
    with quiet_refinery():
        refinery = scaling_refinery(settings.engine, scaler, target, manager, settings.max_iterations)
        manager.set_param_vals(run_refinery(refinery, start))
    if "scale" in names and getattr(refinery, "parameter_var_cov", None) is not None:
        set_scale_esds(scaler, manager, np.array(refinery.parameter_var_cov))
    scaler.update_for_minimisation()
    target.functional_and_gradients(scaler.data)
    return {
        "components": list(names),
        "parameters": manager.n_active_params,
        "steps": refinery.history.get_nrows(),
        "calls": target.n_calls,
        "rmsd_start": before,
        "rmsd_end": target.rmsds(None, None)[0],
        "reason": refinery.history.reason_for_termination,
    }


@contextlib.contextmanager
def quiet_refinery():
    """Leave out what DIALS's refinery says of each of many rounds.

    It logs as "dials" itself, whose level is everybody's: a filter touches its own messages only.
    """
    dials_logger = logging.getLogger("dials")

    def not_info(record: logging.LogRecord) -> bool:
        return record.levelno != logging.INFO

    dials_logger.addFilter(not_info)
    try:
        yield
    finally:
        dials_logger.removeFilter(not_info)


def run_refinery(refinery, start):
    """Run one of DIALS's refineries and return the best parameters.

    The line search of L-BFGS gives up with an error where rounding is all that is left
    to gain; the last accepted step is the answer then.
    """
    try:
        refinery.run()
    except RuntimeError as error:
        if "lbfgs" not in str(error):
            raise
        logger.debug("The minimiser stopped: %s", error)
        steps = refinery.history.get_nrows()
        return refinery.history["parameter_vector"][-1] if steps else start
    return refinery.x


def set_scale_esds(scaler: DiffuseScaler, manager, covariance: np.ndarray) -> None:
    """E.s.d.s of b for the convention mean b = 1, from the covariance of all free parameters.

    Without a convention all b can grow together, and that is all that the diagonal tells of. With
    it b_i becomes b_i / mean(b), and its shift db_i - b_i mean(db).
    """
    n = manager.n_active_params
    places = [
        manager.apm_data[i]["start_idx"] + manager.apm_list[i].components["scale"]["start_idx"]
        for i in range(len(scaler.models))
    ]
    units = np.array([model.components["scale"].unit for model in scaler.models])
    of_b = covariance.reshape(n, n)[np.ix_(places, places)] * np.outer(units, units)
    b = np.array([model.components["scale"].parameters[0] for model in scaler.models])
    shifts = np.eye(len(b)) - np.outer(b / b.mean(), np.full(len(b), 1 / len(b)))
    variances = np.diagonal(shifts @ of_b @ shifts.T)
    for model, variance in zip(scaler.models, variances):
        model.components["scale"].parameter_esds = flex.double([float(np.sqrt(max(variance, 0)))])


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
        )

    def n_parameters(self, names: list[str]) -> int:
        """Parameters of a model with these components"""
        m, series = self.settings.model, self.settings.series

        def along(intervals: int | None, without: int) -> int:
            return without if intervals is None else n_parameters_of(intervals)

        n_stills = self.used.sum()
        each = {
            "scale": along(series.intervals, n_stills),
            "offset": along(series.offset_intervals, n_stills) * m.offset_parameters,
            "panel": self.survey.n_panels,
            "sensitivity": along(series.sensitivity_intervals, 1) * m.sensitivity_parameters**2,
        }
        return int(sum(each[name] for name in names))

    def too_few(self, names: list[str]) -> bool:
        """True where there are fewer observations a parameter than asked for"""
        needed = self.settings.min_observations_per_parameter * self.n_parameters(names)
        return len(self.observations) < needed

    def refine(self, names: list[str], start) -> tuple[DiffuseScaler, list[dict]]:
        """Refine a model with these components.

        First the scales alone, then everything; after each cycle the expected variances and
        the outliers are found anew, until the scales stand still.

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
            if settings.outlier_cutoff:
                n_rejected = scaler.reject_outliers(settings.outlier_cutoff)
                scaler.update_weights()
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
                " ".join(step), cycle + 1, row["rmsd_start"], row["rmsd_end"], row["steps"],
            )  # fmt: skip
            if cycle >= len(order) and shift < SHIFT_TOLERANCE:
                break
            last = b
        else:
            if shift is not None:
                logger.warning(
                    "Scales moved by up to %.2f of their e.s.d. in the last of %d cycles: give a larger fit.n_cycles",
                    shift, settings.n_cycles,
                )  # fmt: skip
        return scaler, cycles

    def free_chi2(self, models: list, weights: np.ndarray | None = None):
        """chi^2 per degree of freedom of the free set, its intensities in closed form.

        Args:
            models: refined
            weights: to be used instead of those that the models lead to, so that two
                models can be compared

        Returns:
            (chi^2, weights, squares of residuals over sigma); NaN and None without a free set
        """
        if not len(self.free):
            return float("nan"), None, None
        scaler = self.scaler(models, self.free)
        if weights is not None:
            scaler.data.weight = weights
        elif self.settings.outlier_cutoff:
            scaler.reject_outliers(self.settings.outlier_cutoff)
            scaler.update_weights()
        target = DiffuseScalingTarget(scaler)
        squares = target.squares(scaler.data)
        return float(squares.sum() / freedom_of(scaler)), scaler.data.weight, squares


def still_covariances(scaler: DiffuseScaler, restraints: Restraints) -> np.ndarray:
    """(S, 1 + n, 1 + n): covariances of b and c of each still at the present parameters"""
    target = DiffuseScalingTarget(scaler)
    target.functional_and_gradients(scaler.data)
    normal = scaler.still_normal_matrices(restraints, target.reference)
    if scaler.offset_series is not None:
        return covariances_with_offset_series(scaler, normal)
    units, _ = whitening(normal)
    return np.einsum("spk,sqk->spq", units, units)


def covariances_with_offset_series(scaler: DiffuseScaler, normal: np.ndarray) -> np.ndarray:
    """The same where c is a function of p_order: b for a fixed c, and what the error of c adds"""
    out = np.empty_like(normal)
    of_c, slopes = scaler.offset_series.covariances(), scaler.slopes
    cross = np.einsum("spq,sq->sp", of_c, slopes)
    out[:, 0, 0] = 1.0 / normal[:, 0, 0] + np.einsum("sp,sp->s", cross, slopes)
    out[:, 0, 1:] = out[:, 1:, 0] = cross
    out[:, 1:, 1:] = of_c
    return out


def series_variances(scaler: DiffuseScaler) -> np.ndarray:
    """(S,): variances of b where it is a smooth function, for the convention mean b = 1"""
    b = scaler.b
    of_b = scaler.series_weights @ scaler.series.unit
    return np.sum((of_b - np.outer(b / b.mean(), of_b.mean(axis=0))) ** 2, axis=1)


def shifts_of_detector(scaler: DiffuseScaler, name: str) -> np.ndarray:
    """(n, n): shifts of the parameters of "panel" or "sensitivity" -> what is left of them by the
    convention that their mean logarithm over the observations is 0"""
    component = scaler.shared[name]
    return np.eye(component.n_params) - np.outer(component.values(), mean_over_observations(scaler, name))


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
    if fitter.too_few(names):
        raise ValueError(
            f"{len(fitter.observations)} observations shared by stills are too few for "
            f"{fitter.n_parameters(names)} parameters: use fewer components (model.offset=False "
            "model.sensitivity=False) or lower fit.min_observations_per_parameter"
        )
    scaler, cycles = fitter.refine(names, fitter.start)
    chi2, weights, squares = fitter.free_chi2(scaler.models)
    trials = [_trial(names, chi2_of(scaler), chi2, True)]
    for name in ("panel", "offset", "sensitivity"):
        if getattr(wanted, name) is not None or (name == "panel" and survey.n_panels == 1):
            continue
        more = [n for n in COMPONENTS if n in (*names, name)]
        if weights is None or fitter.too_few(more):
            trials.append(_trial(more, None, None, False))
            continue
        try:
            trial, rows = fitter.refine(more, scaler.models)
        except ValueError as error:
            logger.info("No %s: %s", name, error)
            trials.append(_trial(more, None, None, False))
            continue
        new_chi2, _, new_squares = fitter.free_chi2(trial.models, weights)
        n_more = fitter.n_parameters(more) - fitter.n_parameters(names)
        better = is_real_gain(
            chi2, new_chi2, n_more, len(fitter.free), len(fitter.observations)
        ) and is_certain_gain(squares, new_squares)
        trials.append(_trial(more, chi2_of(trial), new_chi2, better))
        if better:
            names, scaler = more, trial
            cycles.extend(rows)
            chi2, weights, squares = fitter.free_chi2(scaler.models)
    result = FitResult(
        scaler.models, names, scaler.data.size, len(scaler.data.voxel), cycles, trials
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
        chi2, new_chi2: of the free set per observation, without and with the parameters
        n_more: number of parameters that were added
        n_free, n_fit: observations in the free set and in the fit
    """
    return bool(n_free * (chi2 - new_chi2) > 6 * np.sqrt(n_more * n_free / n_fit))


def is_certain_gain(before: np.ndarray, after: np.ndarray) -> bool:
    """True if the squares of the free set's residuals (N,) fell by more than three times the
    uncertainty of the sum of their differences, and by so much that it matters."""
    gains = before - after
    uncertainty = np.sqrt(np.sum((gains - gains.mean()) ** 2))
    return bool(gains.sum() > max(3 * uncertainty, LEAST_GAIN * before.sum()))


def _trial(names, chi2, free_chi2, kept: bool) -> dict:
    return {"components": list(names), "chi2": chi2, "free_chi2": free_chi2, "kept": kept}


def _finish(scaler: DiffuseScaler, fitter: Fitter, result: FitResult) -> None:
    """Standard deviations, and the convention for the offsets"""
    names = result.components
    restraints = Restraints(
        scaler, fitter.settings.restraints, fitter.profile_scales, fitter.prior
    )
    target = DiffuseScalingTarget(scaler)
    target.functional_and_gradients(scaler.data)
    covariances = still_covariances(scaler, restraints)
    scaler.set_units(target.reference, restraints, names)
    # the least-squares engines have found those of the other components with all correlations
    by_engine = fitter.settings.engine != "SimpleLBFGS"
    if scaler.series is not None:
        covariances[:, 0, 0] = series_variances(scaler)
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
