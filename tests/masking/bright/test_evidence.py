"""What is learnt from planted evidence: features that follow h, salt, and what stays in place."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, uctbx

from dials_diffuse.grid.symmetry import laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.masking.bright.evidence import Q_STEPS, Evidence, ImageEvidence, q_step
from dials_diffuse.masking.bright.features import place_codes

Q_MAX = 0.5
SEEN = 5000


@pytest.fixture
def grid():
    group = laue_group_of(sgtbx.space_group_info("P222").group())
    return VoxelGrid((8, 8, 8), uctbx.unit_cell((30, 30, 30, 90, 90, 90)), group)


def image(grid, rng, bright, place=None) -> ImageEvidence:
    """An image that sees SEEN voxels at random, of which those in `bright` are bright."""
    seen = rng.integers(-40, 41, (SEEN, 3))
    q = np.linalg.norm(grid.q_of_voxel(seen), axis=1)
    visits = np.zeros((*grid.subdivide, Q_STEPS), np.int32)
    np.add.at(visits, (*(seen % 8).T, q_step(q, Q_MAX)), 1)
    rows = bright(seen)
    if place is None:
        place = np.column_stack([np.zeros(SEEN), *rng.integers(0, 1000, (2, SEEN))]).astype(int)
    return ImageEvidence(visits, seen[rows].astype(np.int32), q[rows], place[rows], 1_000_000)


def learnt(grid, images):
    evidence = Evidence(grid, Q_MAX)
    for part in images:
        evidence.add(part)
    return evidence.learn()


def test_what_is_bright_at_all_nodes_is_the_crystals(grid):
    rng = np.random.default_rng(2)

    def bright(seen):
        at_nodes = np.abs((seen + 4) % 8 - 4) == (3, 2, 1)
        return at_nodes.all(axis=1) | (rng.random(SEEN) < 0.01)

    features = learnt(grid, [image(grid, rng, bright) for _ in range(4)])
    wanted = np.zeros(grid.subdivide, bool)
    for signs in np.ndindex(2, 2, 2):
        wanted[tuple(np.where(signs, (3, 2, 1), (-3, -2, -1)) % 8)] = True
    assert np.array_equal(features.of_cell, wanted)
    assert features.images == 4


def test_salt_is_not(grid):
    rng = np.random.default_rng(3)
    images = [image(grid, rng, lambda seen: rng.random(SEEN) < 0.02) for _ in range(30)]
    features = learnt(grid, images)
    assert not features.of_cell.any() and len(features.places) == 0
    other = grid.to_asu(images[0].voxel)
    assert features.follows(other).mean() < 0.03


def test_rings_of_ice_are_not(grid):
    rng = np.random.default_rng(4)

    def ice(seen):
        q = np.linalg.norm(grid.q_of_voxel(seen), axis=1)
        return (np.abs(q - 0.2) < 0.004) & (rng.random(SEEN) < 0.5)

    features = learnt(grid, [image(grid, rng, ice) for _ in range(20)])
    assert features.of_cell.mean() < 0.01


def test_what_has_no_period_is_known_by_its_h(grid):
    rng = np.random.default_rng(5)
    chosen = grid.to_asu(np.random.default_rng(1).integers(-40, 41, (300, 3)))

    def bright(seen):
        keys = {tuple(v) for v in chosen.tolist()}
        return np.array([tuple(v) in keys for v in grid.to_asu(seen).tolist()])

    images = [image(grid, rng, bright) for _ in range(60)]
    features = learnt(grid, images)
    assert features.follows(chosen).mean() > 0.6
    other = rng.integers(-40, 41, (5000, 3))
    assert features.follows(other[~bright(other)]).mean() < 0.01
    # At the same place of the detector it might as well be salt
    place = np.tile([[0, 300, 400]], (SEEN, 1))
    features = learnt(grid, [image(grid, rng, bright, place) for _ in range(60)])
    assert len(features.voxels) == 0


def test_what_stays_in_place_while_h_moves_is_not_the_crystals(grid):
    rng = np.random.default_rng(6)
    place = np.column_stack([np.zeros(SEEN), *rng.integers(0, 1000, (2, SEEN))]).astype(int)
    place[:20] = np.column_stack([np.zeros(20), np.arange(20) * 40 + 3, np.full(20, 500)])
    first = np.arange(SEEN) < 20
    features = learnt(grid, [image(grid, rng, lambda seen: first, place) for _ in range(10)])
    assert features.places.tolist() == sorted(place_codes(0, place[:20, 1], place[:20, 2]))


def test_nothing_is_learnt_from_nothing(grid):
    features = learnt(grid, [])
    assert features.images == 0 and not features.follows(np.zeros((2, 3), int)).any()
