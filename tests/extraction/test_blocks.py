"""Blocks of images against sums with plain numpy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dxtbx.model import BeamFactory, Crystal, DetectorFactory, Experiment, Goniometer, Scan

from dials_diffuse.adapters.stills import Still
from dials_diffuse.extraction.blocks import PanelBlock, automatic_block, blocks_of, middle_of
from dials_diffuse.extraction.photons import PanelPixels
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.geometry.panel import PanelGeometry

SHAPE = (30, 41)


def images_of_sweep(n=24, first=1, index=0, width=0.1, missing=()):
    """Stills of a sweep, which no file has."""
    experiment = Experiment(
        BeamFactory.make_beam(sample_to_source=(0, 0, 1), wavelength=1.0),
        DetectorFactory.simple("PAD", 150, (15, 20), "+x", "-y", (1, 1), SHAPE[::-1], (-1, 1e6)),
        Goniometer((1, 0, 0)),
        Scan((first, first + n - 1), (0.0, width)),
        Crystal((60, 0, 0), (0, 80, 0), (0, 0, 120), space_group_symbol="P1"),
        identifier=str(index),
    )
    numbers = [i for i in range(n) if i not in missing]
    return [[Still(index, experiment, i, first - 1 + i)] for i in numbers]


@dataclasses.dataclass
class Settings:
    block: int | None = None
    subdivide: tuple = (3, 3, 3)
    min_intensity: float | None = None
    max_intensity: float | None = None


def sizes(blocks):
    return [len(block) for block in blocks]


def test_automatic_blocks_keep_the_index_to_half_a_voxel():
    """The ends of a block against its middle, for all directions of q at d_min"""
    images = images_of_sweep(100)
    n, d_min = automatic_block(images[0][0], (3, 3, 3), 2.5), 2.5
    assert n > 1
    q = np.random.default_rng(1).normal(size=(20000, 3))
    q /= np.linalg.norm(q, axis=1)[:, None] * d_min

    def worst(n):
        sweep = images[0][0].experiment
        places = (Still(0, sweep, 0, z - 0.5) for z in (50 - n / 2, 50, 50 + n / 2))
        start, middle, end = (3 * q @ np.linalg.inv(s.setting_matrix()).T for s in places)
        return max(np.abs(start - middle).max(), np.abs(end - middle).max())

    assert worst(n) <= 0.5 < worst(n + 2)


def test_blocks_end_at_gaps_and_at_the_end_of_a_sweep():
    images = images_of_sweep(24, missing=(10,)) + images_of_sweep(6, index=1, first=25)
    blocks = blocks_of(images, Settings(block=4), 2.0)
    assert sizes(blocks) == [4, 4, 2, 4, 4, 4, 1, 4, 2]
    assert [image for block in blocks for image in block] == images
    assert sizes(blocks_of(images, Settings(block=4), 2.0, single=True)) == [1] * 29
    assert sizes(blocks_of(images, Settings(block=4, max_intensity=1.0), 2.0)) == [1] * 29
    two_lattices = [*images[:4], images[4] + images_of_sweep(24, index=2)[4], *images[5:8]]
    assert sizes(blocks_of(two_lattices, Settings(block=8), 2.0)) == [4, 1, 3]
    stills = [[Still(i, images_of_sweep(1)[0][0].experiment)] for i in range(3)]
    assert sizes(blocks_of(stills, Settings(block=8), 2.0)) == [1, 1, 1]


def test_middle_of_a_block():
    stills = [still for (still,) in images_of_sweep(4, first=7)]
    middle = middle_of(stills)
    assert middle.image_number == 8.0 and middle_of(stills[:1]) is stills[0]
    turned = [middle.setting_matrix() @ np.linalg.inv(s.setting_matrix()) for s in stills]
    assert np.allclose(turned[0], turned[3].T) and not np.allclose(turned[0], np.eye(3))


@pytest.mark.parametrize("kind", [np.int32, np.float64])
def test_each_image_keeps_its_own_mask_and_overloads(kind):
    rng = np.random.default_rng(3)
    raws = rng.poisson(20, (5, *SHAPE)).astype(kind)
    raws[2, 4, 5] = 1000  # an overload
    raws[1, 7, 7] = -1
    uses = rng.random((5, *SHAPE)) < 0.8
    uses[:, 0, 0] = False
    uses[:, 1] = True
    braggs = rng.random((5, *SHAPE)) < 0.05
    seconds = np.array([0.1, 0.1, 0.2, 0.1, 0.3])
    planes = tuple(rng.random(SHAPE).astype(np.float32) for _ in range(3))
    block = PanelBlock()
    for values in zip(raws, uses, braggs, seconds):
        block.add(PanelPixels(*values[:3], (0, 500), 1.0, 3.0, planes), values[3])
    geometry = PanelGeometry(
        rng.random((3, *SHAPE)).astype(np.float32), rng.random(SHAPE).astype(np.float32)
    )
    pixels, own = block.result(geometry)

    counted = uses & (raws >= 0) & (raws <= 500)
    assert not counted[2, 4, 5] and not counted[1, 7, 7] and not pixels.use[0, 0]
    assert np.array_equal(pixels.raw, np.where(counted, raws - 3.0, 0).sum(axis=0))
    assert np.array_equal(pixels.use, counted.any(axis=0)) and pixels.pedestal == 0
    assert np.array_equal(pixels.bragg, braggs.any(axis=0))
    part = (counted * seconds[:, None, None]).sum(axis=0) / seconds.sum()
    good = pixels.use
    assert np.allclose(own.acceptance[good], (geometry.acceptance * part)[good], rtol=1e-6)
    for plane, before, power in zip(pixels.background, planes, (1, 2, 1)):
        assert np.allclose(plane[good], (before * part**power)[good], rtol=1e-6)


def test_whole_pixels_keep_their_geometry():
    geometry = PanelGeometry(np.zeros((3, 2, 2), np.float32), np.ones((2, 2), np.float32))
    block = PanelBlock()
    yes, no = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    for _ in range(3):
        block.add(PanelPixels(np.ones((2, 2), np.int32), yes, no, (0, 5)), 0.1)
    assert block.result(geometry)[1] is geometry
    with pytest.raises(ValueError, match="No image"):
        PanelBlock().result(geometry)


def test_the_settings_have_what_blocks_need():
    names = {field.name for field in dataclasses.fields(ExtractionSettings)}
    assert {field.name for field in dataclasses.fields(Settings)} <= names
