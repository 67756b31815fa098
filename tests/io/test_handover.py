from __future__ import annotations

import os
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from dials_diffuse.io.handover import Handover


@dataclass
class Sums:
    name: str
    arrays: list[np.ndarray]


def handed_over(what, folder):
    """What another process gets"""
    return pickle.loads(pickle.dumps(Handover.store(what, folder))).take()


@pytest.mark.parametrize(
    "arrays",
    [
        [
            np.arange(12, dtype=np.uint16).reshape(3, 4),
            np.array([True, False, True]),
            np.linspace(0, 1, 5),
        ],
        [np.zeros(0), np.arange(3), np.zeros((0, 7), np.int32)],
        [np.zeros(0)],
        [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(10)[::3]],
        [],
    ],
)
def test_what_is_taken_is_what_was_handed_over(tmp_path, arrays):
    taken = handed_over(Sums("x", arrays), tmp_path)
    assert taken.name == "x" and len(taken.arrays) == len(arrays)
    for array, expected in zip(taken.arrays, arrays):
        assert array.dtype == expected.dtype and array.shape == expected.shape
        np.testing.assert_array_equal(array, expected)
        assert array.flags.aligned
        array += array  # may be written to
    assert os.listdir(tmp_path) == []


def test_arrays_go_through_the_file(tmp_path):
    handover = Handover.store(Sums("x", [np.ones(100_000)]), tmp_path)
    assert len(pickle.dumps(handover)) < 1000
    assert os.path.getsize(handover.path) == 800_000
