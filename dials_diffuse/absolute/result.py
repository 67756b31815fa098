"""The result of dials.diffuse_absolute."""

from __future__ import annotations

from dataclasses import dataclass

from dials.array_family import flex

from dials_diffuse.absolute.apply import AbsoluteScale
from dials_diffuse.absolute.contents.inventory import UnitCellInventory
from dials_diffuse.absolute.data import ScaledData
from dials_diffuse.absolute.estimate import Estimate
from dials_diffuse.absolute.integrated import Comparison
from dials_diffuse.absolute.total_scattering import TotalScattering
from dials_diffuse.absolute.wilson import WilsonPlot


@dataclass
class AbsoluteResult:
    """The absolute scale of a data set, and its map.

    Attributes:
        data: grid, experiments, profile
        inventory: of the unit cell
        absolute: the scale that is applied, with the incoherent scattering
        total: the estimates from total scattering, None where they could not be made
        wilson, wilson_plot: the estimate from Bragg intensities, likewise
        integrated: integrated reflections compared with those of the grid, None where not given
        integrated_wilson: Wilson's estimate from them
        table: the absolute map
        warnings: one line each
    """

    data: ScaledData
    inventory: UnitCellInventory
    absolute: AbsoluteScale
    total: TotalScattering | None
    wilson: Estimate | None
    wilson_plot: WilsonPlot | None
    integrated: Comparison | None
    integrated_wilson: Estimate | None
    table: flex.reflection_table
    warnings: list[str]

    @property
    def estimates(self) -> list[Estimate]:
        """All estimates that could be made"""
        from_total = [] if self.total is None else self.total.estimates
        return [*from_total, *([] if self.wilson is None else [self.wilson])]
