"""Laue groups, their symbols and operators."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import miller, sgtbx

from dials_diffuse.grid.symmetry import (
    absent_by_centring,
    check_subdivide,
    group_from_hall,
    laue_group_from_symbol,
    laue_group_of,
    reciprocal_operators,
    symbol_of,
)


@pytest.mark.parametrize("friedel, order", [(True, 16), (False, 8)])
def test_laue_group_has_no_centring_and_no_screw_parts(friedel, order):
    group = laue_group_of(sgtbx.space_group_info("I 41 2 2").group(), friedel)
    assert group.order_z() == order and group.n_ltr() == 1 and group.is_centric() == friedel
    assert all(op.t().is_zero() for op in group.all_ops())
    assert laue_group_from_symbol("I 41 2 2", friedel) == group == group_from_hall(symbol_of(group))


def test_reciprocal_operators_are_those_of_cctbx():
    group = laue_group_from_symbol("P 3 2 1")
    operators = reciprocal_operators(group)
    equivalents = miller.sym_equiv_indices(group, (1, 2, 3))
    expected = {equivalents(i).h() for i in range(equivalents.multiplicity(False))}
    assert len(operators) == 12 and {tuple(op @ (1, 2, 3)) for op in operators} == expected
    assert set(np.linalg.det(operators).round()) == {1.0, -1.0}


@pytest.mark.parametrize(
    "symbol, good, bad",
    [
        ("P 4", (3, 3, 1), (3, 2, 1)),
        ("P 3", (2, 2, 5), (2, 1, 5)),
        ("P 2 3", (2, 2, 2), (2, 2, 3)),
        ("R 3 :R", (2, 2, 2), (2, 2, 1)),
        ("hall: -P 4x", (1, 3, 3), (3, 3, 1)),
        ("P 2 2 2", (1, 2, 3), (1, 2, 0)),
    ],
)
def test_subdivision_and_symmetry(symbol, good, bad):
    group = laue_group_from_symbol(symbol)
    check_subdivide(good, group)
    with pytest.raises(ValueError, match="subdivide="):
        check_subdivide(bad, group)


def test_unknown_symbol():
    with pytest.raises(ValueError, match="Unknown symmetry"):
        laue_group_from_symbol("P 5")


@pytest.mark.parametrize(
    "symbol, points, allowed",
    [
        ("P 1", 1, lambda h, k, l: h == h),
        ("I 2 2 2", 2, lambda h, k, l: (h + k + l) % 2 == 0),
        ("C 2 2 2", 2, lambda h, k, l: (h + k) % 2 == 0),
        ("F 2 2 2", 4, lambda h, k, l: (h % 2 == k % 2) & (k % 2 == l % 2)),
        ("R 3 :H", 3, lambda h, k, l: (-h + k + l) % 3 == 0),
    ],
)
def test_reflections_that_centring_extinguishes(symbol, points, allowed):
    index = np.random.default_rng(1).integers(-9, 10, (500, 3))
    group = sgtbx.space_group_info(symbol).group()
    assert group.n_ltr() == points
    np.testing.assert_array_equal(absent_by_centring(index, group), ~allowed(*index.T))
