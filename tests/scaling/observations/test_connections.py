"""Voxels in common, and what they connect, against counting and scipy's graphs"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dials_diffuse.scaling.observations.connections import Connections


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_counts_and_groups_are_those_of_the_graph(seed):
    rng = np.random.default_rng(seed)
    n_files, n_stills = 6, 12
    # few voxels a still, so that there are several groups, and some stills without any
    found, voxels, stills = Connections(), [], []
    for number in range(n_files):
        still = rng.integers(0, n_stills - 1, size=14) + number * n_stills
        if number != 2:
            still.sort()
        voxel = rng.integers(-2000, 2000, size=14) // 17 * (1 << 21)
        found.add(voxel, still.astype(np.int32), (number + 1) * n_stills)
        voxels.append(voxel)
        stills.append(still)
    voxel, still = np.concatenate(voxels), np.concatenate(stills)
    n = n_files * n_stills

    names, index, n_obs = np.unique(voxel, return_inverse=True, return_counts=True)
    links = np.zeros((len(names), n), dtype=int)
    links[index, still] = 1
    np.testing.assert_array_equal(found.voxels, names)
    np.testing.assert_array_equal(found.n_obs, n_obs)
    np.testing.assert_array_equal(found.n_stills, links.sum(axis=1))
    common = links[links.sum(axis=1) > 1]
    np.testing.assert_array_equal(found.shared, common.sum(axis=0))
    where, of = np.nonzero(common)
    graph = coo_matrix((np.ones(len(of)), (of, n + where)), (n + len(common),) * 2)
    _, labels = connected_components(graph, directed=False)
    groups = found.groups()
    assert 1 < len(np.unique(groups)) < n
    np.testing.assert_array_equal(groups[:, None] == groups, labels[:n, None] == labels[:n])


def test_no_observations_at_all():
    found = Connections()
    found.add(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32), 3)
    assert len(found.voxels) == 0
    np.testing.assert_array_equal(found.shared, [0, 0, 0])
    np.testing.assert_array_equal(found.groups(), [0, 1, 2])
