"""What is known of the crystal's features, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from planted_stills import PlantedStills, random_orientations

from cctbx import sgtbx
from dxtbx.model import Experiment

from dials_diffuse.adapters.stills import Still
from dials_diffuse.masking.bright.features import (
    CrystalFeatures,
    RegionCounts,
    contains,
    feature_grid,
    locate,
    place_codes,
)


@pytest.fixture
def stills():
    planted = PlantedStills(np.ones_like, random_orientations(2), size=(120, 90))
    detector, beam = planted.models()
    return planted, [
        Still(i, Experiment(beam=beam, detector=detector, crystal=planted.crystal(i)))
        for i in range(2)
    ]


def test_voxels_are_those_of_h(stills):
    planted, (_, still) = stills
    y, x = np.mgrid[:90, :120] + 0.5
    located = locate(still, 0, x.ravel(), y.ravel(), (5, 6, 7))
    h = planted.h(1).reshape(-1, 3)
    assert np.array_equal(located.voxel, np.floor(h * (5, 6, 7) + 0.5))
    q = np.linalg.norm(h / np.array(planted.cell), axis=1)
    assert np.allclose(located.q, q)
    delta = np.abs(h - np.rint(h))
    turned = np.linalg.norm(delta / np.array(planted.cell), axis=1) / q
    expected = (delta * (5, 6, 7) > 1.5).any(axis=1) & (turned > 0.01)
    assert np.array_equal(located.far, expected) and 0.1 < expected.mean() < 0.99


def test_the_grid_obeys_the_symmetry(stills):
    planted, (still, _) = stills
    # 3 pixels are 3 * 0.15 / 120 / A; nodes 1/20, 1/24 and 1/30 A apart
    assert feature_grid(still).subdivide == (13, 11, 9)
    # Axes that symmetry relates, of slightly different lengths
    still.experiment.crystal.set_space_group(sgtbx.space_group_info("P4").group())
    assert feature_grid(still).subdivide == (9, 9, 9)


def test_numbers_are_looked_up():
    values = np.array([2, 5, 9])
    assert contains(values, np.array([1, 2, 5, 6, 9, 10])).tolist() == [0, 1, 1, 0, 1, 0]
    assert not contains(values[:0], values).any()


def test_places_are_squares():
    codes = place_codes(1, [0, 7, 8, 7], [0, 7, 7, 8])
    assert codes[0] == codes[1] and len(set(codes)) == 3
    assert place_codes(0, [0], [0])[0] != codes[0]


def test_regions_are_kept_by_most_of_their_groups(stills):
    _, (still, other) = stills
    grid = feature_grid(still)
    # A region of six groups far from nodes, one next to a node
    y, x = np.mgrid[:90, :120]
    located = locate(still, 0, x.ravel() + 0.5, y.ravel() + 0.5, grid.subdivide)
    far, near = np.flatnonzero(located.far)[::50][:6], np.flatnonzero(~located.far)[:4]
    rows = np.concatenate([far, near])
    region = np.repeat([0, 1], [6, 4])
    groups = np.column_stack([region, x.ravel()[rows], y.ravel()[rows]])
    n = np.array(grid.subdivide)
    empty = np.zeros(0, np.int64)
    for known, expected in ((2, False), (3, True)):
        table = np.zeros(grid.subdivide, bool)
        table[tuple((located.voxel[far[:known]] % n).T)] = True
        features = CrystalFeatures(grid, table, empty, empty, 9)
        if features.follows(located.voxel[far]).sum() != known:
            pytest.skip("two groups share a voxel")
        kept, unknown = features.judge([still], 0, groups, 2)
        assert kept.tolist() == [expected, False] and unknown.tolist() == [False, True]
    # By any lattice, unless the place is bright whatever it sees
    assert features.judge([other, still], 0, groups, 2)[0][0]
    bound = np.unique(place_codes(0, groups[:, 1], groups[:, 2]))
    features = CrystalFeatures(grid, table, empty, bound, 9)
    assert not features.judge([still], 0, groups, 2)[0].any()


def test_counts_add_up():
    assert RegionCounts(5, 2, 1) + RegionCounts(1, 1, 0) == RegionCounts(6, 3, 1)
