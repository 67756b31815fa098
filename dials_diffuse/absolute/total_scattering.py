"""Absolute scale from total scattering.

The mean over a shell of everything that the crystal scatters, Bragg peaks and all, is that
of its atoms and of pairs of near neighbours: displacement moves intensity from Bragg peaks into diffuse
scattering and takes none away. So the unmasked profile I(q), in any unit, times the
scale S is sum f^2 + S_pairs + S_inc, in electrons^2 per unit cell.

Three ways to S, and how they depend on the range of q, which is their error:

- high q (Norman 1957): mean of the ratio where interference has died out;
- Krogh-Moe (1956): V int S I d3q = V int (sum f^2 + S_pairs + S_inc) d3q - Z^2, from 0 to
  a cut-off. Z^2/V is the peak at q = 0, which nobody measures. S_pairs is the overlap of the clouds of bonded neighbours
  and neighbours' neighbours, which outlasts every cut-off that detectors reach;
- a fit of the whole profile above the q where longer distances show.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from dials_diffuse.absolute.composition import UnitCellInventory
from dials_diffuse.absolute.form_factors import AtomicTables
from dials_diffuse.absolute.profile import RadialProfile

logger = logging.getLogger("dials.diffuse.absolute.total_scattering")


_KROGH_MOE_LIMIT = 0.025


@dataclass(frozen=True)
class Settings:
    """How the scale is had from the profile.

    Attributes:
        estimate: "auto", "high_q", "krogh_moe" or "fit": which one is applied
        q_min, q_max: range in 1/Angstrom that may be used, None for all
        high_q: where the high-q estimate begins
        fit_from: where the fit begins
        pairs: use neighbours where they are known
        b_relative: of pairs, Angstrom^2; None to refine it with the fit
        background: "none", "constant" or "air": a term of the fit for what was not subtracted
    """

    estimate: str = "auto"
    q_min: float | None = None
    q_max: float | None = None
    high_q: float = 0.7
    fit_from: float = 0.32
    pairs: bool = True
    b_relative: float | None = None
    background: str = "none"


@dataclass
class Estimate:
    """One way's answer.

    Attributes:
        name: "high_q", "krogh_moe" or "fit"
        scale: electrons^2 per unit cell for one unit of the scaled data
        error: standard error of scale, its dependence on the range included
        q_range: used
        scan: rows (q_low, q_high, scale) for other ranges
        parts: what the error is made of: name -> standard error
        details: further numbers
    """

    name: str
    scale: float
    error: float
    q_range: tuple[float, float]
    scan: list[tuple[float, float, float]]
    parts: dict[str, float] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)

    @property
    def relative_error(self) -> float:
        return self.error / abs(self.scale)


@dataclass
class TotalScattering:
    """The scale and all that it rests on.

    Attributes:
        scale, error: applied
        chosen: name of the estimate
        estimates: all that could be made
        theory: on profile.q: "sum_f_squared", "pairs" (damped), "incoherent", "total"
        b_relative: of the pair term
        warnings: one line each
    """

    scale: float
    error: float
    chosen: str
    estimates: list[Estimate]
    theory: dict[str, np.ndarray]
    b_relative: float
    warnings: list[str]


@dataclass(frozen=True)
class Variant:
    """What may be varied in the theory.

    Attributes:
        b_relative: of pairs, Angstrom^2
        distant: uncertainties by which the distant pairs are off
    """

    b_relative: float
    distant: float = 0.0


class Theory:
    """Expected profile of a composition at the shells of a profile."""

    def __init__(
        self, inventory: UnitCellInventory, q: np.ndarray, tables: AtomicTables, pairs: bool
    ):
        self.q = q
        self.coherent = inventory.sum_f_squared(q, tables)
        self.incoherent = inventory.incoherent(q, tables)
        self.has_pairs = pairs and inventory.has_pairs
        self.pairs = inventory.pair_sum(q, tables) if self.has_pairs else np.zeros(q.shape)
        self.uncertainty = (
            inventory.distant_uncertainty(q, tables) if self.has_pairs else np.zeros(q.shape)
        )

    def damped_pairs(self, variant: Variant) -> np.ndarray:
        pairs = self.pairs + variant.distant * self.uncertainty
        return pairs * np.exp(-variant.b_relative * self.q**2 / 2)

    def total(self, variant: Variant) -> np.ndarray:
        """Electrons^2 per unit cell, (N,)"""
        return self.coherent + self.incoherent + self.damped_pairs(variant)


def find_scale(
    profile: RadialProfile,
    inventory: UnitCellInventory,
    tables: AtomicTables = AtomicTables(),
    settings: Settings = Settings(),
) -> TotalScattering:
    """The absolute scale of a profile.

    Raises:
        ValueError: the profile does not reach far enough for any estimate, or is not positive.
    """
    inside = np.ones(len(profile.q), dtype=bool)
    if settings.q_min is not None:
        inside &= profile.edges[:-1] >= settings.q_min - 1e-9
    if settings.q_max is not None:
        inside &= profile.edges[1:] <= settings.q_max + 1e-9
    reach = profile.edges[1:][inside].max() if inside.any() else 0.0
    least = settings.fit_from + 0.08
    if reach < least:
        raise ValueError(
            f"The data reach |q| = {reach:.3f}/A (d = {1 / max(reach, 1e-3):.2f} A): too short a range for an absolute scale "
            f"from total scattering, which needs {least:.2f}/A at the least. Extend d_min of dials.diffuse_extract if "
            "the detector does, use method=wilson, or give scale="
        )
    bad = profile.q[inside][~(profile.total[inside] > 0)]
    if len(bad):
        raise ValueError(
            f"Total scattering is not positive at |q| = {bad[0]:.3f}/A: more background is subtracted than is there"
        )
    theory = Theory(inventory, profile.q, tables, settings.pairs)
    warnings: list[str] = []
    fit, best, others = _fit(profile, theory, settings, inside)
    estimates = [
        _krogh_moe(profile, theory, inventory, tables, settings, inside, best, others),
        fit,
    ]
    if reach >= settings.high_q + 0.04:
        estimates.insert(0, _high_q(profile, theory, settings, inside, best, others))
    else:
        warnings.append(
            f"The data end at |q| = {reach:.2f}/A: no high-q estimate, which begins at {settings.high_q:.2f}/A"
        )
    by_name = {estimate.name: estimate for estimate in estimates}
    chosen = settings.estimate
    if chosen == "auto":
        chosen = "high_q" if "high_q" in by_name else "fit"
    if chosen not in by_name:
        raise ValueError(
            f"The data end at |q| = {reach:.2f}/A: estimate=high_q needs {settings.high_q + 0.04:.2f}/A "
            "(estimate=fit uses what there is)"
        )
    used = by_name[chosen]
    # what the estimates disagree about is not the composition, which they share: only then does it join
    warnings += _diagnose(estimates, used, fit, theory, settings, reach)
    relative = inventory.uncertainty(tables)
    if relative > 0:
        for estimate in estimates:
            estimate.parts["composition"] = relative * abs(estimate.scale)
            estimate.error = _combine(estimate.parts)
    return TotalScattering(
        used.scale,
        used.error,
        chosen,
        estimates,
        {
            "sum_f_squared": theory.coherent,
            "pairs": theory.damped_pairs(best),
            "incoherent": theory.incoherent,
            "total": theory.total(best),
        },
        best.b_relative,
        warnings,
    )


def _diagnose(estimates, used, fit, theory, settings, reach) -> list[str]:
    warnings = []
    for other in estimates:
        difference = abs(other.scale - used.scale)
        # Krogh-Moe's dependence on the range is what a wrong background at low |q| looks like: with known
        # neighbours it is good to 2 %
        beyond = theory.has_pairs and difference > _KROGH_MOE_LIMIT * used.scale
        if difference > 2 * np.hypot(other.error, used.error) or beyond:
            warnings.append(
                f"{other.name} gives {other.scale:.5g} and {used.name} {used.scale:.5g}: they disagree by "
                f"{100 * difference / used.scale:.1f} %. Background left in or subtracted twice (at low |q|, if it is "
                "Krogh-Moe that differs) or a wrong composition does this"
            )
    for estimate in estimates:
        drift = estimate.details.get("drift")
        if (
            drift is not None
            and abs(drift) > 3 * estimate.details["drift_error"]
            and abs(drift) > 0.03
        ):
            warnings.append(
                f"Data over theory changes by {100 * drift:+.0f} % over the high-q range: background or air scattering "
                "is left (or too much is subtracted)"
            )
    share = fit.details["free_background_share"]
    if share > 0.05 and share > 2.5 * fit.details["free_background_share_error"]:
        warnings.append(
            f"The profile fits better with a constant background of {100 * share:.0f} % of the high-q intensity: "
            "give background= to dials.diffuse_extract, or total_scattering.background=constant"
        )
    if not theory.has_pairs and settings.pairs:
        warnings.append(
            "A formula does not say which atoms are neighbours: the interference of bonded pairs, 5 to 15 % of the profile "
            "below 1/A, is left out (give composition.model or composition.sequence)"
        )
    if reach < 0.5:
        warnings.append(
            f"The data end at |q| = {reach:.2f}/A: longer distances than the known pairs still interfere there"
        )
    return warnings


def _resampled(profile: RadialProfile, function) -> float:
    """Jackknife standard error of function(total profile) over the groups of stills."""
    g = len(profile.groups)
    if g < 3:
        return 0.0
    share = profile.groups.mean(axis=0)
    values = []
    for k in range(g):
        # leave-one-out of the unweighted mean, moved onto the weighted one
        left = (share * g - profile.groups[k]) / (g - 1) - share
        values.append(function(profile.total + left))
    values = np.array(values)
    return float(np.sqrt((g - 1) / g * ((values - values.mean()) ** 2).sum()))


def _deviation(value: float, others: list[float]) -> float:
    """Root mean square deviation of others from value."""
    return float(np.sqrt(np.mean((np.array(others) - value) ** 2))) if others else 0.0


def _spread(scan: list[tuple[float, float, float]], scale: float) -> float:
    """Standard deviation of the scales of a scan about the chosen one."""
    return _deviation(scale, [row[2] for row in scan])


def _combine(parts: dict[str, float]) -> float:
    return float(np.sqrt(sum(value**2 for value in parts.values())))


def _high_q(profile, theory, settings, inside, best, others) -> Estimate:
    stop = profile.edges[1:][inside].max()

    def scale_of(total, low, high, expected):
        chosen = inside & (profile.edges[:-1] >= low - 1e-9) & (profile.edges[1:] <= high + 1e-9)
        weight = profile.coverage[chosen]
        return float((weight * expected[chosen]).sum() / (weight * total[chosen]).sum())

    expected = theory.total(best)
    scale = scale_of(profile.total, settings.high_q, stop, expected)
    lows = np.arange(settings.high_q, stop - 0.03, 0.02)
    scan = [(float(low), float(stop), scale_of(profile.total, low, stop, expected)) for low in lows]
    scan += [
        (settings.high_q, float(high), scale_of(profile.total, settings.high_q, high, expected))
        for high in np.arange(settings.high_q + 0.04, stop - 0.01, 0.02)
    ]
    chosen = inside & (profile.edges[:-1] >= settings.high_q - 1e-9)
    ratio = profile.total[chosen] * scale / expected[chosen]
    error = np.sqrt(profile.variance[chosen]) * scale / expected[chosen]
    weights = 1 / np.maximum(error, 1e-3) ** 2
    centred = profile.q[chosen] - np.average(profile.q[chosen], weights=weights)
    slope = (weights * centred * ratio).sum() / (weights * centred**2).sum()
    width = stop - settings.high_q
    parts = {
        "stills": _resampled(profile, lambda t: scale_of(t, settings.high_q, stop, expected)),
        "range": _spread(scan, scale),
        "pairs": _deviation(
            scale,
            [
                scale_of(profile.total, settings.high_q, stop, theory.total(other))
                for other in others
            ],
        ),
    }
    plain = scale_of(profile.total, settings.high_q, stop, theory.coherent + theory.incoherent)
    details = {
        "drift": float(slope * width),
        "drift_error": float(width / np.sqrt((weights * centred**2).sum())),
        "without_pairs": plain,
    }
    return Estimate(
        "high_q", scale, _combine(parts), (settings.high_q, float(stop)), scan, parts, details
    )


def _krogh_moe(profile, theory, inventory, tables, settings, inside, best, others) -> Estimate:
    from scipy.integrate import trapezoid

    volume, z = inventory.volume, inventory.electrons
    start = profile.edges[:-1][inside].min()
    # theory below the first shell, where nothing is measured
    q_cap = np.linspace(0.0, start, 60)
    cap = Theory(inventory, q_cap, tables, settings.pairs)
    shells = 4 * np.pi / 3 * np.diff(profile.edges**3)
    cap_volume = 4 * np.pi / 3 * start**3

    def theory_integral(expected, cap_expected):
        below = trapezoid(4 * np.pi * q_cap**2 * cap_expected, q_cap)
        return below + np.cumsum(np.where(inside, shells * expected, 0.0))

    def scale_of(total, stop, expected, cap_expected, fill=1.0):
        last = np.flatnonzero(inside & (profile.edges[1:] <= stop + 1e-9))[-1]
        measured = np.where(inside, shells * total, 0.0)[: last + 1].sum()
        filled = fill * cap_volume * total[inside][0]
        wanted = volume * theory_integral(expected, cap_expected)[last] - z**2
        return float(wanted / (volume * (measured + filled)))

    expected, cap_expected = theory.total(best), cap.total(best)
    stop = float(profile.edges[1:][inside].max())
    scale = scale_of(profile.total, stop, expected, cap_expected)
    scan = [
        (float(start), float(high), scale_of(profile.total, high, expected, cap_expected))
        for high in np.arange(min(max(0.6 * stop, 0.4), 0.8 * stop), stop - 0.005, 0.02)
    ]
    no_fill = scale_of(profile.total, stop, expected, cap_expected, fill=0.0)
    plain = scale_of(
        profile.total, stop, theory.coherent + theory.incoherent, cap.coherent + cap.incoherent
    )
    varied = [
        scale_of(profile.total, stop, theory.total(other), cap.total(other)) for other in others
    ]
    parts = {
        "stills": _resampled(profile, lambda t: scale_of(t, stop, expected, cap_expected)),
        "range": _spread(scan, scale),
        "cap": abs(scale - no_fill),
        "pairs": _deviation(scale, varied) if theory.has_pairs else abs(scale) * 0.1,
    }
    details = {
        "without_pairs": plain,
        "cap_share": abs(no_fill / scale - 1),
        "z_squared_share": z**2 / (volume * float(theory_integral(expected, cap_expected)[-1])),
    }
    return Estimate("krogh_moe", scale, _combine(parts), (float(start), stop), scan, parts, details)


def _background_shape(kind: str, q: np.ndarray) -> np.ndarray | None:
    """Shape of what the fit may subtract, (N,), 1 at q = 0."""
    if kind == "none":
        return None
    if kind == "constant":
        return np.ones(q.shape)
    from dials_diffuse.absolute.form_factors import form_factor, incoherent_factor

    # nitrogen and oxygen by volume, bond lengths 1.098 and 1.208 A
    total = np.zeros(q.shape)
    at_zero = 0.0
    for element, share, length in (("N", 0.79, 1.098), ("O", 0.21, 1.208)):
        f2 = np.abs(form_factor(element, q)) ** 2
        total += share * (
            2 * f2 * (1 + np.sinc(2 * q * length)) + 2 * incoherent_factor(element, q)
        )
        at_zero += share * 4 * abs(form_factor(element, np.zeros(1))[0]) ** 2
    return total / at_zero


def neglected_structure(q: np.ndarray) -> np.ndarray:
    """Relative error of the theory of a shell: structure beyond the pairs that it knows, which
    fades with |q| (in the crystal of a small protein 5 % at 0.35/A, 1 % at 0.7/A)."""
    return 0.01 + 0.05 * np.exp(-np.maximum(q - 0.3, 0.0) / 0.1)


def _linear_fit(total, sigma, expected, shape):
    """Least squares of total = expected/S + k shape: S, its error, k, its error, chi^2."""
    columns = [expected / sigma] + ([] if shape is None else [shape / sigma])
    design = np.stack(columns, axis=1)
    solution, *_ = np.linalg.lstsq(design, total / sigma, rcond=None)
    covariance = np.linalg.pinv(design.T @ design)
    chi2 = float(((design @ solution - total / sigma) ** 2).sum())
    scale = 1 / solution[0]
    error = np.sqrt(covariance[0, 0]) * scale**2
    if shape is None:
        return scale, error, 0.0, 0.0, chi2
    return scale, error, solution[1], np.sqrt(covariance[1, 1]), chi2


class _ProfileFit:
    """Fits of the profile over different ranges, backgrounds and variants of the theory."""

    def __init__(self, profile, theory, settings, inside):
        self.profile, self.theory, self.settings, self.inside = profile, theory, settings, inside
        self.sigma = np.sqrt(
            profile.variance + (neglected_structure(profile.q) * profile.total) ** 2
        )
        self.shapes = {
            kind: _background_shape(kind, profile.q)
            for kind in ("none", "constant", settings.background)
        }

    def __call__(self, total, low, high, variant, background):
        """Scale and so on, as `_linear_fit`"""
        edges = self.profile.edges
        chosen = self.inside & (edges[:-1] >= low - 1e-9) & (edges[1:] <= high + 1e-9)
        shape = self.shapes[background]
        return _linear_fit(
            total[chosen],
            self.sigma[chosen],
            self.theory.total(variant)[chosen],
            None if shape is None else shape[chosen],
        )

    def best(self, low, high, background, distant=0.0) -> Variant:
        """The variant whose b_relative fits the measured profile best."""
        from scipy.optimize import minimize_scalar

        if self.settings.b_relative is not None:
            return Variant(self.settings.b_relative, distant)
        if not self.theory.has_pairs:
            return Variant(0.0)
        found = minimize_scalar(
            lambda b: self(self.profile.total, low, high, Variant(b, distant), background)[4],
            bounds=(0.0, 60.0),
            method="bounded",
        )
        return Variant(float(found.x), distant)


def _fit(profile, theory, settings, inside) -> tuple[Estimate, Variant, list[Variant]]:
    """The fit, the theory that fits best, and others that might be right as well."""
    fitted = _ProfileFit(profile, theory, settings, inside)
    total, kind = profile.total, settings.background
    stop = float(profile.edges[1:][inside].max())
    low = settings.fit_from
    best = fitted.best(low, stop, kind)
    scale, linear_error, level, level_error, chi2 = fitted(total, low, stop, best, kind)
    scan, others, shares = [], [], []
    tail = total[inside][-max(3, inside.sum() // 10) :].mean()
    for start in np.linspace(low, max(min(low + 0.18, stop - 0.05), low + 0.02), 7):
        for end in (stop, 0.9 * stop):
            if end - start > 0.05 - 1e-9:
                variant = fitted.best(start, end, kind)
                value = fitted(total, start, end, variant, kind)[0]
                scan.append((float(start), float(end), float(value)))
                if start <= low + 0.1:
                    others.append(variant)
                    free = fitted.best(start, end, "constant")
                    shares.append(fitted(total, start, end, free, "constant")[2] / tail)
    near = [row for row in scan if row[0] <= low + 0.1]
    structure = []
    if theory.has_pairs and np.any(theory.uncertainty):
        for sign in (-1.0, 1.0):
            variant = fitted.best(low, stop, kind, sign)
            structure.append(fitted(total, low, stop, variant, kind)[0])
            others.append(variant)
    if settings.b_relative is not None:
        # given by hand: known to a few A^2 at best
        others.append(Variant(settings.b_relative + 3.0))
    free = fitted(total, low, stop, fitted.best(low, stop, "constant"), "constant")
    parts = {
        "fit": float(linear_error),
        "stills": _resampled(profile, lambda t: fitted(t, low, stop, best, kind)[0]),
        "range": _spread(near, scale),
        "pairs": _deviation(
            scale, structure + [fitted(total, low, stop, other, kind)[0] for other in others]
        )
        if theory.has_pairs
        else 0.08 * abs(scale),
    }
    n = int((inside & (profile.edges[:-1] >= low - 1e-9)).sum())
    share = float(free[2] / tail)
    details = {
        "b_relative": best.b_relative,
        "background": float(level),
        "background_error": float(level_error),
        "chi_squared": chi2 / max(n - 2, 1),
        "free_background_share": share,
        "free_background_share_error": float(np.hypot(free[3] / tail, _deviation(share, shares))),
    }
    estimate = Estimate("fit", float(scale), _combine(parts), (low, stop), scan, parts, details)
    return estimate, best, others
