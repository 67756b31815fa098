"""The asymmetric unit is that of cctbx."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import miller, sgtbx

from dials_diffuse.adapters.tables import as_numpy, miller_index_column
from dials_diffuse.grid.asymmetric_unit import AsymmetricUnit, asymmetric_unit
from dials_diffuse.grid.symmetry import laue_group_of

# All Laue classes with all their settings that cctbx tabulates, and some it does not
SYMBOLS = [
    "P 1",
    "P 1 2 1",
    "P 1 1 2",
    "P 2 1 1",
    "P m m m",
    "P 4",
    "P 4 2 2",
    "P 3",
    "P 3 1 2",
    "P 3 2 1",
    "R 3 :R",
    "R 3 :H",
    "R 3 2 :R",
    "P 6",
    "P 6 2 2",
    "P 2 3",
    "P 4 3 2",
    "I 1 2 1",
    "C 2 2 2",
    "P 1 2 1 (a+c,b,-a)",
    "P 4 2 2 (c,a,b)",
    "P 3 2 1 (b,c,a)",
    "F 4 3 2 (1/2*b+1/2*c,1/2*a+1/2*c,1/2*a+1/2*b)",
    "I 4 (-1/2*a+1/2*b+1/2*c,1/2*a-1/2*b+1/2*c,1/2*a+1/2*b-1/2*c)",
]


@pytest.mark.parametrize("friedel", [True, False])
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_same_as_cctbx(symbol, friedel):
    group = laue_group_of(sgtbx.space_group_info(symbol).group(), friedel)
    # every index of a cube, special positions among them, and large ones
    indices = np.indices((15, 15, 15)).reshape(3, -1).T - 7
    indices = np.concatenate(
        [indices, np.random.default_rng(1).integers(-100_000, 100_000, (3000, 3))]
    )
    expected = miller_index_column(indices)
    miller.map_to_asu(group.type(), not friedel, expected)
    found = asymmetric_unit(group).map(indices)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, as_numpy(expected))


def test_blocks_and_empty_input():
    group = laue_group_of(sgtbx.space_group_info("P 4 3 2").group())
    unit = AsymmetricUnit(group)
    indices = np.random.default_rng(2).integers(-50, 50, (70_000, 3))
    expected = miller_index_column(indices)
    miller.map_to_asu(group.type(), False, expected)
    np.testing.assert_array_equal(unit.map(indices), as_numpy(expected))
    assert unit.map(indices[:0]).shape == (0, 3)
