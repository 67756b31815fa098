"""One lattice in several settings: find the one that most crystals have, and the change of basis of the others.

Indexing may choose other base vectors for the same lattice: c + a for c, I2 for C2, rhombohedral for hexagonal
axes. The cells of such a mixture look like a few clusters, for which a median and its spread mean nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cctbx import crystal, sgtbx, uctbx

from dials_diffuse.grid.symmetry import group_from_hall, symbol_of

# Cells are of one cluster if no length (relative) and no angle (radian) differs by more
SAME = 0.02
# Cells that differ by more than this in every setting are of other crystals
SIMILAR = 0.1
# A change of basis must bring a cell so many times closer to the reference
CLOSER = 2.0
# If more crystals than this part have the same symmetry and another cell, they are no outliers
FEW = 0.1
_MOST_CLUSTERS = 50


def cell_vector(cell: uctbx.unit_cell) -> np.ndarray:
    """(6,) logarithms of the lengths and the angles in radian: differences are relative or in radian."""
    parameters = np.array(cell.parameters())
    return np.concatenate([np.log(parameters[:3]), np.radians(parameters[3:])])


def _distance(cell: uctbx.unit_cell, other: uctbx.unit_cell) -> float:
    return float(np.abs(cell_vector(cell) - cell_vector(other)).max())


@dataclass(frozen=True)
class LatticeSetting:
    """The setting that all stills are brought to.

    Attributes:
        space_group: in this setting
        unit_cell: median of the crystals that have it
    """

    space_group: sgtbx.space_group
    unit_cell: uctbx.unit_cell

    @classmethod
    def most_frequent(cls, crystals: Sequence) -> LatticeSetting:
        """The setting of the largest cluster of crystals with one space group and similar cells.

        Args:
            crystals: dxtbx models, at least one
        """
        groups: list[sgtbx.space_group] = []
        kinds = []
        for model in crystals:
            group = model.get_space_group()
            if group not in groups:
                groups.append(group)
            kinds.append(groups.index(group))
        kind = np.array(kinds)
        vectors = np.array([cell_vector(model.get_unit_cell()) for model in crystals])
        left, best = np.ones(len(kind), dtype=bool), np.zeros(len(kind), dtype=bool)
        for _ in range(_MOST_CLUSTERS):
            if left.sum() <= best.sum():
                break
            leader = int(np.argmax(left))
            members = _near(vectors, kind, vectors[leader], kind[leader])
            # Once more around the middle: the first of a cluster may lie at its rim
            members = _near(vectors, kind, np.median(vectors[members], axis=0), kind[leader])
            left &= ~members
            left[leader] = False
            if members.sum() > best.sum():
                best = members
        if not best.any():
            best[0] = True
        middle = np.median(vectors[best], axis=0)
        parameters = (*np.exp(middle[:3]), *np.degrees(middle[3:]))
        group = groups[kind[np.argmax(best)]]
        cell = group.average_unit_cell(uctbx.unit_cell(tuple(map(float, parameters))))
        return cls(group, cell)

    def operator_for(self, model) -> sgtbx.change_of_basis_op | None:
        """The change of basis that brings a crystal to this setting; None: it stays as it is.

        Args:
            model: dxtbx crystal

        Raises:
            ValueError: it has another space group in every setting.
        """
        cell, group = model.get_unit_cell(), model.get_space_group()
        same_group = group == self.space_group
        distance = _distance(cell, self.unit_cell)
        if same_group and distance < SAME:
            return None
        found = _closest(
            cell.parameters(),
            symbol_of(group),
            self.unit_cell.parameters(),
            symbol_of(self.space_group),
        )
        if found is not None and (not same_group or CLOSER * found[0] < distance):
            return sgtbx.change_of_basis_op(found[1])
        if not same_group:
            raise ValueError(
                f"The crystals have different space groups: {self.space_group.info()} and {group.info()}, "
                "and no change of basis brings them together: reindex them into one (dials.reindex), or reduce "
                "them apart"
            )
        return None

    def cell_of(self, model) -> uctbx.unit_cell:
        """The cell that a crystal has in this setting; raises ValueError as operator_for."""
        operator, cell = self.operator_for(model), model.get_unit_cell()
        return cell if operator is None else cell.change_basis(operator)

    def is_far(self, cell: uctbx.unit_cell) -> bool:
        """Whether a cell in this setting is that of another crystal."""
        return _distance(cell, self.unit_cell) > SIMILAR


def check_settings(crystals: Sequence, setting: LatticeSetting | None = None) -> list[int]:
    """Find the crystals that have another setting.

    Args:
        crystals: dxtbx models
        setting: that they shall have; None: the most frequent one

    Returns:
        numbers of those that a change of basis brings to it

    Raises:
        ValueError: different space groups that no change of basis brings together.
    """
    setting = setting or LatticeSetting.most_frequent(crystals)
    return [i for i, model in enumerate(crystals) if setting.operator_for(model) is not None]


def brings_together(setting: LatticeSetting, crystals: Sequence) -> bool:
    """Whether all crystals have a setting, or can be brought to it."""
    try:
        check_settings(crystals, setting)
    except ValueError:
        return False
    return True


def _near(vectors: np.ndarray, kind: np.ndarray, middle: np.ndarray, of_kind: int) -> np.ndarray:
    return (kind == of_kind) & (np.abs(vectors - middle).max(axis=1) < SAME)


@functools.lru_cache(maxsize=10_000)
def _closest(
    cell: tuple, symbol: str, reference: tuple, reference_symbol: str
) -> tuple[float, str] | None:
    """Distance from the reference and change of basis (xyz) of the closest setting with the reference's
    space group, None without one within SIMILAR."""
    group, reference_group = group_from_hall(symbol), group_from_hall(reference_symbol)
    own = crystal.symmetry(cell, space_group=group, assert_is_compatible_unit_cell=False)
    other = crystal.symmetry(
        reference, space_group=reference_group, assert_is_compatible_unit_cell=False
    )
    to_own = own.change_of_basis_op_to_niggli_cell()
    to_other = other.change_of_basis_op_to_niggli_cell()
    reduced = own.unit_cell().change_basis(to_own)
    target = other.unit_cell().change_basis(to_other)
    best = None
    matrices = target.similarity_transformations(
        reduced,
        relative_length_tolerance=SIMILAR,
        absolute_angle_tolerance=float(np.degrees(SIMILAR)),
    )
    for matrix in matrices:
        between = sgtbx.rt_mx(sgtbx.rot_mx(tuple(matrix), 1), sgtbx.tr_vec((0, 0, 0), 1))
        for step in (between, between.inverse()):
            if step.r().determinant() < 0:
                continue
            op = to_other.inverse() * sgtbx.change_of_basis_op(step.as_xyz()) * to_own
            try:
                moved = own.unit_cell().change_basis(op)
                fits = group.change_basis(op) == reference_group
            except RuntimeError:
                continue
            distance = _distance(moved, other.unit_cell())
            if fits and distance < SIMILAR and (best is None or distance < best[0] - 1e-6):
                best = distance, op.as_xyz()
    return best


def changed(model, operator: sgtbx.change_of_basis_op, setting: LatticeSetting):
    """A copy of a crystal in another setting."""
    new = model.change_basis(operator)
    new.set_space_group(setting.space_group)
    return new


def index_transformation(model, operator: sgtbx.change_of_basis_op) -> np.ndarray:
    """(3, 3) matrix M with h_old = M h_new, for indices as columns: A_new = A_old M."""
    old, new = (
        np.array(each.get_A()).reshape(3, 3) for each in (model, model.change_basis(operator))
    )
    return np.linalg.solve(old, new)
