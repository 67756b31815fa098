"""The factors and offsets of all stills as look-up tables: what the scaling model expects of an observation.

An observation k of still i in voxel v is expected to have E (g I_v + h) net photons, with its exposure E,
g = a d b_i and h = a d c_i(|q|).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dials_diffuse.model.components import N_AZIMUTHAL, N_RADIAL

# The last radial bin belongs to Bragg reflections, which have no offset
NO_OFFSET = N_RADIAL


class ScaleTables(NamedTuple):
    """Values of the model's components, or derivatives by them.

    Attributes:
        b: (S,) scale of each still
        c: (S, N_RADIAL + 1) offset by radial bin, photons/(s sr)
        d: (P,) factor of each panel
        a: (steps, N_AZIMUTHAL^2) factor by direction of s1; one step unless a is a function of p_order
        step: (S,) int64, row of `a` of each still
    """

    b: np.ndarray
    c: np.ndarray
    d: np.ndarray
    a: np.ndarray
    step: np.ndarray

    def zeros(self) -> ScaleTables:
        """Zeros in the shape of the tables, for derivatives."""
        arrays = (np.zeros_like(table) for table in self[:4])
        return ScaleTables(*arrays, self.step)

    @property
    def size(self) -> int:
        """Numbers in all tables"""
        return sum(table.size for table in self[:4])

    @classmethod
    def without_model(cls, n_stills: int, n_panels: int) -> ScaleTables:
        """Tables of a model that expects the same of all stills: b, d and a are 1, c is 0."""
        return cls(
            np.ones(n_stills),
            np.zeros((n_stills, N_RADIAL + 1)),
            np.ones(n_panels),
            np.ones((1, N_AZIMUTHAL**2)),
            np.zeros(n_stills, dtype=np.int64),
        )

    @classmethod
    def of_models(cls, models: list, n_panels: int) -> ScaleTables:
        """Tables of the scaling models of all stills, whose panel factors are the same."""
        tables = cls.without_model(len(models), n_panels)
        first = models[0].components
        tables.b[:] = [m.components["scale"].parameters[0] for m in models]
        if "offset" in first:
            parameters = np.array([m.components["offset"].values() for m in models])
            tables.c[:, :N_RADIAL] = parameters @ first["offset"].table_weights().T
        if "panel" in first:
            tables.d[:] = first["panel"].values()
        if "sensitivity" in first:
            weights = first["sensitivity"].table_weights()
            per_still = [m.components["sensitivity"] for m in models]
            different = {id(component): component for component in per_still}
            number = {key: step for step, key in enumerate(different)}
            a = np.array([weights @ component.values() for component in different.values()])
            step = np.array([number[id(component)] for component in per_still], dtype=np.int64)
            tables = tables._replace(a=a, step=step)
        return tables

    def factors(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inverse scale factor g and offset h (photons/(s sr)) of rows (N,) of ROW, (N,) each."""
        g, h = np.empty(len(rows)), np.empty(len(rows))
        _factors(rows, self, g, h)
        return g, h


@njit(cache=True)
def detector_factor(row, tables):
    """a d of an observation"""
    return tables.a[tables.step[row.still], row.direction] * tables.d[row.panel]


@njit(cache=True, nogil=True)
def _factors(rows, tables, g, h):
    for k in range(len(rows)):
        row = rows[k]
        detector = detector_factor(row, tables)
        g[k] = detector * tables.b[row.still]
        h[k] = detector * tables.c[row.still, row.radial]
