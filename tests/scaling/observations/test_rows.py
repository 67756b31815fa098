"""Rows of gridded tables, against the columns."""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import experiments_of, tilted_detector

from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.scaling.observations import rows as module
from dials_diffuse.scaling.observations.frames import (
    bins_at,
    bins_of,
    frames_of,
    patches_of,
    positions_of,
)
from dials_diffuse.scaling.observations.rows import ROW, check_columns, parts_of_table

EXPERIMENTS = experiments_of([tilted_detector(3, 1), tilted_detector(2, 2)], [(0, 0, -1)] * 2)
FRAMES, BINS = frames_of(EXPERIMENTS), bins_of(EXPERIMENTS, None)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 64)


def random_columns(n=300, seed=0):
    rng = np.random.default_rng(seed)
    still = np.sort(rng.integers(0, 2, n))
    voxel = rng.integers(-5, 5, (n, 3)).astype(np.int32)
    return {
        "id": still.astype(np.int32),
        "panel": rng.integers(0, 3 - still).astype(np.uint64),
        "voxel": voxel,
        "asu_voxel": abs(voxel),
        "xyzobs.px.value": rng.uniform(0, 30, (n, 3)),
        "bragg": np.zeros(n, dtype=bool),
        "num_pixels.valid": rng.integers(1, 9, n).astype(np.int32),
        "counts": rng.poisson(20, n).astype(float),
        "background": rng.uniform(-0.5, 3, n),
        "background.variance": rng.uniform(0, 2, n),
        "exposure": rng.uniform(0.1, 2, n),
    }


def spoiled_columns():
    """Columns with every 7th row spoiled in some way, and which rows are (usable, known Bragg)"""
    columns = random_columns()
    n = len(columns["id"])
    columns["bragg"][0::7] = True
    columns["counts"][1::49] = np.nan
    columns["background.variance"][8::49] = np.inf
    columns["xyzobs.px.value"][15::49, 1] = np.nan
    columns["num_pixels.valid"][22::49] = 0
    columns["exposure"][29::49] = 0
    columns["background.variance"][36::49] = -1
    # Bragg that is not even finite
    columns["counts"][7] = np.nan
    spoiled = np.isin(np.arange(n) % 49, [1, 8, 15, 22, 29, 36])
    known_bragg = columns["bragg"] & (np.arange(n) != 7)
    return columns, ~spoiled & ~columns["bragg"], known_bragg


def read(columns, **options):
    parts = list(parts_of_table(columns, FRAMES, BINS, **options))
    arrays = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("rows", "voxels", "n_pixels")
    )
    return (*arrays, sum(p.n_bragg for p in parts), sum(p.n_not_finite for p in parts))


def check_values(rows, voxels, n_pixels, columns, readout_noise=0.0):
    """Compare rows with the rows of the table that they name"""
    chosen = {name: column[rows["row"]] for name, column in columns.items()}
    variance = np.maximum(chosen["background"], 0) + chosen["background.variance"]
    variance += chosen["num_pixels.valid"] * readout_noise**2
    for name, expected in (
        ("net", chosen["counts"] - chosen["background"]),
        ("exposure", chosen["exposure"]),
        ("background", chosen["background"]),
        ("floor", variance),
    ):
        np.testing.assert_allclose(rows[name], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows["still"], chosen["id"])
    np.testing.assert_array_equal(rows["panel"], chosen["panel"])
    np.testing.assert_array_equal(voxels, pack_voxels(chosen["asu_voxel"]))
    np.testing.assert_array_equal(n_pixels, chosen["num_pixels.valid"])
    places = chosen["id"], chosen["panel"], chosen["xyzobs.px.value"]
    _, x, y = positions_of(EXPERIMENTS, *places)
    for row, *at in zip(rows, x, y):
        _, *bins = bins_at(BINS, 1.0, *at)
        assert [row["radial"], row["direction"]] == bins
    np.testing.assert_array_equal(rows["patch"], patches_of(BINS)[rows["direction"]])


@pytest.mark.parametrize("n_threads", [1, 3])
def test_values_are_those_of_the_columns(n_threads):
    columns = random_columns()
    rows, voxels, n_pixels, *numbers = read(columns, readout_noise=1.5, n_threads=n_threads)
    np.testing.assert_array_equal(rows["row"], np.arange(300))
    check_values(rows, voxels, n_pixels, columns, readout_noise=1.5)
    assert (rows["voxel"] == 0).all() and numbers == [0, 0]


def test_rows_are_small():
    assert ROW.itemsize == 36


def test_what_cannot_be_used_is_left_out():
    columns, usable, _ = spoiled_columns()
    rows, voxels, n_pixels, n_bragg, n_not_finite = read(columns)
    np.testing.assert_array_equal(rows["row"], np.flatnonzero(usable))
    check_values(rows, voxels, n_pixels, columns)
    assert n_bragg == columns["bragg"].sum()
    assert n_not_finite == len(range(1, 300, 49)) + len(range(8, 300, 49)) + 7


def test_everything_is_flagged():
    columns, usable, known_bragg = spoiled_columns()
    rows, voxels, n_pixels, *_ = read(columns, everything=True)
    np.testing.assert_array_equal(rows["row"], np.arange(300))
    # observations below Bragg peaks can be scaled
    np.testing.assert_array_equal(rows["voxel"], np.where(usable | known_bragg, 0, -1))
    good = rows["voxel"] == 0
    check_values(rows[good], voxels[good], n_pixels[good], columns)


def test_rows_of_no_experiment_are_left_out():
    columns = random_columns()
    columns["id"][5:9] = -1
    columns["panel"][5:9] = 1000
    rows, *_ = read(columns)
    np.testing.assert_array_equal(rows["row"], np.delete(np.arange(300), range(5, 9)))
    assert read(columns, everything=True)[0]["voxel"][5:9].tolist() == [-1] * 4


def test_a_panel_that_is_not_there():
    columns = random_columns()
    last = len(columns["id"]) - 3
    columns["panel"][last] = 2
    with pytest.raises(ValueError, match="Experiment 1 .* panel 2, its detector has 2 panels"):
        read(columns)
    columns["panel"][last] = 77
    with pytest.raises(ValueError, match="panel 77"):
        read(columns)


def test_no_rows():
    columns = {name: column[:0] for name, column in random_columns().items()}
    assert list(parts_of_table(columns, FRAMES, BINS)) == []


def test_missing_columns():
    columns = random_columns()
    check_columns(columns)
    without = {name: column for name, column in columns.items() if name != "exposure"}
    with pytest.raises(ValueError, match="lacks the column exposure"):
        check_columns(without)
    del without["asu_voxel"]
    with pytest.raises(ValueError, match="diffuse_grid first"):
        check_columns(without)
