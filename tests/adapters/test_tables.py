"""Columns to numpy and back."""

from __future__ import annotations

import numpy as np
import pytest

from dials.array_family import flex

from dials_diffuse.adapters.tables import (
    as_numpy,
    bool_column,
    double_column,
    int6_column,
    int_column,
    mask_as_flex,
    mask_as_numpy,
    miller_index_column,
    size_t_column,
    vec2_column,
    vec3_column,
)

RNG = np.random.default_rng(1)
KINDS = {
    "int": (int_column, flex.int, RNG.integers(-(2**31), 2**31 - 1, 50)),
    "size_t": (size_t_column, flex.size_t, RNG.integers(0, 2**60, 50)),
    "double": (double_column, flex.double, RNG.normal(size=50)),
    "bool": (bool_column, flex.bool, RNG.random(50) < 0.5),
    "vec2": (vec2_column, flex.vec2_double, RNG.normal(size=(50, 2))),
    "vec3": (vec3_column, flex.vec3_double, RNG.normal(size=(50, 3))),
    "miller_index": (
        miller_index_column,
        flex.miller_index,
        RNG.integers(-(2**31), 2**31 - 1, (50, 3)),
    ),
    "int6": (int6_column, flex.int6, RNG.integers(-(2**31), 2**31 - 1, (50, 6))),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_there_and_back_in_a_table(kind):
    make, flex_type, values = kind
    table = flex.reflection_table()
    table["column"] = make(values)
    assert isinstance(table["column"], flex_type)
    np.testing.assert_array_equal(as_numpy(table["column"]), values)
    element = table["column"][7]
    assert tuple(np.atleast_1d(element)) == tuple(np.atleast_1d(values[7]))


def test_empty(kind):
    make, flex_type, values = kind
    column = make(values[:0])
    assert isinstance(column, flex_type) and column.size() == 0
    assert as_numpy(column).shape[0] == 0


@pytest.mark.parametrize("change", ["read-only", "strided", "other byte order", "fortran"])
def test_arrays_as_they_come(kind, change):
    make, _, values = kind
    if change == "read-only":
        given = values.copy()
        given.flags.writeable = False
    elif change == "strided":
        given = np.repeat(values, 3, axis=0)[::3]
    elif change == "other byte order":
        given = values.astype(values.dtype.newbyteorder())
    else:
        given = np.asfortranarray(values)
    np.testing.assert_array_equal(as_numpy(make(given)), values)


def test_columns_do_not_share_memory_with_what_they_were_made_of(kind):
    make, _, values = kind
    given = values.copy()
    column = make(given)
    given[:] = 0
    np.testing.assert_array_equal(as_numpy(column), values)


def test_smaller_types_are_widened():
    for dtype in (np.float32, np.int16, bool):
        column = double_column(np.array([0, 1, 1], dtype=dtype))
        assert isinstance(column, flex.double) and list(column) == [0, 1, 1]
    assert list(int_column(np.array([3, 4], dtype=np.int64))) == [3, 4]


def test_masks_keep_their_shape():
    mask = RNG.random((4, 7)) < 0.5
    column = mask_as_flex(mask)
    assert column.all() == (4, 7) and column[2, 5] == mask[2, 5]
    back = mask_as_numpy(column)
    np.testing.assert_array_equal(back, mask)
    back[:] = False
    np.testing.assert_array_equal(mask_as_numpy(column), mask)
