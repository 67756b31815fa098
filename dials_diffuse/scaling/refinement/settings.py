"""Settings of dials.diffuse_scale, a class for each scope of its parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dials_diffuse.model.components import n_parameters_of

# Between parameters of c(|q|), 1/Angstrom: half the width of the ring of water at 3 Angstrom. On the
# thaumatin stills of dials_data b and c stay the same from 0.07 down; with 0.12, b follows the Bragg
# intensities of the stills less well (correlation 0.84 instead of 0.96).
OFFSET_SPACING = 0.05


@dataclass(frozen=True)
class ModelSettings:
    """Components to refine; None: if the component lowers the chi^2 of the free set."""

    scope: ClassVar[str] = "scale.model"
    scale: bool
    offset: bool | None
    panel: bool | None
    sensitivity: bool | None
    offset_parameters: int | None
    sensitivity_parameters: int

    def offset_parameters_to(self, q_max: float) -> int:
        """Number of parameters of c(|q|) between 0 and q_max (1/Angstrom)."""
        if self.offset_parameters is not None:
            return self.offset_parameters
        # bins end a little beyond d_min
        return n_parameters_of(max(3, math.ceil(q_max / OFFSET_SPACING - 1e-3)))


@dataclass(frozen=True)
class SeriesSettings:
    """Components that are smooth functions of p_order; intervals None: they are not."""

    scope: ClassVar[str] = "scale.series"
    intervals: int | None
    offset_intervals: int | None
    sensitivity_intervals: int | None
    order: str
    p_order: tuple[float, ...] | None
    p_order_file: str | None

    def all_intervals(self) -> dict[str, int]:
        """Intervals along p_order by parameter name, of the components that are functions of it."""
        names = ("intervals", "offset_intervals", "sensitivity_intervals")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class StillSettings:
    """Stills to exclude."""

    scope: ClassVar[str] = "scale.stills"
    exclude: tuple[str, ...] | None
    exclude_misoriented: bool
    min_cc: float | None
    min_b_over_sigma: float | None


@dataclass(frozen=True)
class BraggSettings:
    """Bragg reflections as a second reference for b."""

    scope: ClassVar[str] = "scale.bragg"
    reflections: tuple[str | None, ...]
    weight: float
    min_partiality: float
    partiality_error: float


@dataclass(frozen=True)
class RestraintSettings:
    """Standard deviations of the restraints."""

    scope: ClassVar[str] = "scale.restraints"
    scale: float | None
    offset: float | None
    offset_smoothness: float
    panel: float
    sensitivity: float
    sensitivity_smoothness: float
    sensitivity_rings: float


@dataclass(frozen=True)
class FitSettings:
    """Cycles, minimiser and observations of the fit."""

    scope: ClassVar[str] = "scale.fit"
    engine: str
    n_cycles: int
    max_iterations: int | None
    free_percentage: float
    min_observations_per_parameter: float
    max_observations: int


@dataclass(frozen=True)
class WeightingSettings:
    """Expected variances."""

    scope: ClassVar[str] = "scale.weighting"
    prior_strength: float
    readout_noise: float


@dataclass(frozen=True)
class ErrorModelSettings:
    """Error model."""

    scope: ClassVar[str] = "scale.error_model"
    refine: bool


@dataclass(frozen=True)
class OutlierSettings:
    """Rejection of outliers; None: no rejection."""

    scope: ClassVar[str] = "scale.outliers"
    cutoff: float | None
    patch_cutoff: float | None


@dataclass(frozen=True)
class MemorySettings:
    """Use of memory."""

    scope: ClassVar[str] = "scale.memory"
    keep_observations: int


@dataclass(frozen=True)
class ScaleSettings:
    """All settings of the algorithm; see the parameters of dials.diffuse_scale."""

    scope: ClassVar[str] = "scale"
    model: ModelSettings
    series: SeriesSettings
    stills: StillSettings
    bragg: BraggSettings
    restraints: RestraintSettings
    fit: FitSettings
    weighting: WeightingSettings
    error_model: ErrorModelSettings
    outliers: OutlierSettings
    memory: MemorySettings
    seed: int
