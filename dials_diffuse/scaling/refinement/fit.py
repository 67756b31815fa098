"""The fit of the scaling models: cycles of new weights and a step of refinement, until the scales converge."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.scaling.expectation.patches import N_PATCHES, chi2_of_patches, deviating_patches
from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.observations.overview import Overview
from dials_diffuse.scaling.refinement.bragg import BraggReflections
from dials_diffuse.scaling.refinement.kernels import FitData, patch_excess, spread_sums, weigh
from dials_diffuse.scaling.refinement.objective import (
    Objective,
    Preconditioner,
    chunks_of,
    sum_over_chunks,
)
from dials_diffuse.scaling.refinement.parameters import Parameters, Part, Quadratic
from dials_diffuse.scaling.refinement.refinery import refine_cycle
from dials_diffuse.scaling.refinement.restraints import (
    WIDE,
    WIDE_OFFSET,
    learnt_offset_prior,
    learnt_scale_prior,
    offset_part,
    panel_part,
    scale_part,
    sensitivity_part,
)
from dials_diffuse.scaling.refinement.settings import ScaleSettings
from dials_diffuse.scaling.refinement.still_models import Components

logger = logging.getLogger("dials.diffuse.scaling.fit")

# Cycles end when no b moves by more e.s.d.s than this
SHIFT_TOLERANCE = 0.15
# Cycles that are mixed, beside the last; least singular value of their shifts, relative to the largest; and
# how far mixing goes, in units of the steps between cycles
MIXED, LEAST_DIRECTION, FARTHEST = 3, 0.05, 20.0
# The priors of b and c are learnt after one of these cycles, when b moves by less than so many e.s.d.s (r.m.s.)
LEARN, LATEST = 1, 4
STEADY = 0.3
# Rounds of the search for patches: those that deviate most make others of the same voxels look wrong
PATCH_ROUNDS = 3
# Spread of the intensities around their shell's mean, as a fraction of it: at first, and the least
SPREAD, LEAST_SPREAD = 1.0, 0.03
SPREAD_STEPS = 5
_GOLDEN, _PLASTIC = 0.6180339887498949, 0.7548776662466927


def chosen_voxels(overview: Overview, max_observations: int) -> np.ndarray:
    """(V,) bool: voxels that several stills see, or a quasi-random choice of these.

    Multiples of the golden ratio modulo one are spread evenly over any range of voxels, and so over
    reciprocal space (by index).
    """
    shared = overview.connections.n_stills > 1
    total = overview.connections.n_obs[shared].sum()
    if total <= max_observations:
        return shared
    position = _rank(overview) * _GOLDEN % 1.0
    return shared & (position < max_observations / total)


def free_voxels(overview: Overview, percentage: float) -> np.ndarray:
    """(V,) bool: voxels of the free set, spread evenly"""
    return _rank(overview) * _PLASTIC % 1.0 < percentage / 100


def _rank(overview: Overview) -> np.ndarray:
    """(V,) place of each voxel by index: rows in files are in another order"""
    voxels = overview.rows.voxels
    rank = np.empty(len(voxels), dtype=np.int64)
    rank[np.argsort(voxels)] = np.arange(len(voxels))
    return rank


def fit_data(
    overview: Overview, chosen: np.ndarray, prior, bragg: BraggReflections | None = None
) -> FitData:
    """The observations of the chosen voxels (V,) bool, of stills that are not excluded.

    Args:
        prior: function |q| -> mean intensity
        bragg: reflections that take part as voxels of their own
    """
    rows, counts = [], []
    for voxels in overview.rows.chunks():
        obs = overview.rows.rows(voxels)
        keep = chosen[obs["voxel"]] & ~overview.excluded[obs["still"]]
        rows.append(obs[keep])
        counts.append(
            np.bincount(rows[-1]["voxel"] - voxels.start, minlength=voxels.stop - voxels.start)
        )
    rows, counts = np.concatenate(rows), np.concatenate(counts)
    seen = counts > 0
    counts = counts[seen]
    q = np.bincount(rows["voxel"], overview.bins.q_of(rows["radial"]), len(seen))[seen] / counts
    mean, n = prior(q), len(counts)
    error, importance = np.zeros(n), np.ones(n)
    if bragg is not None:
        rows, counts = np.concatenate((rows, bragg.rows)), np.concatenate((counts, bragg.n_obs))
        mean = np.concatenate((mean, bragg.mean_intensity))
        more = np.ones(len(bragg.n_obs))
        error = np.concatenate((error, bragg.settings.partiality_error * more))
        importance = np.concatenate((importance, bragg.settings.weight * more))
    start = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    precision = 1.0 / (SPREAD * mean) ** 2
    return FitData(start, rows, np.ones(len(rows)), mean, precision, error, importance)


@dataclass
class Refined:
    """A refined model.

    Attributes:
        parts: by name
        cycles: rows of the convergence table
        bad_patches: (S, N_PATCHES + 1) bool; the last column, of reflections, is False
        objective: at the parameters; None before the first cycle
        spread: of the intensities around their shell's mean, as a fraction of it
        priors: of components, that were learnt
        significance: (S,) b over its standard deviation before priors were learnt; NaN if none was
    """

    parts: dict[str, Part]
    cycles: list[dict] = field(default_factory=list)
    bad_patches: np.ndarray | None = None
    objective: Objective | None = None
    spread: float = SPREAD
    priors: dict[str, Quadratic] = field(default_factory=dict)
    significance: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        return list(self.parts)


class Fitter:
    """Refines models with different sets of components on the same observations.

    Args:
        components: with smoothers
        data: observations
        start: (S,) scales of the radial profiles, which b stays close to
        prior: function |q| -> mean intensity
        n_threads: that share the work
    """

    def __init__(
        self, components: Components, data: FitData, start: np.ndarray, prior, n_threads=1
    ):
        self.components, self.data, self.start, self.prior = components, data, start, prior
        self.n_threads = n_threads
        self.settings: ScaleSettings = components.settings
        self.used = np.zeros(len(start), dtype=bool)
        self.used[np.unique(data.rows["still"])] = True
        self._start_errors = components.overview.scale_errors(start)
        self.tables = components.empty_tables()._replace(b=start.copy())

    def part(self, name: str) -> Part:
        """A component at its null values."""
        restraints, components = self.settings.restraints, self.components
        if name == "scale":
            return scale_part(self.start, components.scale_series(), restraints.scale or WIDE)
        if name == "offset":
            sigmas = restraints.offset or WIDE_OFFSET, restraints.offset_smoothness
            return offset_part(components.offset(), self.start, self.prior, *sigmas)
        seen = self.observations_of(name, self.data.rows)
        if name == "panel":
            return panel_part(seen[0], restraints.panel)
        return sensitivity_part(components.sensitivity(), seen, restraints)

    def observations_of(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Number of rows (N,) in each entry of the table d (1, P) or a (steps, directions)."""
        if name == "panel":
            return np.bincount(rows["panel"], minlength=len(self.tables.d))[None].astype(float)
        shape = self.tables.a.shape
        key = self.tables.step[rows["still"]] * shape[1] + rows["direction"]
        return np.bincount(key, minlength=self.tables.a.size).reshape(shape).astype(float)

    def refine(
        self,
        names: list[str],
        begin: Refined | None = None,
        n_cycles: int = 0,
        patches: bool = True,
    ) -> Refined:
        """Refine a model with these components.

        Before each cycle the expected variances, outliers and bad patches are determined anew.

        Args:
            names: components
            begin: a model whose values are taken over for the components it has
            n_cycles: this many; 0: until the scales converge, and as the settings say at most
            patches: look for bad patches in the first cycles; False: those of begin
        """
        parts = [self.part(name) for name in names]
        out = Refined({part.name: part for part in parts})
        out.bad_patches = np.zeros((len(self.start), N_PATCHES + 1), dtype=bool)
        if begin is not None:
            out.spread, out.bad_patches = begin.spread, begin.bad_patches.copy()
            out.priors = dict(begin.priors)
            for name in set(names) & set(out.priors):
                out.parts[name].prior = out.priors[name]
            for name in set(names) & set(begin.parts):
                out.parts[name].values = begin.parts[name].values.copy()
        parameters = Parameters(parts, self.tables)
        out.objective = Objective(self.data, parameters, self.n_threads)
        shared = [name for name in names if name in ("panel", "sensitivity")]
        seen = {name: self.observations_of(name, self.data.rows) for name in shared}
        fit, mixing, learnt = self.settings.fit, Mixing(), bool(n_cycles)
        last = shift = None
        for cycle in range(n_cycles or fit.n_cycles if names else 0):
            n_rejected = self.weigh_anew(out, patches and (cycle <= LEARN or not learnt))
            arguments = out.objective, fit.engine, fit.max_iterations
            row, preconditioner = refine_cycle(*arguments)
            self._learn_spread(out)
            apply_conventions(parameters, seen, self.used, "offset" in out.priors)
            moved = self._moved(parameters, last, preconditioner)
            steady = moved is None or np.sqrt(np.mean(moved**2)) < STEADY
            learn = not learnt and cycle >= LEARN and (steady or cycle == LATEST)
            if learn:
                self._learn_priors(out, preconditioner)
                learnt, mixing = True, Mixing()
            elif moved is not None:
                parameters.set(mixing.next(parameters.x, moved))
            apply_conventions(parameters, seen, self.used, "offset" in out.priors)
            moved = self._moved(parameters, last, preconditioner)
            shift = None if moved is None else float(np.max(abs(moved)))
            row.update(cycle=cycle + 1, outliers=n_rejected, shift=shift)
            out.cycles.append(row)
            text = "%s, cycle %d: RMSD %.5f -> %.5f in %d passes"
            figures = row["rmsd_start"], row["rmsd_end"], row["steps"]
            logger.info(text, " ".join(names), cycle + 1, *figures)
            last = parameters.tables().b[self.used] if "scale" in names else None
            if cycle > LEARN and learnt and not learn and (shift or 0.0) < SHIFT_TOLERANCE:
                break
        else:
            if not n_cycles and shift is not None:
                logger.warning(
                    "Scales moved by up to %.2f of their e.s.d. in the last of %d cycles: give a larger fit.n_cycles",
                    shift,
                    fit.n_cycles,
                )
        return out

    def _moved(self, parameters: Parameters, last: np.ndarray | None, preconditioner):
        """(S,) by how many e.s.d.s b of the stills that take part has moved from `last`; None if that is None."""
        if last is None:
            return None
        sigmas = np.sqrt(preconditioner.still_covariances()[self.used, 0, 0])
        return (parameters.tables().b[self.used] - last) / sigmas

    def weigh_anew(self, refined: Refined, patches: bool = True) -> int:
        """Determine weights, outliers and bad patches anew; returns the number of outliers."""
        outliers = self.settings.outliers
        if patches:
            refined.bad_patches[:] = False
        n_rejected = self.weigh(refined, self.data)
        if not patches or outliers.patch_cutoff is None:
            return n_rejected
        for _ in range(PATCH_ROUNDS):
            deviating = deviating_patches(*self.patch_excess(refined), outliers.patch_cutoff)
            if not deviating.any():
                break
            refined.bad_patches[:, :N_PATCHES] |= deviating
            n_rejected = self.weigh(refined, self.data)
        return n_rejected

    def weigh(self, refined: Refined, data: FitData) -> int:
        """Set weights and reject outliers of any data; returns the number of outliers."""
        tables = refined.objective.parameters.tables()
        strength = self.settings.weighting.prior_strength
        arguments = (
            refined.bad_patches,
            strength,
            self.settings.outliers.cutoff or 0.0,
            refined.spread,
        )

        def run(voxels: slice) -> int:
            return weigh(data.of_voxels(voxels), tables, *arguments)

        return sum(map_in_threads(run, chunks_of(data, 1), self.n_threads))

    def patch_excess(self, refined: Refined) -> tuple[np.ndarray, np.ndarray]:
        """(S, N_PATCHES) excess and information of patches, see kernels.patch_excess."""
        tables, shape = refined.objective.parameters.tables(), (len(self.start), N_PATCHES)

        def add(data: FitData, _, arrays: tuple) -> None:
            patch_excess(data, tables, *arrays)

        empty = lambda: (np.zeros(shape), np.zeros(shape))  # noqa: E731
        return sum_over_chunks(self.data, empty, add, self.n_threads)[1]

    def _learn_spread(self, refined: Refined) -> None:
        """Learn how far the intensities of voxels are from the mean of their shell."""
        objective, data = refined.objective, self.data
        for _ in range(SPREAD_STEPS):
            known = objective.intensity, objective.information, refined.spread
            excess, total = spread_sums(data.prior, *known)
            if total > 0:
                refined.spread = float(np.sqrt(np.clip(excess / total, LEAST_SPREAD**2, SPREAD**2)))

    def _learn_priors(self, refined: Refined, preconditioner: Preconditioner) -> None:
        """Learn from the stills how far their b and c differ, and set their priors, unless they are given."""
        restraints, used = self.settings.restraints, self.used
        given = {"scale": restraints.scale, "offset": restraints.offset}
        covariances = self.still_covariances(refined, preconditioner)[used]
        start = self.start[used]
        if "scale" in refined.parts and refined.parts["scale"].by_still:
            refined.significance = np.full(len(used), np.nan)
            b = refined.parts["scale"].values[used, 0]
            refined.significance[used] = b / np.sqrt(covariances[:, 0, 0])
        learnt, share = {}, used.astype(float)
        for name in [name for name in given if name in refined.parts]:
            part = refined.parts[name]
            if given[name] is not None or name in refined.priors or not part.by_still:
                continue
            values = part.values[used]
            if name == "offset":
                learnt[name], usual = learnt_offset_prior(values, start, covariances[:, 1:, 1:])
            else:
                sigma, errors = np.sqrt(covariances[:, 0, 0]), self._start_errors[used]
                learnt[name], usual = learnt_scale_prior(values[:, 0], sigma, start, errors)
            share[used] *= usual
        for name, prior in learnt.items():
            own = refined.priors[name] = refined.parts[name].prior
            mixed = prior.mixed(own.of_rows(used), share[used])
            own.mean[used], own.precision[used] = mixed.mean, mixed.precision

    def still_covariances(self, refined: Refined, preconditioner: Preconditioner) -> np.ndarray:
        """(S, 1 + n, 1 + n): covariances of b and c of each still.

        From counting statistics, times the chi^2 of whole patches of the image if that is larger.
        """
        factor = chi2_of_patches(*self.patch_excess(refined))
        # the mean of b, held by convention, contains the still itself (for stills of equal weight)
        n_stills = max(np.count_nonzero(self.used), 1)
        factor = factor * max(1 - 1 / n_stills, 0.5) ** 2
        return factor[:, None, None] * preconditioner.still_covariances()


class Mixing:
    """Anderson's mixing of cycles, which skips what a series of ever smaller shifts in the same directions still has to go.

    D. G. Anderson (1965), J. ACM 12, 547; H. F. Walker & P. Ni (2011), SIAM J. Numer. Anal. 49, 1715.
    """

    def __init__(self):
        self._after: list[np.ndarray] = []
        self._shift: list[np.ndarray] = []

    def next(self, x: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """The parameters (n,) to begin the next cycle with.

        Args:
            x: (n,) at the end of a cycle
            shift: (S,) by how many e.s.d.s that cycle has moved b
        """
        self._after = [*self._after[-MIXED:], x]
        self._shift = [*self._shift[-MIXED:], shift]
        if len(self._after) == 1:
            return x
        steps, shifts = np.diff(self._after, axis=0), np.diff(self._shift, axis=0)
        amounts = np.linalg.lstsq(shifts.T, shift, rcond=LEAST_DIRECTION)[0]
        return x - amounts @ steps if np.abs(amounts).max() < FARTHEST else x


def apply_conventions(
    parameters: Parameters, seen: dict[str, np.ndarray], used: np.ndarray, learnt: bool = False
) -> None:
    """Make mean b = 1, mean ln a = mean ln d = 0, and c and its prior meet. Expectations stay the same.

    Args:
        parameters: changed in place
        seen: observations in each entry of the tables of d and a, by name of the component
        used: (S,) bool: stills that were refined
        learnt: the prior of c was learnt: it moves to the values, else they to it

    Raises:
        ValueError: an a or d of accepted observations is not positive.
    """
    parts, tables = parameters.parts, parameters.tables()
    factor = 1.0
    for name, table in (("panel", tables.d[None]), ("sensitivity", tables.a)):
        if name not in parts:
            continue
        with_rows = seen[name] > 0
        if not np.all(table[with_rows] > 0):
            raise ValueError(
                f"The fit makes {name} factors zero or negative: they can't be told from the rest (model.{name}=False)"
            )
        mean = np.exp(np.average(np.log(table[with_rows]), weights=seen[name][with_rows]))
        parts[name].values = parts[name].values / mean
        factor *= mean
    if "scale" in parts:
        parts["scale"].values = parts["scale"].values / tables.b[used].mean()
    if "offset" in parts:
        parts["offset"].values = parts["offset"].values * factor
    for part in parts.values():
        if part.by_still:
            meet_prior(part, parameters.tables().b, used, learnt)


def meet_prior(part: Part, scales: np.ndarray, used: np.ndarray, learnt: bool) -> None:
    """Change the prior of b by a factor, or c or its prior by b f(|q|), so that the prior is at its least.

    The observations do not determine such a factor and f (see restraints). A prior that pulled there would
    move the parameters by little in each of many cycles.

    Args:
        part: b or c of each still
        scales: (S,) b
        used: (S,) bool: stills that are refined
        learnt: the prior of c is changed, else c
    """
    prior, b = part.prior, scales[used]
    precision, mean, values = prior.precision[used], prior.mean[used], part.values[used]
    if part.name == "scale":
        by_b = b * precision[:, 0, 0]
        prior.mean = prior.mean * (by_b @ b) / (by_b @ mean[:, 0])
        return
    toward = np.einsum("s,spq,sq->p", b, precision, values - mean)
    shift = scales[:, None] * np.linalg.solve(np.einsum("s,spq->pq", b**2, precision), toward)
    if learnt:
        prior.mean = prior.mean + shift
    else:
        part.values = part.values - shift


def tables_of(refined: Refined) -> ScaleTables:
    """Tables at the parameters of a refined model."""
    return refined.objective.parameters.tables()
