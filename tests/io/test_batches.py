from __future__ import annotations

from pathlib import Path

import pytest

from dials_diffuse.io.batches import batch_name, stills_a_file


@pytest.mark.parametrize(
    "number, n_batches, expected",
    [
        (0, 1, "batches/a.expt"),
        (0, 2, "batches/a_0001.expt"),
        (11, None, "batches/a_0012.expt"),
        (0, None, "batches/a_0001.expt"),
        (9999, 10000, "batches/a_10000.expt"),
    ],
)
def test_numbers_in_names(number, n_batches, expected):
    assert batch_name("batches/a.expt", number, n_batches) == expected
    assert batch_name(Path("batches/a.expt"), number, n_batches) == expected


def test_only_the_last_suffix_is_one():
    assert batch_name("crystal.1.refl", 0, None) == "crystal.1_0001.refl"


def test_one_file_as_long_as_it_can_be_loaded():
    assert stills_a_file(139_000, 150) is None
    assert stills_a_file(139_000, 1500) == 143
    assert stills_a_file(10**9, 2) == 1
