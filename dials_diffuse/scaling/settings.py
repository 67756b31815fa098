"""What a fit is to do."""

from __future__ import annotations

from dataclasses import dataclass

from dials_diffuse.scaling.bragg import BraggSettings
from dials_diffuse.scaling.order import SeriesSettings
from dials_diffuse.scaling.restraints import RestraintSettings


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
