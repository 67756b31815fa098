"""Error model: sigma'^2 = a^2 (sigma^2 + (b g I exposure)^2), as in DIALS.

sigma^2 follows from counting statistics. a stands for errors in proportion to sigma, b for errors in
proportion to the intensity, such as factors that the model lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Significant digits of a and b: more than the data determine, and few enough not to depend on the
# order of summation, which changes with the distribution of stills over files
DIGITS = 8


@dataclass(frozen=True)
class ErrorModel:
    """Parameters of the error model; by default counting statistics alone."""

    a: float = 1.0
    b: float = 0.0


def fit_error_model(sizes: np.ndarray, min_observations: float = 30.0) -> ErrorModel:
    """Least squares of mean z^2 = a^2 (1 + b^2 t) over bins of t = (signal/sigma)^2.

    Args:
        sizes: (n, 3) sums of z^2, of 1 - leverage (the degrees of freedom) and of
            t (1 - leverage)
        min_observations: bins with fewer degrees of freedom are left out

    Returns:
        a and b; b = 0 if a term in proportion to the intensity is not significant
    """
    square, freedom, t = sizes[sizes[:, 1] >= min_observations].T
    if not len(square):
        return ErrorModel()
    observed, t = square / freedom, t / freedom
    prediction = np.ones_like(observed)
    intercept, slope = 1.0, 0.0
    for _ in range(5):
        # the variance of a mean of n squares is 2 (expectation)^2 / n
        weight = freedom / prediction**2
        mean_t, mean_o = np.average(t, weights=weight), np.average(observed, weights=weight)
        spread = np.average((t - mean_t) ** 2, weights=weight)
        slope = 0.0
        if spread > 0:
            slope = np.average((t - mean_t) * (observed - mean_o), weights=weight) / spread
            # not significant
            if slope < 2.0 * np.sqrt(2.0 / (np.sum(weight) * spread)):
                slope = 0.0
        intercept = mean_o - slope * mean_t
        if intercept <= 0.1:
            intercept = 0.1
            slope = max(np.sum(weight * t * (observed - intercept)) / np.sum(weight * t * t), 0.0)
        prediction = np.maximum(intercept + slope * t, 0.05)
    a, b = np.sqrt(intercept), np.sqrt(slope / intercept)
    return ErrorModel(float(f"{a:.{DIGITS}g}"), float(f"{b:.{DIGITS}g}"))
