"""The absolute scale from total scattering.

The profile I(q) of all pixels, Bragg peaks included, times the scale S is the expected profile of
theory.py: S I = sum f^2 + S_pairs + S_inc. Three estimates of S are made:

- high q (Norman, Acta Cryst. 10 (1957) 370): the mean ratio where interference has died out;
- Krogh-Moe (Acta Cryst. 9 (1956) 951), from 0 to a cut-off:
  V int S I d3q = V int (sum f^2 + S_pairs + S_inc) d3q - Z^2.
  Z^2/V is the peak at q = 0, which cannot be measured;
- a fit of the profile above the q where longer distances interfere (profile_fit.py).

The dependence of an estimate on the range of q is a part of its error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import trapezoid

from dials_diffuse.absolute.contents.form_factors import AtomicTables
from dials_diffuse.absolute.contents.inventory import UnitCellInventory
from dials_diffuse.absolute.estimate import Estimate, combined, deviation, scan_deviation
from dials_diffuse.absolute.profile import RadialProfile, UsableProfile
from dials_diffuse.absolute.profile_fit import fit_profile
from dials_diffuse.absolute.settings import TotalScatteringSettings
from dials_diffuse.absolute.theory import Theory, Variant

# With known neighbours Krogh-Moe's scale is good to this fraction. A larger difference is a wrong
# background at low |q|
_KROGH_MOE_LIMIT = 0.025

# The least range of |q| of the high-q estimate, and of the fit, 1/Angstrom
_HIGH_Q_RANGE, _FIT_RANGE = 0.04, 0.08


@dataclass
class TotalScattering:
    """The scale from total scattering, and what it rests on.

    Attributes:
        used: the estimate that is applied
        estimates: all that could be made
        theory: on profile.q: "sum_f_squared", "pairs" (damped), "incoherent", "total"
        b_relative: of the pair term, Angstrom^2
        warnings: one line each
    """

    used: Estimate
    estimates: list[Estimate]
    theory: dict[str, np.ndarray]
    b_relative: float
    warnings: list[str]


def find_scale(
    profile: RadialProfile,
    inventory: UnitCellInventory,
    tables: AtomicTables,
    settings: TotalScatteringSettings,
) -> TotalScattering:
    """The absolute scale of a profile.

    Raises:
        ValueError: the profile does not reach far enough for any estimate, or is not positive.
    """
    usable = _usable_profile(profile, settings)
    theory = Theory(inventory, profile.q, tables, settings.pairs == "auto")
    fit, best, others = fit_profile(usable, theory, settings)
    cap = Theory(inventory, np.linspace(0.0, usable.start, 60), tables, settings.pairs == "auto")
    estimates = [_krogh_moe(usable, theory, cap, inventory, best, others), fit]
    warnings: list[str] = []
    if usable.stop >= settings.high_q + _HIGH_Q_RANGE:
        estimates.insert(0, _high_q(usable, theory, settings.high_q, best, others))
    else:
        warnings.append(
            f"The data end at |q| = {usable.stop:.2f}/A: no high-q estimate, which begins at {settings.high_q:.2f}/A"
        )
    used = _choose(estimates, settings, usable.stop)
    # the composition is common to all estimates: they are compared without its error
    warnings += _disagreements(estimates, used, theory.has_pairs)
    warnings += _signs_of_background(estimates, fit)
    warnings += _limits_of_theory(theory, settings, usable.stop)
    relative = inventory.uncertainty(tables)
    if relative > 0:
        for estimate in estimates:
            estimate.parts["composition"] = relative * abs(estimate.scale)
            estimate.error = combined(estimate.parts)
    expected = {
        "sum_f_squared": theory.coherent,
        "pairs": theory.damped_pairs(best),
        "incoherent": theory.incoherent,
        "total": theory.total(best),
    }
    return TotalScattering(used, estimates, expected, best.b_relative, warnings)


def _usable_profile(profile: RadialProfile, settings: TotalScatteringSettings) -> UsableProfile:
    """The shells between q_min and q_max.

    Raises:
        ValueError: too short a range, or the profile is not positive.
    """
    usable = UsableProfile.between(profile, settings.q_min, settings.q_max)
    reach = usable.stop
    least = settings.fit_from + _FIT_RANGE
    if reach < least:
        raise ValueError(
            f"The data reach |q| = {reach:.3f}/A (d = {1 / max(reach, 1e-3):.2f} A): too short a range for an absolute scale "
            f"from total scattering, which needs {least:.2f}/A at the least. Extend d_min of dials.diffuse_extract if "
            "the detector does, use method=wilson, or give scale="
        )
    bad = profile.q[usable.inside & ~(profile.total > 0)]
    if len(bad):
        raise ValueError(
            f"Total scattering is not positive at |q| = {bad[0]:.3f}/A: more background is subtracted than is there"
        )
    return usable


def _choose(estimates: list[Estimate], settings: TotalScatteringSettings, reach: float) -> Estimate:
    """The estimate that is applied."""
    by_name = {estimate.name: estimate for estimate in estimates}
    chosen = settings.estimate
    if chosen == "auto":
        chosen = "high_q" if "high_q" in by_name else "fit"
    if chosen not in by_name:
        raise ValueError(
            f"The data end at |q| = {reach:.2f}/A: estimate=high_q needs {settings.high_q + _HIGH_Q_RANGE:.2f}/A "
            "(estimate=fit uses what there is)"
        )
    return by_name[chosen]


def _disagreements(estimates: list[Estimate], used: Estimate, has_pairs: bool) -> list[str]:
    warnings = []
    for other in estimates:
        difference = abs(other.scale - used.scale)
        beyond = has_pairs and difference > _KROGH_MOE_LIMIT * used.scale
        if other.disagrees_with(used) or beyond:
            warnings.append(
                f"{other.name} gives {other.scale:.5g} and {used.name} {used.scale:.5g}: they disagree by "
                f"{100 * difference / used.scale:.1f} %. The cause may be background that was not subtracted or was "
                "subtracted twice (at low |q|, if Krogh-Moe differs), or a wrong composition"
            )
    return warnings


def _signs_of_background(estimates: list[Estimate], fit: Estimate) -> list[str]:
    warnings = []
    for details in (estimate.details for estimate in estimates):
        drift = details.get("drift", 0.0)
        if abs(drift) > 0.03 and abs(drift) > 3 * details["drift_error"]:
            warnings.append(
                f"The ratio of data to theory changes by {100 * drift:+.0f} % over the high-q range: too little "
                "background or air scattering is subtracted, or too much"
            )
    share = fit.details["free_background_share"]
    if share > 0.05 and share > 2.5 * fit.details["free_background_share_error"]:
        warnings.append(
            f"The profile fits better with a constant background of {100 * share:.0f} % of the high-q intensity: "
            "give background= to dials.diffuse_extract, or total_scattering.background=constant"
        )
    return warnings


def _limits_of_theory(theory: Theory, settings: TotalScatteringSettings, reach: float) -> list[str]:
    warnings = []
    if not theory.has_pairs and settings.pairs == "auto":
        warnings.append(
            "A formula does not say which atoms are neighbours: the interference of bonded pairs, 5 to 15 % of the profile "
            "below 1/A, is left out (give composition.model or composition.sequence)"
        )
    if reach < 0.5:
        warnings.append(
            f"The data end at |q| = {reach:.2f}/A, where longer distances than those of the known pairs interfere"
        )
    return warnings


def _high_q(
    usable: UsableProfile, theory: Theory, begin: float, best: Variant, others: list[Variant]
) -> Estimate:
    """Norman's estimate: the mean of theory over data beyond a |q|."""
    profile, stop = usable.profile, usable.stop

    def scale_of(total, low, high, expected):
        chosen = usable.shells(low, high)
        weight = profile.coverage[chosen]
        return float((weight * expected[chosen]).sum() / (weight * total[chosen]).sum())

    expected = theory.total(best)
    scale = scale_of(profile.total, begin, stop, expected)
    ranges = [(low, stop) for low in np.arange(begin, stop - 0.03, 0.02)]
    ranges += [(begin, high) for high in np.arange(begin + 0.04, stop - 0.01, 0.02)]
    scan = [
        (float(low), float(high), scale_of(profile.total, low, high, expected))
        for low, high in ranges
    ]
    varied = [scale_of(profile.total, begin, stop, theory.total(other)) for other in others]
    parts = {
        "stills": profile.jackknife(lambda total: scale_of(total, begin, stop, expected)),
        "range": scan_deviation(scan, scale),
        "pairs": deviation(scale, varied),
    }
    drift, drift_error = _drift(usable, begin, expected, scale)
    details = {
        "drift": drift,
        "drift_error": drift_error,
        "without_pairs": scale_of(profile.total, begin, stop, theory.without_pairs()),
    }
    return Estimate("high_q", scale, combined(parts), (begin, stop), scan, parts, details)


def _drift(
    usable: UsableProfile, begin: float, expected: np.ndarray, scale: float
) -> tuple[float, float]:
    """Change of the ratio of data to theory from begin to the end, by a straight line, and its error."""
    profile, chosen = usable.profile, usable.shells(begin, np.inf)
    ratio = profile.total[chosen] * scale / expected[chosen]
    error = np.sqrt(profile.variance[chosen]) * scale / expected[chosen]
    weights = 1 / np.maximum(error, 1e-3) ** 2
    centred = profile.q[chosen] - np.average(profile.q[chosen], weights=weights)
    slope = (weights * centred * ratio).sum() / (weights * centred**2).sum()
    width = usable.stop - begin
    return float(slope * width), float(width / np.sqrt((weights * centred**2).sum()))


def _krogh_moe(
    usable: UsableProfile,
    theory: Theory,
    cap: Theory,
    inventory: UnitCellInventory,
    best: Variant,
    others: list[Variant],
) -> Estimate:
    """Krogh-Moe's estimate.

    Args:
        cap: theory below the first shell, where nothing is measured
    """
    profile, start, stop = usable.profile, usable.start, usable.stop
    volume, z = inventory.volume, inventory.electrons
    shells = 4 * np.pi / 3 * np.diff(profile.edges**3)
    cap_volume = 4 * np.pi / 3 * start**3

    def theory_integral(expected, cap_expected):
        below = trapezoid(4 * np.pi * cap.q**2 * cap_expected, cap.q)
        return below + np.cumsum(np.where(usable.inside, shells * expected, 0.0))

    def scale_of(total, stop, expected, cap_expected, fill=1.0):
        last = np.flatnonzero(usable.shells(0.0, stop))[-1]
        measured = np.where(usable.inside, shells * total, 0.0)[: last + 1].sum()
        filled = fill * cap_volume * total[usable.inside][0]
        scattered = volume * theory_integral(expected, cap_expected)[last] - z**2
        return float(scattered / (volume * (measured + filled)))

    expected, cap_expected = theory.total(best), cap.total(best)
    scale = scale_of(profile.total, stop, expected, cap_expected)
    scan = [
        (start, float(high), scale_of(profile.total, high, expected, cap_expected))
        for high in np.arange(min(max(0.6 * stop, 0.4), 0.8 * stop), stop - 0.005, 0.02)
    ]
    no_fill = scale_of(profile.total, stop, expected, cap_expected, fill=0.0)
    varied = [
        scale_of(profile.total, stop, theory.total(other), cap.total(other)) for other in others
    ]
    parts = {
        "stills": profile.jackknife(lambda total: scale_of(total, stop, expected, cap_expected)),
        "range": scan_deviation(scan, scale),
        "cap": abs(scale - no_fill),
        "pairs": deviation(scale, varied) if theory.has_pairs else abs(scale) * 0.1,
    }
    details = {
        "without_pairs": scale_of(profile.total, stop, theory.without_pairs(), cap.without_pairs()),
        "cap_share": abs(no_fill / scale - 1),
        "z_squared_share": z**2 / (volume * float(theory_integral(expected, cap_expected)[-1])),
    }
    return Estimate("krogh_moe", scale, combined(parts), (start, stop), scan, parts, details)
