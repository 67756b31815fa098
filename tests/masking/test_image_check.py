"""The check of images, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.masking.bright.rings import N_RINGS, RingCache, panel_rings
from dials_diffuse.masking.image_check import RIM, check_image, check_images, rim_and_spots
from dials_diffuse.masking.masker import RowMasker


def test_parts_and_profiles_are_those_of_the_pixels(masked):
    (still,) = stills_of(masked.experiments)[:1]
    raw = still.imageset.get_raw_data(0)[0].as_numpy_array()
    (bragg,) = RowMasker(masked.reflections).bragg([still])
    (rings,) = panel_rings(still.detector, still.beam)
    ring = rings.number
    good = masked.good[0].copy()
    good[60:80] = False
    masker = RowMasker(masked.reflections)
    check = check_image([still], [good], masker, RingCache(), pictures=False)
    trusted = good & (raw >= 0)
    assert check.path == still.path and check.pictures == {}
    assert check.untrusted == (good & (raw < 0)).sum()
    assert check.bragg == pytest.approx(bragg[trusted].mean())
    for profile, use in zip(check.profiles, (trusted, trusted & ~bragg)):
        number = np.bincount(ring[use], minlength=N_RINGS)
        total = np.bincount(ring[use], raw[use], minlength=N_RINGS)
        with np.errstate(invalid="ignore"):
            assert np.allclose(profile, total / number, equal_nan=True)


def test_spots_are_bright_without_the_mask_only(masked):
    check = masked.checks[0]
    (before,), (after,) = check.before, check.after
    assert before.number > 20 and before.brightest > 100
    assert after.number == 0
    assert check.pictures[0].startswith(b"\x89PNG")


def test_images_are_spread_and_unreadable_ones_are_named(masked, monkeypatch):
    from dials_diffuse.masking import image_check

    groups = group_by_image(stills_of(masked.experiments))
    assert [check.path for check in masked.checks] == [groups[0][0].path, groups[-1][0].path]
    assert check_images(masked, 0, pictures=False) == []
    read = image_check.read_raw

    def read_some(imageset, index):
        if imageset.get_path(index) == groups[0][0].path:
            raise ValueError("truncated")
        return read(imageset, index)

    monkeypatch.setattr(image_check, "read_raw", read_some)
    monkeypatch.setattr(masked, "failures", {groups[-1][0].path: "before"})
    checks = check_images(masked, 4, pictures=False)
    assert [check.path for check in checks] == [groups[1][0].path, groups[2][0].path]
    assert masked.failures == {groups[-1][0].path: "before", groups[0][0].path: "truncated"}


@pytest.mark.parametrize(
    "radius, least, most", [(1.5, 0.1, 0.4), (2.5, 0.02, 0.05), (5.0, 0.0, 0.002)]
)
def test_photons_outside_of_too_small_masks_are_seen(radius, least, most):
    """Normal spots of 1 pixel, on a level that changes from ring to ring, made by plain numpy."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:400, :400]
    distance = np.hypot((x % 25) - 12, (y % 25) - 12)
    ring = (np.hypot(x, y) / 10).astype(int)
    spots = 500 * np.exp(-(distance**2) / 2)
    values = rng.poisson(3 + 0.1 * ring + spots).astype(float)
    bragg, trusted = distance <= radius, rng.random(values.shape) < 0.95
    outside, under = rim_and_spots(values, trusted, bragg, ring)
    assert under == pytest.approx(spots[bragg & trusted].sum(), rel=0.01)
    # What lies further out than the rim is in the level
    assert outside / under == pytest.approx(
        spots[~bragg].sum() / spots[bragg].sum(), rel=0.1, abs=2e-3
    )
    assert least - 2e-3 <= outside / under <= most
    assert RIM == 2
