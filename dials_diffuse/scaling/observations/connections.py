"""Number of observations and stills of each voxel, and groups of stills that common voxels connect.

Groups are found by merging sets (Tarjan 1975), so that only the first still of each voxel has to be
stored while files are read one after the other.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def _root(parent, still):
    while parent[still] != still:
        parent[still] = parent[parent[still]]
        still = parent[still]
    return still


@njit(cache=True)
def _add(index, still, n_obs, n_stills, first, last, parent, shared):
    """Add observations, sorted by still, to all arrays in place; last (V,): workspace, -1 at first."""
    for k in range(len(index)):
        v, s = index[k], still[k]
        n_obs[v] += 1
        if last[v] == s:
            continue
        last[v] = s
        n_stills[v] += 1
        if n_stills[v] == 1:
            first[v] = s
            continue
        if n_stills[v] == 2:
            shared[first[v]] += 1
        shared[s] += 1
        one, other = _root(parent, first[v]), _root(parent, s)
        # the lower number is the root
        if one < other:
            parent[other] = one
        else:
            parent[one] = other


class Connections:
    """Counts by voxel and connected groups of the stills that were added so far.

    Attributes:
        voxels: (V,) packed, sorted
        n_obs, n_stills: (V,) observations and stills of each voxel
        shared: (S,) number of voxels that each still has in common with others
    """

    def __init__(self):
        self.voxels, self.n_obs, self.n_stills = (np.empty(0, dtype=np.int64) for _ in range(3))
        self._first = np.empty(0, dtype=np.int32)
        self._parent = np.empty(0, dtype=np.int32)
        self.shared = np.empty(0, dtype=np.int64)

    def add(self, voxel: np.ndarray, still: np.ndarray, n_stills: int) -> None:
        """Add the observations of new stills.

        Args:
            voxel: (N,) packed
            still: (N,) int32
            n_stills: number of stills so far, the new ones included
        """
        new_stills = np.arange(len(self._parent), n_stills, dtype=np.int32)
        self._parent = np.append(self._parent, new_stills)
        self.shared = np.append(self.shared, np.zeros(len(new_stills), dtype=np.int64))
        if np.any(still[1:] < still[:-1]):
            order = np.argsort(still, kind="stable")
            voxel, still = voxel[order], still[order]
        new_voxels, index = np.unique(voxel, return_inverse=True)
        union = np.union1d(self.voxels, new_voxels)
        old = np.searchsorted(union, self.voxels)
        index = np.searchsorted(union, new_voxels)[index.ravel()]

        def at_union(values: np.ndarray) -> np.ndarray:
            out = np.zeros(len(union), dtype=values.dtype)
            out[old] = values
            return out

        self.voxels = union
        self.n_obs, self.n_stills = at_union(self.n_obs), at_union(self.n_stills)
        self._first = at_union(self._first)
        last = np.full(len(union), -1, dtype=np.int32)
        _add(index, still, self.n_obs, self.n_stills, self._first, last, self._parent, self.shared)

    def groups(self) -> np.ndarray:
        """(S,) group of each still, named by the lowest number of its stills."""
        group = self._parent.copy()
        while True:
            further = group[group]
            if np.array_equal(further, group):
                return group
            group = further
