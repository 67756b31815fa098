"""Images with several lattices are left out unless they are asked for; images of plain numpy arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import run_command
from plain_images import crystal_at, write_stills

from dials.array_family import flex

SHAPE = (100, 100)
SIZE = ("bragg.mosaicity=0.1", "bragg.domain_size=1000")
FILES = ("stills.expt", "stills.refl")


def stills(folder, lattices):
    """An image with so many lattices for each number; the same images whatever the numbers are"""
    rng = np.random.default_rng(6)
    images, crystals = [], []
    for number in lattices:
        images.append(rng.poisson(3.0, SHAPE))
        crystals.append([crystal_at(rng) for _ in range(3)][:number])
    chosen = [i for i, number in enumerate(lattices) if number]
    return write_stills(folder, [images[i] for i in chosen], [crystals[i] for i in chosen])


def mask(folder, *options):
    return run_command(folder, "dials.diffuse_mask", *FILES, "nproc=1", *SIZE, *options)


def observations(folder, name="diffuse_extracted.refl"):
    table = flex.reflection_table.from_file(str(folder / name))
    return {name: np.array(table[name]) for name in ("voxel", "counts", "exposure")}


def test_they_are_left_out_and_counted(tmp_path):
    both, single = tmp_path / "both", tmp_path / "single"
    stills(both, [1, 2, 1, 3, 1])
    stills(single, [1, 0, 1, 0, 1])
    for folder in (both, single):
        result = mask(folder, "output.json=mask.json")
        assert result.returncode == 0, result.stderr
        run_command(folder, "dials.diffuse_extract", "diffuse_masked.expt", "diffuse_masked.refl")
    found, expected = observations(both), observations(single)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    log = (both / "dials.diffuse_mask.log").read_text()
    assert "2 of 5 images have several lattices and are left out" in log
    assert json.loads((both / "mask.json").read_text())["multi_lattice_images_left_out"] == 2
    assert "several lattices" in (both / "dials.diffuse_mask.html").read_text()


def test_where_nothing_would_be_left_one_line_says_what_to_do(tmp_path):
    stills(tmp_path, [2] * 6)
    result = mask(tmp_path)
    assert result.returncode != 0 and len(result.stderr.strip().splitlines()) == 1
    assert "All 6 images have several lattices" in result.stderr
    assert "multi_lattice=keep" in result.stderr
    assert not (tmp_path / "diffuse_masked.expt").exists()
    assert mask(tmp_path, "multi_lattice=keep").returncode == 0


@pytest.mark.parametrize("lattices, left", [([1, 1, 2, 1, 2, 2], 3), ([2, 2, 1, 1, 1, 1], 4)])
def test_in_batches(tmp_path, lattices, left):
    """Some batches hold nothing else"""
    stills(tmp_path, lattices)
    result = run_command(
        tmp_path,
        "dials.diffuse_process",
        *FILES,
        "steps=mask+extract",
        "mp.nproc=1",
        "batch_size=2",
        *(f"mask.{option}" for option in SIZE),
    )
    assert result.returncode == 0, result.stderr
    tables = sorted((tmp_path / "batches").glob("diffuse_extracted_*.refl"))
    found = [flex.reflection_table.from_file(str(path)) for path in tables]
    assert sum(len(set(table["id"])) for table in found) == left
