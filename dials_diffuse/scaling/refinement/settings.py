"""What a fit is to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dials_diffuse.model.components import n_parameters_of
from dials_diffuse.scaling.refinement.bragg import BraggSettings
from dials_diffuse.scaling.refinement.order import SeriesSettings
from dials_diffuse.scaling.refinement.restraints import RestraintSettings

# Between parameters of c(|q|), 1/Angstrom: half the width of the ring of water at 3 Angstrom. On the
# thaumatin stills of dials_data b and c stay the same from 0.07 down; with 0.12, b follows the Bragg
# intensities of the stills less well (correlation 0.84 instead of 0.96).
OFFSET_SPACING = 0.05


@dataclass(frozen=True)
class ModelSettings:
    """Components of the model; see phil/scale.py.

    Attributes:
        scale, offset, panel, sensitivity: refine them or not; None for the last three: if
            it lowers the chi^2 of the free set
        offset_parameters: of c over |q|; None: one each OFFSET_SPACING
        sensitivity_parameters: of a along x and along y
    """

    scale: bool = True
    offset: bool | None = None
    panel: bool | None = None
    sensitivity: bool | None = None
    offset_parameters: int | None = None
    sensitivity_parameters: int = 13

    def offset_parameters_to(self, q_max: float) -> int:
        """Parameters of c between 0 and q_max (1/Angstrom)"""
        if self.offset_parameters is not None:
            return self.offset_parameters
        return n_parameters_of(max(3, math.ceil(q_max / OFFSET_SPACING)))


@dataclass(frozen=True)
class FitSettings:
    """What the fit is to do; see phil/scale.py for the meaning of each value.

    Attributes:
        n_threads: that share the work; the result does not depend on it
    """

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
    patch_cutoff: float | None = 0.05
    prior_strength: float = 2.0
    readout_noise: float = 0.0
    seed: int = 42
    n_threads: int = 1
