"""Settings of the absolute scale by total scattering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class TotalScatteringSettings:
    """The scope total_scattering of phil/absolute.py, which describes the fields."""

    scope: ClassVar[str] = "absolute.total_scattering"
    estimate: str
    q_min: float | None
    q_max: float | None
    high_q: float
    fit_from: float
    pairs: str
    b_relative: float | None
    background: str
