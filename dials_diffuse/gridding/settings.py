"""The user's choices for the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cctbx.uctbx import unit_cell


@dataclass(frozen=True)
class SharedGridSettings:
    """The grid that all stills share; see phil/grid.py.

    Attributes:
        laue_group: symbol; None: that of the crystals
        friedel: merge h with -h
        reference_cell: None: median of the stills
        max_cell_deviation: leave out stills whose cell deviates more from the reference (relative);
            None: report outliers but leave none out
    """

    scope: ClassVar[str] = "grid.grid"

    laue_group: str | None
    friedel: bool
    reference_cell: unit_cell | None
    max_cell_deviation: float | None


@dataclass(frozen=True)
class AmbiguitySettings:
    """Search for the setting of each still; see phil/grid.py.

    Attributes:
        resolve: whether to search
        max_delta: tolerance of the lattice symmetry, degrees
        n_reference: number of stills that are compared with each other
        seed: of the random starts
    """

    scope: ClassVar[str] = "grid.ambiguity"

    resolve: bool
    max_delta: float
    n_reference: int
    seed: int


@dataclass(frozen=True)
class GridSettings:
    """All choices of dials.diffuse_grid; see phil/grid.py.

    Attributes:
        subdivide: n, a divisor of the extracted n; None: as extracted
        d_min, d_max: limits of the voxel centres, Angstrom; None: as extracted
        grid: see SharedGridSettings
        ambiguity: see AmbiguitySettings
    """

    scope: ClassVar[str] = "grid"

    subdivide: tuple[int, int, int] | None
    d_min: float | None
    d_max: float | None
    grid: SharedGridSettings
    ambiguity: AmbiguitySettings

    def check(self) -> None:
        """Raises ValueError if the limits exclude everything."""
        if self.d_min and self.d_max and self.d_min >= self.d_max:
            raise ValueError(f"d_min={self.d_min} must be smaller than d_max={self.d_max}")
