"""The absolute scale from a fit of the profile of total scattering.

Least squares of I(q) = (sum f^2 + S_pairs exp(-B q^2/2) + S_inc)/S + k h(q), with the scale S, the B
of neighbours' relative motion, and, on request, a background k of the shape h.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from dials_diffuse.absolute.contents.form_factors import (
    AtomicTables,
    TableSettings,
    form_factor,
    incoherent_factor,
)
from dials_diffuse.absolute.estimate import Estimate, combined, deviation, scan_deviation
from dials_diffuse.absolute.profile import UsableProfile
from dials_diffuse.absolute.settings import TotalScatteringSettings
from dials_diffuse.absolute.theory import Theory, Variant, neglected_structure

# Only the shape of the scattering by air is needed, so that any tables do
_AIR_TABLES = AtomicTables(TableSettings("it1992", "none", 0, 0.0), 1.0)
# share of the volume and length of the bond (Angstrom) of nitrogen and oxygen
_AIR = (("N", 0.79, 1.098), ("O", 0.21, 1.208))

# Ranges that begin up to this much (1/Angstrom) beyond the fit's count for its error
_NEAR = 0.1


def background_shape(kind: str, q: np.ndarray) -> np.ndarray | None:
    """Shape of the background that the fit may subtract, (N,), 1 at q = 0.

    Args:
        kind: "none", "constant" or "air" (molecules of nitrogen and oxygen)
    """
    if kind == "none":
        return None
    if kind == "constant":
        return np.ones(q.shape)
    total = np.zeros(q.shape)
    at_zero = 0.0
    for element, share, length in _AIR:
        f2 = np.abs(form_factor(element, q, _AIR_TABLES)) ** 2
        incoherent = incoherent_factor(element, q, _AIR_TABLES)
        total += share * (2 * f2 * (1 + np.sinc(2 * q * length)) + 2 * incoherent)
        at_zero += share * 4 * abs(form_factor(element, np.zeros(1), _AIR_TABLES)[0]) ** 2
    return total / at_zero


class LinearFit(NamedTuple):
    """Scale and level of the background, with their errors, and chi^2."""

    scale: float
    scale_error: float
    level: float
    level_error: float
    chi_squared: float


def linear_fit(total, sigma, expected, shape) -> LinearFit:
    """Least squares of total = expected/S + k shape.

    Args:
        total, sigma: (N,) measured, and its standard errors
        expected: (N,)
        shape: (N,), None for no background
    """
    columns = [expected / sigma] + ([] if shape is None else [shape / sigma])
    design = np.stack(columns, axis=1)
    solution, *_ = np.linalg.lstsq(design, total / sigma, rcond=None)
    covariance = np.linalg.pinv(design.T @ design)
    chi2 = float(((design @ solution - total / sigma) ** 2).sum())
    scale = 1 / solution[0]
    error = np.sqrt(covariance[0, 0]) * scale**2
    if shape is None:
        return LinearFit(scale, error, 0.0, 0.0, chi2)
    return LinearFit(scale, error, solution[1], np.sqrt(covariance[1, 1]), chi2)


class ProfileFitter:
    """Fits of the profile over different ranges, backgrounds and variants of the theory.

    Args:
        b_relative: of pairs, Angstrom^2, None to refine it
        background: the kind that may be fitted besides "none" and "constant"
    """

    def __init__(
        self, usable: UsableProfile, theory: Theory, b_relative: float | None, background: str
    ):
        self.usable, self.theory, self.b_relative = usable, theory, b_relative
        profile = usable.profile
        self.total = profile.total
        self.sigma = np.sqrt(
            profile.variance + (neglected_structure(profile.q) * profile.total) ** 2
        )
        self.shapes = {
            kind: background_shape(kind, profile.q) for kind in ("none", "constant", background)
        }

    def fit(self, total, low: float, high: float, variant: Variant, background: str) -> LinearFit:
        """Fit scale and background to a profile (N,) between two |q|."""
        chosen = self.usable.shells(low, high)
        shape = self.shapes[background]
        return linear_fit(
            total[chosen],
            self.sigma[chosen],
            self.theory.total(variant)[chosen],
            None if shape is None else shape[chosen],
        )

    def best(self, low: float, high: float, background: str, distant: float = 0.0) -> Variant:
        """The variant whose b_relative fits the measured profile best."""
        if self.b_relative is not None:
            return Variant(self.b_relative, distant)
        if not self.theory.has_pairs:
            return Variant(0.0)
        minimum = minimize_scalar(
            lambda b: self.fit(self.total, low, high, Variant(b, distant), background).chi_squared,
            bounds=(0.0, 60.0),
            method="bounded",
        )
        return Variant(float(minimum.x), distant)

    def best_fit(self, low: float, high: float, background: str, distant: float = 0.0) -> LinearFit:
        """The fit with its best variant."""
        variant = self.best(low, high, background, distant)
        return self.fit(self.total, low, high, variant, background)


def fit_profile(
    usable: UsableProfile, theory: Theory, settings: TotalScatteringSettings
) -> tuple[Estimate, Variant, list[Variant]]:
    """Fit the profile from settings.fit_from to its end.

    Returns:
        the estimate, the variant of the theory that fits best, and others that may be right as well
    """
    fitter = ProfileFitter(usable, theory, settings.b_relative, settings.background)
    profile, kind = usable.profile, settings.background
    low, stop = settings.fit_from, usable.stop
    inside = usable.inside
    tail = profile.total[inside][-max(3, inside.sum() // 10) :].mean()
    best = fitter.best(low, stop, kind)
    fit = fitter.fit(profile.total, low, stop, best, kind)
    free = fitter.best_fit(low, stop, "constant")
    share = float(free.level / tail)

    scan, others, shares = [], [], []
    for start, end in _other_ranges(low, stop):
        variant = fitter.best(start, end, kind)
        scale = fitter.fit(profile.total, start, end, variant, kind).scale
        scan.append((start, end, float(scale)))
        if start <= low + _NEAR:
            others.append(variant)
            shares.append(fitter.best_fit(start, end, "constant").level / tail)
    near = [row for row in scan if row[0] <= low + _NEAR]
    structure = []
    if theory.has_pairs and np.any(theory.uncertainty):
        for sign in (-1.0, 1.0):
            variant = fitter.best(low, stop, kind, sign)
            structure.append(fitter.fit(profile.total, low, stop, variant, kind).scale)
            others.append(variant)
    if settings.b_relative is not None:
        # given by hand: known to a few A^2 at best
        others.append(Variant(settings.b_relative + 3.0))
    varied = structure + [
        fitter.fit(profile.total, low, stop, other, kind).scale for other in others
    ]
    parts = {
        "fit": float(fit.scale_error),
        "stills": profile.jackknife(lambda total: fitter.fit(total, low, stop, best, kind).scale),
        "range": scan_deviation(near, fit.scale),
        "pairs": deviation(fit.scale, varied) if theory.has_pairs else 0.08 * abs(fit.scale),
    }
    number = int(usable.shells(low, np.inf).sum())
    details = {
        "b_relative": best.b_relative,
        "background": float(fit.level),
        "background_error": float(fit.level_error),
        "chi_squared": fit.chi_squared / max(number - 2, 1),
        "free_background_share": share,
        "free_background_share_error": float(
            np.hypot(free.level_error / tail, deviation(share, shares))
        ),
    }
    scale = float(fit.scale)
    return Estimate("fit", scale, combined(parts), (low, stop), scan, parts, details), best, others


def _other_ranges(low: float, stop: float) -> list[tuple[float, float]]:
    """Ranges of |q| for the scan, at least 0.05/A wide."""
    starts = np.linspace(low, max(min(low + 0.18, stop - 0.05), low + 0.02), 7)
    ranges = [(float(start), end) for start in starts for end in (stop, 0.9 * stop)]
    return [(start, end) for start, end in ranges if end - start > 0.05 - 1e-9]
