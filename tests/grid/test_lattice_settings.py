"""Settings of one lattice: crystals made from a cell by changes of basis, and back."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import crystal, sgtbx, uctbx
from dxtbx.model import Crystal

from dials_diffuse.grid.lattice_settings import (
    LatticeSetting,
    changed,
    check_settings,
    index_transformation,
)

C2 = ((80.0, 50.0, 60.0, 90.0, 105.0, 90.0), "C 1 2 1")
P1 = ((40.0, 47.0, 55.0, 80.0, 95.0, 103.0), "P 1")
R3 = ((80.0, 80.0, 120.0, 90.0, 90.0, 120.0), "R 3 :H")


def model(kind, basis="x,y,z", scale=1.0):
    cell, symbol = kind
    cell = (*(scale * length for length in cell[:3]), *cell[3:])
    axes = np.array(uctbx.unit_cell(cell).orthogonalization_matrix()).reshape(3, 3).T
    made = Crystal(*map(tuple, axes), space_group_symbol=symbol)
    made.rotate_around_origin((0.6, 0.8, 0.0), 35.0)
    return made.change_basis(sgtbx.change_of_basis_op(basis))


def rhombohedral():
    symmetry = crystal.symmetry(R3[0], R3[1])
    return model(R3, symmetry.change_of_basis_op_to_primitive_setting().as_xyz())


MIXTURES = [
    (C2, ["x-z,y,z", "x,y,-2*x+z", "x+z,-y,-z", "x,y,x+z"]),
    (P1, ["x+y,y,z", "x,y+z,z", "y,z,x", "-x,-y,z", "-x-y-z,y,-z"]),
]


@pytest.mark.parametrize(
    "kind, basis", [(kind, basis) for kind, several in MIXTURES for basis in several]
)
def test_crystals_in_another_setting_are_brought_back(kind, basis):
    rng = np.random.default_rng(1)
    pure = [model(kind, scale=1 + 0.002 * rng.normal()) for _ in range(6)]
    other = model(kind, basis, scale=1.003)
    setting = LatticeSetting.most_frequent([other, *pure, other])
    assert setting.space_group == pure[0].get_space_group()
    assert check_settings([other, *pure, other], setting) == [0, 7]
    operator = setting.operator_for(other)
    back = changed(other, operator, setting)
    expected = model(kind, scale=1.003)
    assert back.get_space_group() == expected.get_space_group()
    assert back.get_unit_cell().parameters() == pytest.approx(
        expected.get_unit_cell().parameters(), abs=1e-6
    )
    # the same points of the reciprocal lattice, up to the symmetry of the Laue group
    h = np.array([[1.0, 2.0, 3.0], [2.0, 0.5, -1.0]]).T
    old = np.array(other.get_A()).reshape(3, 3) @ index_transformation(other, operator) @ h
    new = np.array(back.get_A()).reshape(3, 3) @ h
    np.testing.assert_allclose(old, new, atol=1e-12)


def test_rhombohedral_and_hexagonal_axes():
    other = rhombohedral()
    setting = LatticeSetting.most_frequent([model(R3), model(R3), other])
    back = changed(other, setting.operator_for(other), setting)
    assert back.get_unit_cell().parameters() == pytest.approx(R3[0], abs=1e-6)
    # and the other way round, where these are more
    setting = LatticeSetting.most_frequent([model(R3), other, other])
    back = changed(model(R3), setting.operator_for(model(R3)), setting)
    assert back.get_unit_cell().parameters() == pytest.approx(
        other.get_unit_cell().parameters(), abs=1e-6
    )


def test_the_largest_of_several_clusters_is_taken():
    """Four settings of nearly a third each: the median cell is none of them."""
    crystals = [model(C2, basis) for basis in MIXTURES[0][1][:3] for _ in range(4)]
    crystals += [model(C2) for _ in range(5)]
    setting = LatticeSetting.most_frequent(crystals)
    assert setting.unit_cell.parameters() == pytest.approx(C2[0])
    cells = [setting.cell_of(each).parameters() for each in crystals]
    np.testing.assert_allclose(cells, np.broadcast_to(C2[0], (17, 6)), atol=1e-6)


def test_scattered_cells_stay_as_they_are():
    rng = np.random.default_rng(2)
    crystals = [model(P1, scale=1 + 0.01 * rng.normal()) for _ in range(50)]
    assert check_settings(crystals) == []
    # 3 % larger: an outlier, no other setting
    assert check_settings([*crystals, model(P1, scale=1.03)]) == []


def test_what_is_no_setting_of_the_same_lattice():
    setting = LatticeSetting.most_frequent([model(P1)])
    other = model(((70.0, 71.0, 72.0, 85.0, 95.0, 100.0), "P 1"))
    assert setting.operator_for(other) is None and setting.is_far(other.get_unit_cell())
    with pytest.raises(ValueError, match="different space groups: P 1 and C 1 2 1") as error:
        setting.operator_for(model(C2))
    assert "\n" not in str(error.value)
