"""Stills with lookup masks of their own: each obeys its own; images and masks of plain numpy arrays."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from commands import run_command
from plain_images import crystal_at, write_stills

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.images import static_mask
from dials_diffuse.adapters.tables import mask_as_flex

SHAPE = (100, 100)
FILES = ("stills.expt", "stills.refl", "nproc=1")
MASKED = ("diffuse_masked.expt", "diffuse_masked.refl", "nproc=1")
PLAIN = ("bragg.method=none", "dynamic.shadow=False")


@pytest.fixture(params=["random", "two groups"])
def stills(request, tmp_path):
    """Six stills, the masks of which remove 8 % at random, or a stripe of every second still; the masked
    pixels count 5000 times as much"""
    rng = np.random.default_rng(7)
    masks = [rng.random(SHAPE) > 0.08 for _ in range(6)]
    if request.param == "two groups":
        masks = [np.ones(SHAPE, bool) for _ in range(6)]
        for number, mask in enumerate(masks):
            mask[:, 10 + 50 * (number % 2) : 20 + 50 * (number % 2)] = False
    names, images = [], []
    for number, mask in enumerate(masks):
        names.append(tmp_path / f"own_{number}.mask")
        names[-1].write_bytes(pickle.dumps((mask_as_flex(mask),)))
        images.append(np.where(mask, rng.poisson(3.0, SHAPE), 15000))
    crystals = [crystal_at(rng) for _ in images]
    write_stills(tmp_path, images, crystals, masks=names)
    return tmp_path, masks


def check(folder, masks):
    table = flex.reflection_table.from_file(str(folder / "diffuse_extracted.refl"))
    ids = np.array(table["id"])
    pixels = np.bincount(ids, np.array(table["num_pixels.valid"]))
    photons = np.bincount(ids, np.array(table["counts"]))
    # but for a few pixels that are odd by chance
    assert pixels == pytest.approx([mask.sum() for mask in masks], abs=5)
    assert photons / pixels == pytest.approx(3.0, rel=0.05)


def run(folder, *arguments):
    result = run_command(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_each_still_obeys_its_own_mask(stills):
    folder, masks = stills
    log = run(folder, "dials.diffuse_mask", *FILES, *PLAIN, "output.survey=survey.pickle")
    assert "each image keeps its own" in log
    for experiment, mask in zip(load_experiments(folder / "diffuse_masked.expt"), masks):
        assert (static_mask(experiment.imageset)[0] != mask).sum() <= 5
    run(folder, "dials.diffuse_extract", *MASKED)
    check(folder, masks)
    first = (folder / "diffuse_extracted.refl").read_bytes()
    run(folder, "dials.diffuse_extract", *FILES, "survey=survey.pickle")
    check(folder, masks)
    assert len((folder / "diffuse_extracted.refl").read_bytes()) == len(first)
    for experiment, mask in zip(load_experiments(folder / "diffuse_masked.expt"), masks):
        assert (static_mask(experiment.imageset)[0] != mask).sum() <= 5
