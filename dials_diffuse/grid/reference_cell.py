"""The reference cell, which sets the metric of the grid: a robust mean of the cells of all stills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import sgtbx, uctbx

# The median absolute deviation of a normal distribution is 0.6745 sigma
_MAD_TO_SIGMA = 1.4826
# An outlier deviates by more than this many robust standard deviations ...
_OUTLIER_SIGMA = 6.0
# ... and by more than this (relative; radian for angles), so that nearly identical cells have no outliers
_OUTLIER_LEAST = 0.003


@dataclass(frozen=True)
class ReferenceCell:
    """The reference cell and how far the stills' cells are from it.

    Attributes:
        unit_cell: median of each parameter, made to obey the lattice symmetry
        deviation: (N,) largest deviation of a still's cell: relative for lengths, radian for angles
        spread: (6,) robust standard deviations, Angstrom and degrees
        outlier: (N,) bool
    """

    unit_cell: uctbx.unit_cell
    deviation: np.ndarray
    spread: np.ndarray
    outlier: np.ndarray


def common_space_group(crystals: Sequence) -> sgtbx.space_group:
    """The space group that all crystals have.

    Raises:
        ValueError: they differ.
    """
    first = crystals[0].get_space_group()
    for number, crystal in enumerate(crystals):
        if crystal.get_space_group() != first:
            raise ValueError(
                f"The crystals have different space groups: {first.info()} and "
                f"{crystal.get_space_group().info()} (experiment {number}): reindex them into one "
                "(dials.reindex), or reduce them apart"
            )
    return first


def reference_cell(
    cells: Sequence[uctbx.unit_cell],
    space_group: sgtbx.space_group,
    given: uctbx.unit_cell | None = None,
    max_deviation: float | None = None,
) -> ReferenceCell:
    """Median cell, constrained to the lattice symmetry, and the outliers.

    Args:
        cells: of the stills
        space_group: of the stills, in their setting
        given: a cell to use instead of the median; deviations from the symmetry of less than 1 %
            are averaged out
        max_deviation: cells that deviate by more (relative, or radian) are outliers; None: cells that
            deviate by more than 6 robust standard deviations and by more than 0.3 %

    Raises:
        ValueError: the given cell is against the symmetry.
    """
    parameters = np.array([cell.parameters() for cell in cells])
    median = np.median(parameters, axis=0)
    spread = _MAD_TO_SIGMA * np.median(np.abs(parameters - median), axis=0)
    if given is not None:
        if not space_group.is_compatible_unit_cell(given):
            raise ValueError(
                f"The reference cell {given!s} is against the symmetry of space group {space_group.info()}"
            )
        unit_cell = space_group.average_unit_cell(given)
    else:
        unit_cell = space_group.average_unit_cell(uctbx.unit_cell(tuple(median)))
    centre = np.array(unit_cell.parameters())
    unit = np.concatenate([centre[:3], np.full(3, np.degrees(1.0))])
    deviation = np.abs(parameters - centre) / unit
    if max_deviation is None:
        limit = np.maximum(_OUTLIER_SIGMA * spread / unit, _OUTLIER_LEAST)
    else:
        limit = np.full(6, max_deviation)
    return ReferenceCell(unit_cell, deviation.max(axis=1), spread, (deviation > limit).any(axis=1))
