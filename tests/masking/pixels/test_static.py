from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from plain_images import flat_detector

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import BeamFactory, DetectorFactory
from iotbx.phil import parse

from dials_diffuse.adapters.tables import mask_as_flex, mask_as_numpy
from dials_diffuse.masking.pixels.static import (
    check_same_panels,
    lookup_masks,
    own_masks,
    parameter_mask,
    set_lookup_mask,
)
from dials_diffuse.phil.mask import phil_scope

SIZE = (30, 40)


def imageset_of(size=SIZE):
    """An image that is never read."""
    imageset = ImageSetFactory.make_imageset(["image.cbf"], check_format=False)
    imageset.set_beam(BeamFactory.simple(1.0))
    imageset.set_detector(
        DetectorFactory.simple(
            "PAD", 100, (4, 3), "+x", "-y", (0.2, 0.2), size[::-1], trusted_range=(0, 1000)
        )
    )
    return imageset


def parameters(text):
    return phil_scope.fetch(parse(text)).extract()


def test_detectors_must_have_the_same_panels():
    check_same_panels([imageset_of(), imageset_of()])
    with pytest.raises(ValueError, match="differ in their panels"):
        check_same_panels([imageset_of(), imageset_of((30, 41))])


@pytest.mark.parametrize(
    "text, message",
    [
        ("d_min=3\nd_max=2", "d_min=3.0 must be smaller than d_max=2.0"),
        ("border=-1", "must not be negative"),
        ("border=15", "border=15 leaves nothing of a panel of 30 pixels"),
        ("resolution_range=2,2", "is empty"),
        ("untrusted { panel=1 }", "the panels are numbered 0 to 0"),
        ("untrusted { polygon=1 2 3 4 }", "three corners at least: 4 numbers"),
        ("untrusted { pixel=30 5 }", "is not on the panel"),
    ],
)
def test_parameters_that_make_no_sense_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parameter_mask(imageset_of(), parameters(text))


def test_parameters_mask_pixels():
    (good,) = parameter_mask(
        imageset_of(), parameters("border=2\nuntrusted { rectangle=10 14 5 9 }")
    )
    expected = np.zeros(SIZE, bool)
    expected[2:-2, 2:-2] = True
    expected[5:9, 10:14] = False
    assert np.array_equal(good, expected)
    (nothing_given,) = parameter_mask(imageset_of(), parameters("border=0"))
    assert nothing_given.all()


def test_images_keep_their_own_lookup_masks(tmp_path):
    first, second, third, fourth = (imageset_of() for _ in range(4))
    masks = np.ones((2, *SIZE), bool)
    masks[:, 1, 1] = False
    masks[0, 3, 4], masks[1, 5, 6] = False, False
    set_lookup_mask([first, fourth], [masks[0]], str(tmp_path / "a.mask"))
    set_lookup_mask([second], [masks[1]], str(tmp_path / "b.mask"))
    (good,), differ = lookup_masks([first, second])
    assert differ and np.array_equal(good, masks.any(axis=0))
    assert not lookup_masks([first, fourth])[1]
    good = good.copy()
    good[10:12] = False
    written = set_lookup_mask([first, second, third, fourth], [good], str(tmp_path / "all.mask"))
    assert np.array_equal(mask_as_numpy(written[0]), good)
    names = []
    for imageset, own in zip((first, second, third, fourth), (*masks, good, masks[0])):
        lookup = imageset.external_lookup.mask
        names.append(lookup.filename)
        ((_, (found,)),) = own_masks([imageset])
        assert np.array_equal(found, good & own)
        if lookup.filename != str(tmp_path / "all.mask"):
            (in_file,) = pickle.loads(Path(lookup.filename).read_bytes())
            assert np.array_equal(mask_as_numpy(in_file), good & own)
    assert names[0] == names[3] and len(set(names)) == 3 and names[2] == str(tmp_path / "all.mask")


def test_a_mask_file_is_read_where_the_images_are_not(tmp_path):
    imageset = imageset_of()
    imageset.external_lookup.mask.filename = str(tmp_path / "own.mask")
    with pytest.raises(ValueError, match="Can't read the lookup mask"):
        list(own_masks([imageset]))
    mask = np.ones(SIZE, bool)
    mask[3] = False
    (tmp_path / "own.mask").write_bytes(pickle.dumps((mask_as_flex(mask),)))
    assert np.array_equal(next(own_masks([imageset]))[1][0], mask)


def by_numpy(detector, beam, d_min, d_max):
    """True between two resolutions, for pixel centres"""
    panel = detector[0]
    n_fast, n_slow = panel.get_image_size()
    lab = np.array(
        [
            [panel.get_pixel_lab_coord((x + 0.5, y + 0.5)) for x in range(n_fast)]
            for y in range(n_slow)
        ]
    )
    rays = lab / np.linalg.norm(lab, axis=-1, keepdims=True)
    q = np.linalg.norm(rays - np.array(beam.get_unit_s0()), axis=-1) / beam.get_wavelength()
    return (q >= 1 / d_max) & (q <= 1 / d_min)


@pytest.mark.parametrize(
    "shape, offset", [((151, 151), 0.0), ((151, 151), 2e-4), ((150, 151), 0.0)]
)
@pytest.mark.parametrize(
    "limits, d_min, d_max",
    [("d_max=20", 0.0, 20.0), ("d_min=3", 3.0, np.inf), ("resolution_range=30,1e9", 0.0, 30.0)],
)
def test_a_beam_at_the_centre_of_a_pixel(shape, offset, limits, d_min, d_max):
    detector, beam = flat_detector(shape), BeamFactory.simple(1.0)
    beam.set_unit_s0((offset * 0.5 / 100, 0.0, -1.0))
    imageset = ImageSetFactory.make_imageset(["x.img"], check_format=False)
    imageset.set_detector(detector)
    imageset.set_beam(beam)
    params = phil_scope.fetch(parse(limits)).extract()
    (mask,) = parameter_mask(imageset, params)
    with np.errstate(divide="ignore"):
        expected = by_numpy(detector, beam, d_min or 1e-9, d_max)
    assert (mask != expected).sum() <= 1  # q = 0 itself has no resolution
    assert imageset.get_beam().get_unit_s0() == pytest.approx(beam.get_unit_s0(), abs=1e-15)


def test_ice_rings_with_the_beam_at_the_centre_of_a_pixel():
    masks = []
    for shape in ((151, 151), (150, 150)):
        imageset = ImageSetFactory.make_imageset(["x.img"], check_format=False)
        imageset.set_detector(flat_detector(shape))
        imageset.set_beam(BeamFactory.simple(1.0))
        params = phil_scope.fetch(parse("ice_rings.filter=True")).extract()
        masks.append(parameter_mask(imageset, params)[0])
    assert masks[0].mean() == pytest.approx(masks[1].mean(), abs=0.01)
