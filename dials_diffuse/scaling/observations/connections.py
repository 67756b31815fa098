"""Number of observations and stills of each voxel, and groups of stills that common voxels connect.

Groups are found by merging sets (Tarjan 1975).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from dials_diffuse.scaling.observations.sorted_rows import SortedRows


@njit(cache=True)
def _root(parent, still):
    while parent[still] != still:
        parent[still] = parent[parent[still]]
        still = parent[still]
    return still


@njit(cache=True)
def _count(start, rows, excluded, n_obs, n_stills, parent, shared):
    """Count the observations of voxels, and join their stills; changes the last four in place."""
    for v in range(len(start) - 1):
        last = first = -1
        for k in range(start[v] - start[0], start[v + 1] - start[0]):
            s = np.int64(rows[k].still)
            if excluded[s]:
                continue
            n_obs[v] += 1
            if s == last:
                continue
            last = s
            n_stills[v] += 1
            if n_stills[v] == 1:
                first = s
                continue
            if n_stills[v] == 2:
                shared[first] += 1
            shared[s] += 1
            one, other = _root(parent, first), _root(parent, s)
            # the lower number is the root
            if one < other:
                parent[other] = one
            else:
                parent[one] = other


@dataclass
class Connections:
    """How voxels and stills are connected.

    Attributes:
        n_obs, n_stills: (V,) observations and stills of each voxel
        shared: (S,) number of voxels that each still has in common with others
        group: (S,) connected group of each still, named by the lowest number of its stills
    """

    n_obs: np.ndarray
    n_stills: np.ndarray
    shared: np.ndarray
    group: np.ndarray


def connect(rows: SortedRows, excluded: np.ndarray) -> Connections:
    """Count the observations of all stills that are not excluded (S,) bool."""
    n_obs, n_stills = (np.zeros(len(rows.voxels), dtype=np.int32) for _ in range(2))
    parent = np.arange(len(excluded), dtype=np.int64)
    shared = np.zeros(len(excluded), dtype=np.int64)
    for voxels in rows.chunks():
        start = rows.start[voxels.start : voxels.stop + 1]
        counts = n_obs[voxels], n_stills[voxels]
        _count(start, rows.rows(voxels), excluded, *counts, parent, shared)
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return Connections(n_obs, n_stills, shared, parent)
        parent = further
