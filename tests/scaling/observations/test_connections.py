"""Voxels in common, and what they connect: small cases, and random ones against scipy's graphs"""

from __future__ import annotations

import numpy as np
import pytest
from scaling_rows import in_memory, random_rows
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dials_diffuse.scaling.observations.connections import connect
from dials_diffuse.scaling.observations.sorted_rows import SortedRows


def connected(seen: list[tuple[int, int]], excluded: list[bool]):
    """Connections of stills and voxels that are seen together"""
    still, voxel = np.array(sorted(seen), dtype=int).reshape(-1, 2).T
    rows = random_rows(len(still))
    rows["still"] = still
    return connect(in_memory(rows, voxel), np.array(excluded))


def test_two_groups_and_a_still_alone():
    seen = [(0, 10), (2, 10), (2, 11), (4, 11), (1, 20), (3, 20), (5, 30), (5, 30), (0, 12)]
    found = connected(seen, [False] * 7)
    # voxels 10, 11, 12, 20, 30
    assert found.n_obs.tolist() == [2, 2, 1, 2, 2]
    assert found.n_stills.tolist() == [2, 2, 1, 2, 1]
    assert found.shared.tolist() == [1, 1, 2, 1, 1, 0, 0]
    assert found.group.tolist() == [0, 1, 0, 1, 0, 5, 6]


def test_an_excluded_still_connects_nothing():
    seen = [(0, 10), (2, 10), (2, 11), (4, 11)]
    found = connected(seen, [False, False, True, False, False])
    assert found.n_obs.tolist() == found.n_stills.tolist() == [1, 1]
    assert found.shared.tolist() == [0] * 5
    assert found.group.tolist() == [0, 1, 2, 3, 4]


def test_a_chain_that_is_joined_from_its_end():
    chain = [(still, voxel) for still in range(50) for voxel in (-still, 1 - still)]
    found = connected([(s, v + 100) for s, v in chain], [False] * 50)
    assert (found.group == 0).all()
    assert found.shared.tolist() == [1, *[2] * 48, 1]


def test_no_observations_at_all():
    found = connected([], [False] * 3)
    assert len(found.n_obs) == 0
    assert found.shared.tolist() == [0, 0, 0] and found.group.tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counts_and_groups_are_those_of_the_graph(seed, monkeypatch):
    monkeypatch.setattr(SortedRows.chunks, "__defaults__", (37,))
    rng = np.random.default_rng(seed)
    n, n_stills = 90, 70
    seen = np.stack((rng.integers(0, n_stills, n), rng.integers(0, 60, n)), axis=1)
    excluded = rng.random(n_stills) < 0.1
    found = connected(seen.tolist(), excluded.tolist())

    voxels, index = np.unique(seen[:, 1], return_inverse=True)
    links = np.zeros((len(voxels), n_stills), dtype=int)
    np.add.at(links, (index.ravel(), seen[:, 0]), 1)
    links[:, excluded] = 0
    np.testing.assert_array_equal(found.n_obs, links.sum(axis=1))
    np.testing.assert_array_equal(found.n_stills, (links > 0).sum(axis=1))
    common = (links > 0)[(links > 0).sum(axis=1) > 1]
    np.testing.assert_array_equal(found.shared, common.sum(axis=0))
    where, of = np.nonzero(common)
    graph = coo_matrix((np.ones(len(of)), (of, n_stills + where)), (n_stills + len(common),) * 2)
    _, labels = connected_components(graph, directed=False)
    labels = labels[:n_stills]
    for still in range(n_stills):
        assert found.group[still] == np.flatnonzero(labels == labels[still])[0]
