"""Sharp features of the crystal stay, what does not follow h goes: images made without dials_diffuse."""

from __future__ import annotations

import numpy as np
import pytest
from planted_stills import PlantedStills, Rods, Satellites, random_orientations, salt

from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.masking.masker import RowMasker
from dials_diffuse.masking.workflow import make_masks
from dials_diffuse.phil.mask import phil_scope


def masks_of(planted: PlantedStills, folder, nproc=1):
    params = phil_scope.fetch().extract()
    params.nproc, params.dynamic.shadow = nproc, False
    params.output.mask = str(folder / "pixels.mask")
    result = make_masks(planted.write(folder).experiments, None, params)
    masker = RowMasker(result.reflections)
    groups = group_by_image(stills_of(result.experiments))
    return result, [result.good[0] & ~masker.bragg(group)[0] for group in groups]


def flat(h):
    return np.ones(h.shape[:-1])


@pytest.mark.parametrize("level", [1.0, 5.0])
@pytest.mark.parametrize("of_crystal", [Satellites(), Rods()], ids=["satellites", "rods"])
def test_features_ten_times_their_surroundings_are_right(tmp_path, of_crystal, level):
    planted = PlantedStills(of_crystal, random_orientations(16), level=level)
    result, kept = masks_of(planted, tmp_path)
    counts = pixels = expected = all_pixels = truth = 0.0
    for number, mask in enumerate(kept):
        diffuse = planted.diffuse(number)
        feature = (diffuse > 2 * level) & (planted.expected(number) < 1.02 * diffuse)
        counts += planted.image(number)[feature & mask].sum()
        pixels += (feature & mask).sum()
        expected += diffuse[feature & mask].sum()
        all_pixels += feature.sum()
        truth += diffuse[feature].sum()
    assert pixels > 0.9 * all_pixels
    assert counts / expected == pytest.approx(1, abs=0.01)
    assert counts / pixels == pytest.approx(truth / all_pixels, rel=0.03)
    total = sum(count.found for count in result.bright.values())
    assert total > 1000 and sum(count.kept for count in result.bright.values()) > 0.95 * total


@pytest.mark.parametrize("n_stills", [2, 16])
def test_salt_is_masked(tmp_path, n_stills):
    planted = PlantedStills(
        flat, random_orientations(n_stills), decorate=salt(150, 20.0), level=1.0
    )
    _, kept = masks_of(planted, tmp_path)
    salted = left = 0
    for number, mask in enumerate(kept):
        added = np.zeros(mask.shape)
        planted.decorate(added, number, None)
        salted += (added > 0).sum()
        left += ((added > 0) & mask).sum()
    assert left < 0.01 * salted


def test_salt_on_the_window_is_masked(tmp_path):
    """It is bright on all stills, at one place."""
    one = salt(100, 20.0)

    def everywhere(photons, number, rng):
        one(photons, 0, rng)

    planted = PlantedStills(flat, random_orientations(6), decorate=everywhere)
    result, kept = masks_of(planted, tmp_path)
    added = np.zeros(kept[0].shape)
    one(added, 0, None)
    assert all(((added > 0) & mask).sum() < 0.01 * (added > 0).sum() for mask in kept)


def test_the_number_of_processes_makes_no_difference(tmp_path):
    found = []
    for nproc in (1, 2):
        planted = PlantedStills(Satellites(), random_orientations(2))
        folder = tmp_path / str(nproc)
        folder.mkdir()
        result, kept = masks_of(planted, folder, nproc)
        found.append((result.features, kept))
    (one, masks), (two, others) = found
    assert np.array_equal(one.of_cell, two.of_cell) and one.of_cell.any()
    assert np.array_equal(one.voxels, two.voxels)
    assert np.array_equal(masks, others)
