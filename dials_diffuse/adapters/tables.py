"""Columns of reflection tables as numpy arrays and back, the same on every DIALS."""

from __future__ import annotations

import numpy as np

from dxtbx import flumpy

from dials.array_family import flex


def as_numpy(column) -> np.ndarray:
    """A flex column as a numpy array: (N,) for numbers, (N, 2), (N, 3) or (N, 6) for vectors.

    miller_index -> int32 (N, 3); int6 -> int32 (N, 6). Numbers and vec3_double may share
    memory with the column: copy before writing.
    """
    if isinstance(column, flex.miller_index):
        if column.size() == 0:
            return np.empty((0, 3), dtype=np.int32)
        # Older flumpy does not know this class; vec3_double holds every int32 exactly
        return flumpy.to_numpy(column.as_vec3_double()).astype(np.int32)
    if isinstance(column, flex.int6):
        parts = [flumpy.to_numpy(part) for part in column.parts()]
        return np.stack(parts, axis=1).astype(np.int32)
    return flumpy.to_numpy(column)


def _writable(array, dtype) -> np.ndarray:
    # flumpy shares memory, and refuses or copies read-only arrays depending on version
    return np.array(array, dtype=dtype, order="C", copy=True)


def int_column(array) -> flex.int:
    """(N,) integers -> flex.int"""
    a = _writable(array, np.int32)
    return flumpy.from_numpy(a) if a.size else flex.int()


def size_t_column(array) -> flex.size_t:
    """(N,) integers >= 0 -> flex.size_t"""
    a = _writable(array, np.uint64)
    return flumpy.from_numpy(a) if a.size else flex.size_t()


def double_column(array) -> flex.double:
    """(N,) numbers -> flex.double"""
    a = _writable(array, np.float64)
    return flumpy.from_numpy(a) if a.size else flex.double()


def bool_column(array) -> flex.bool:
    """(N,) bool -> flex.bool"""
    a = _writable(array, bool)
    return flumpy.from_numpy(a) if a.size else flex.bool()


def vec3_column(array) -> flex.vec3_double:
    """(N, 3) numbers -> flex.vec3_double"""
    a = _writable(array, np.float64)
    return flumpy.vec_from_numpy(a) if a.size else flex.vec3_double()


def miller_index_column(array) -> flex.miller_index:
    """(N, 3) integers -> flex.miller_index"""
    a = np.asarray(array, dtype=np.int32)
    if not a.size:
        return flex.miller_index()
    return flex.miller_index(*(int_column(a[:, i]) for i in range(3)))


def int6_column(array) -> flex.int6:
    """(N, 6) integers (a bbox: fast, slow, image, each first and last + 1) -> flex.int6"""
    a = np.asarray(array, dtype=np.int32)
    if not a.size:
        return flex.int6()
    return flex.int6(*(int_column(a[:, i]) for i in range(6)))


def as_column(array: np.ndarray):
    """A numpy array as the column of its type and shape.

    Raises:
        ValueError: there is no such column.
    """
    makers = {
        ("b", 1): bool_column,
        ("i", 1): int_column,
        ("u", 1): size_t_column,
        ("f", 1): double_column,
    }
    vectors = {
        ("f", 2): vec2_column,
        ("f", 3): vec3_column,
        ("i", 3): miller_index_column,
        ("i", 6): int6_column,
    }
    kind = array.dtype.kind
    make = makers.get((kind, 1)) if array.ndim == 1 else vectors.get((kind, array.shape[1]))
    if make is None:
        raise ValueError(
            f"Reflection tables have no column for {array.dtype} of shape {array.shape}"
        )
    return make(array)


def mask_as_flex(mask: np.ndarray) -> flex.bool:
    """(n_slow, n_fast) bool -> 2D flex.bool, as DIALS keeps masks"""
    return flumpy.from_numpy(_writable(mask, bool))


def mask_as_numpy(mask: flex.bool) -> np.ndarray:
    """2D flex.bool -> (n_slow, n_fast) bool, a copy"""
    return np.array(flumpy.to_numpy(mask), dtype=bool)


def vec2_column(array) -> flex.vec2_double:
    """(N, 2) numbers -> flex.vec2_double"""
    a = _writable(array, np.float64)
    return flumpy.vec_from_numpy(a) if a.size else flex.vec2_double()
