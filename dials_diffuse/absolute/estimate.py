"""An estimate of the absolute scale, and the statistics of its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Estimate:
    """An estimate of the absolute scale.

    Attributes:
        name: "high_q" (Norman), "krogh_moe", "fit" (of the whole profile to theory) or "wilson"
        scale: electrons^2 per unit cell for one unit of the scaled data
        error: standard error of scale, its dependence on the range included
        q_range: (low, high) of |q| = 1/d that was used, 1/Angstrom
        scan: rows (q_low, q_high, scale) for other ranges
        parts: contributions to the error: name -> standard error
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
        """error over scale"""
        return self.error / abs(self.scale)

    def disagrees_with(self, other: Estimate) -> bool:
        """True if the scales differ by more than twice their errors."""
        return bool(abs(self.scale - other.scale) > 2 * np.hypot(self.error, other.error))


def deviation(value: float, others: Sequence[float]) -> float:
    """Root mean square deviation of others from value, 0 without others."""
    return float(np.sqrt(np.mean((np.array(others) - value) ** 2))) if len(others) else 0.0


def scan_deviation(scan: Sequence[tuple[float, float, float]], scale: float) -> float:
    """Root mean square deviation of the scales of a scan from the chosen one."""
    return deviation(scale, [row[2] for row in scan])


def combined(parts: dict[str, float]) -> float:
    """Standard error of independent parts: the root of the sum of their squares."""
    return float(np.sqrt(sum(value**2 for value in parts.values())))
