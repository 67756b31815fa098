"""Values that mark overloads and gaps are told from counts, on images of plain numpy arrays."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from commands import run_command
from plain_images import crystal_at, flat_detector, write_stills

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.images import trusted_bounds
from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.masking.pixels.overload import TopValues, trusted_limit

SHAPE = (200, 200)


def counts(rng, mean=3.0, most=60000):
    """Scattering with spots, in whole photons"""
    image = rng.poisson(mean, SHAPE)
    for _ in range(40):
        y, x = rng.integers(5, 195, 2)
        image[y - 1 : y + 2, x - 1 : x + 2] += rng.integers(100, most)
    return image


def markers(*images, trusted=(0.0, 1e6)):
    top = TopValues([np.ones(SHAPE, dtype=bool)])
    for image in images:
        top.add([image], [trusted])
    return top.markers()


def with_gap(image, value):
    image = image.copy()
    image[:, 98:101] = value
    return image


def test_gaps_and_faulty_pixels():
    rng = np.random.default_rng(1)
    images = [with_gap(counts(rng, most=20000), 65535) for _ in range(3)]
    for image in images:
        image[50:54, 10:14] = 65534
    assert markers(*images) == [65535, 65534]
    # what the trusted range leaves out is known
    assert markers(*images, trusted=(0.0, 60000.0)) == []
    assert markers(*[image * 0.25 for image in images]) == [65535 / 4, 65534 / 4]


@pytest.mark.parametrize("most", [255, 4095, 65535])
def test_spots_that_are_cut_off(most):
    """Readings that end at a value: an overload on a few pixels of each image"""
    rng = np.random.default_rng(2)
    images = [np.minimum(counts(rng, most=5 * most), most) for _ in range(4)]
    assert markers(*images) == [most]


@pytest.mark.parametrize("gain", [1, 8])
@pytest.mark.parametrize("mean", [0.05, 3.0, 200.0, 5000.0])
def test_counts_have_no_markers(mean, gain):
    rng = np.random.default_rng(3)
    assert markers(*(gain * rng.poisson(mean, SHAPE) for _ in range(5))) == []
    assert markers(*(gain * counts(rng, mean) for _ in range(5))) == []


def test_a_few_faulty_pixels_are_no_marker():
    rng = np.random.default_rng(4)
    images = [counts(rng) for _ in range(5)]
    for image in images:
        image[10, 10] = image[150, 30] = 1_000_000
    assert markers(*images) == []


@pytest.fixture
def stills(tmp_path):
    """Six stills with 720 pixels of gaps at 65535, whose detector model trusts up to 1e6"""
    rng = np.random.default_rng(5)
    images = []
    for _ in range(6):
        image = rng.poisson(3.0, SHAPE)
        image[:, 98:101] = image[98:101, :40] = 65535
        images.append(image)
    crystals = [crystal_at(rng) for _ in images]
    detector = flat_detector(SHAPE, trusted=(-1, 1e6))
    write_stills(tmp_path, images, crystals, detector)
    return tmp_path, images[0] == 65535


def test_the_mistake_is_said(stills, caplog):
    folder, _ = stills
    groups = group_by_image(stills_of(load_experiments(folder / "stills.expt")))
    with caplog.at_level(logging.WARNING):
        assert trusted_limit(groups, [np.ones(SHAPE, dtype=bool)]) == 65534.5
    assert "share the value 65535" in caplog.text and "ends at 1e+06" in caplog.text


MASK = ("dials.diffuse_mask", "stills.expt", "stills.refl", "nproc=1")
SIZE = ("bragg.mosaicity=0.05", "bragg.domain_size=2000", "dynamic.shadow=False")


def mean_photons(folder):
    table = flex.reflection_table.from_file(str(folder / "diffuse_extracted.refl"))
    return np.array(table["counts"]).sum() / np.array(table["num_pixels.valid"]).sum()


def test_gaps_leave_the_map(stills):
    folder, gap = stills
    result = run_command(folder, *MASK, *SIZE, "output.survey=survey.pickle")
    assert result.returncode == 0, result.stderr
    assert "share the value 65535" in result.stdout
    (mask,) = pickle.loads((folder / "pixels.mask").read_bytes())
    mask = np.array(mask).reshape(SHAPE)
    assert not mask[gap].any() and mask[~gap].all()
    masked = load_experiments(folder / "diffuse_masked.expt", check_format=False)
    assert trusted_bounds(masked[0].detector[0])[1] < 65535
    for files in (
        ("diffuse_masked.expt", "diffuse_masked.refl"),
        ("stills.expt", "stills.refl", "survey=survey.pickle"),
    ):
        result = run_command(folder, "dials.diffuse_extract", *files, "nproc=1")
        assert result.returncode == 0, result.stderr
        assert mean_photons(folder) == pytest.approx(3.0, rel=0.01)
