"""Random fits with few parameters, and the same in dense matrices of numpy"""

from __future__ import annotations

import dataclasses

import numpy as np
from scaling_rows import random_rows

from dials_diffuse.scaling.expectation.tables import ScaleTables
from dials_diffuse.scaling.refinement.kernels import FitData
from dials_diffuse.scaling.refinement.parameters import Parameters, Part, Quadratic

N_STILLS, N_PANELS, N_RADIAL, N_STEPS = 5, 3, 6, 4
NAMES = ("scale", "offset", "panel", "sensitivity")


def random_data(n=600, n_voxels=40, n_directions=9, seed=0) -> FitData:
    """Observations with random weights; the last radial bin is that without offset"""
    rng = np.random.default_rng(seed)
    rows = random_rows(n, N_STILLS, seed, direction=n_directions, panel=N_PANELS)
    # few stills in each voxel, and some voxels with one or none
    voxel = rng.integers(0, n_voxels - 3, n)
    voxel[rows["still"] > voxel % N_STILLS] = n_voxels - 1
    voxel[0] = n_voxels - 2
    order = np.lexsort((rows["still"], voxel))
    rows, voxel = rows[order], voxel[order]
    rows["radial"] = voxel % (N_RADIAL + 1)
    weight = rng.uniform(0.02, 0.2, n)
    weight[rng.random(n) < 0.1] = 0
    return FitData(
        start=np.searchsorted(voxel, np.arange(n_voxels + 1)),
        rows=rows,
        weight=weight,
        prior=rng.uniform(5, 15, n_voxels),
        precision=rng.uniform(0.01, 0.1, n_voxels),
        relative_error=rng.uniform(0, 0.2, n_voxels),
        importance=rng.uniform(0.5, 2, n_voxels),
    )


def random_prior(rng, shape, dense=False) -> Quadratic:
    """A prior of X, for each row or over all of it"""
    n_rows, n = (1, shape[0] * shape[1]) if dense else shape
    roots = rng.normal(size=(n_rows, n, n))
    precision = roots @ np.swapaxes(roots, 1, 2) + np.eye(n)
    return Quadratic(rng.uniform(0.5, 1.5, shape), precision[0] if dense else precision)


def random_parameters(names=NAMES, series=(), n_directions=9, seed=1) -> Parameters:
    """Random values of these components; those of `series` are functions of p_order"""
    rng = np.random.default_rng(seed)
    step = np.array([0, 2, 1, 3, 2]) if "sensitivity" in series else np.zeros(N_STILLS, dtype=int)
    n_steps = N_STEPS if "sensitivity" in series else 1
    start = ScaleTables(
        rng.uniform(0.5, 1.5, N_STILLS),
        np.hstack((rng.uniform(0, 3, (N_STILLS, N_RADIAL)), np.zeros((N_STILLS, 1)))),
        rng.uniform(0.8, 1.2, N_PANELS),
        rng.uniform(0.8, 1.2, (n_steps, n_directions)),
        step,
    )
    # rows of X without a series, rows and columns of the table, columns of X
    sizes = {
        "scale": (N_STILLS, N_STILLS, 1, 1),
        "offset": (N_STILLS, N_STILLS, N_RADIAL, 4),
        "panel": (1, 1, N_PANELS, N_PANELS),
        "sensitivity": (1, n_steps, n_directions, 5),
    }
    parts = []
    for name in names:
        n_along, n_rows, n_columns, n_across = sizes[name]
        along = across = None
        if name in series:
            n_along, along = 3, random_weights(rng, n_rows, 3)
        if name in ("offset", "sensitivity"):
            across = random_weights(rng, n_columns, n_across)
        shape = (n_along, n_across)
        prior = random_prior(rng, shape, dense=name in ("panel", "sensitivity", *series))
        parts.append(Part(name, rng.uniform(0.7, 1.3, shape), along, across, prior))
    return Parameters(parts, start)


def random_weights(rng, n_rows, n):
    """Weights of a smoother, whose sum is 1"""
    weights = rng.uniform(0, 1, (n_rows, n))
    return weights / weights.sum(axis=1)[:, None]


@dataclasses.dataclass
class DenseFit:
    """Expectations of observations and their derivatives, as plain arrays.

    Attributes:
        voxel: (N,) of each observation
        g, h: (N,) expected photons = g I + h
        best, drawn: (V,) intensities
        information: (V,)
        jacobian: name -> (N, n) derivatives by the parameters of a component, at drawn intensities
    """

    voxel: np.ndarray
    g: np.ndarray
    h: np.ndarray
    best: np.ndarray
    drawn: np.ndarray
    information: np.ndarray
    jacobian: dict[str, np.ndarray]


def dense_fit(data: FitData, parameters: Parameters) -> DenseFit:
    """The fit at the present parameters."""
    rows, n = data.rows, len(data.rows)
    start = parameters._start
    still, step = rows["still"].astype(int), start.step[rows["still"].astype(int)]
    none = np.zeros(n, dtype=int)
    places = {
        "scale": (still, none, start.b[:, None]),
        "offset": (still, rows["radial"], start.c),
        "panel": (none, rows["panel"], start.d[None]),
        "sensitivity": (step, rows["direction"], start.a),
    }
    values, weights = {}, {}
    for name, (row, column, table) in places.items():
        values[name] = table[row, column]
        part = parameters.parts.get(name)
        if part is not None:
            along = np.eye(len(part.values)) if part.along is None else part.along
            across = np.eye(part.values.shape[1]) if part.across is None else part.across
            if name == "offset":
                across = np.vstack((across, 0 * across[:1]))
            both = along[row][:, :, None] * across[column][:, None, :]
            weights[name] = both.reshape(n, -1)
            values[name] = weights[name] @ part.values.ravel()
    b, c, d, a = (values[name] for name in NAMES)
    e, w = rows["exposure"].astype(float), data.weight
    g, h = e * a * d * b, e * a * d * c
    voxel = np.repeat(np.arange(len(data.prior)), np.diff(data.start))
    num, information = (
        np.bincount(voxel, values, len(data.prior))
        for values in (w * g * (rows["net"] - h), w * g * g)
    )
    best = np.divide(num, information, out=np.zeros_like(num), where=information > 0)
    total = information + data.precision
    drawn = (num + data.precision * data.prior) / np.where(total > 0, total, 1)
    drawn[total == 0] = data.prior[total == 0]
    signal = b * drawn[voxel] + c
    factors = {
        "scale": e * a * d * drawn[voxel],
        "offset": e * a * d,
        "panel": e * a * signal,
        "sensitivity": e * d * signal,
    }
    jacobian = {name: factors[name][:, None] * weights[name] for name in parameters.parts}
    return DenseFit(voxel, g, h, best, drawn, information, jacobian)


def projected_normal(jacobian, data: FitData, fit: DenseFit, chosen=slice(None)) -> np.ndarray:
    """(n, n): normal matrix of chosen observations, without what lies along the intensities of all."""
    w = np.zeros(len(data.weight))
    w[chosen] = data.weight[chosen]
    out = jacobian.T @ (w[:, None] * jacobian)
    between = np.zeros((len(fit.best), jacobian.shape[1]))
    np.add.at(between, fit.voxel, (w * fit.g)[:, None] * jacobian)
    known = fit.information > 0
    return out - between[known].T @ (between[known] / fit.information[known, None])


def dense_prior(parameters: Parameters) -> np.ndarray:
    """(n, n): precision of all priors"""
    out, first = np.zeros((parameters.n, parameters.n)), 0
    for part in parameters.parts.values():
        precision = part.prior.precision
        for block in precision if precision.ndim == 3 else precision[None]:
            last = first + len(block)
            out[first:last, first:last] = block
            first = last
    return out
