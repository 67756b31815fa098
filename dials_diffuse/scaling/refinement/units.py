"""Units of the free parameters, which precondition the minimisation.

In these units the functional is about equally curved in all directions: b and c for intensities that
follow them, d and a for fixed intensities. Of two components that nearly replace each other, one
follows the other.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from dials_diffuse.adapters.system import map_in_threads
from dials_diffuse.model.components import whitening
from dials_diffuse.model.series import OffsetOfStill, ProductWeights
from dials_diffuse.scaling.expectation.kernels import ModelTables, curvatures
from dials_diffuse.scaling.refinement.restraints import Restraints
from dials_diffuse.scaling.refinement.scaler import DiffuseScaler


def table_curvatures(
    scaler: DiffuseScaler, reference: np.ndarray
) -> tuple[ModelTables, np.ndarray]:
    """Curvatures of the functional, halved, by the tables.

    Args:
        reference: (V,) intensities

    Returns:
        (curvatures by the entries of each table, those between b and c of the same still)
    """

    def add_up(chunk: slice) -> tuple[np.ndarray, ...]:
        diagonal = scaler.empty_tables()
        cross = np.zeros_like(diagonal.c)
        data = scaler.data.of_voxels(chunk)
        curvatures(data, scaler.tables, reference[chunk], diagonal, cross)
        return (*diagonal, cross)

    per_chunk = map_in_threads(add_up, scaler.chunks(), scaler.n_threads)
    *diagonal, cross = (sum(tables) for tables in zip(*per_chunk))
    return ModelTables(*diagonal), cross


def still_normal_matrices(
    scaler: DiffuseScaler, restraints: Restraints, reference: np.ndarray
) -> np.ndarray:
    """(S, 1 + n, 1 + n): normal matrices of b and the n parameters of c of each still.

    The intensities follow; the other stills and the detector are fixed (with many stills, these are
    known much better).
    """
    diagonal, cross = table_curvatures(scaler, reference)
    return _still_normal_matrices(scaler, restraints.terms(scaler), diagonal, cross)


def _still_normal_matrices(scaler, terms, diagonal: ModelTables, cross: np.ndarray) -> np.ndarray:
    weights = scaler.radial_weights
    n = weights.shape[1]
    matrix = np.zeros((len(diagonal.b), 1 + n, 1 + n))
    matrix[:, 0, 0] = diagonal.b
    if n:
        matrix[:, 0, 1:] = matrix[:, 1:, 0] = cross @ weights
        matrix[:, 1:, 1:] = np.einsum("sr,rp,rq->spq", diagonal.c, weights, weights, optimize=True)
    for name, (_, jacobian) in terms.items():
        if name == "scale" and scaler.series is None:
            matrix[:, 0, 0] += jacobian[:, 0, 0] ** 2
        elif name == "offset" and scaler.offset_series is None:
            matrix[:, 1:, 1:] += np.einsum("skp,skq->spq", jacobian, jacobian)
    return matrix


def set_units(
    scaler: DiffuseScaler, reference: np.ndarray, restraints: Restraints, names: list[str]
) -> None:
    """Set the units of all components, and which component follows which.

    Args:
        scaler: its components are changed in place
        reference: (V,) intensities
        names: components that will be refined
    """
    diagonal, cross_tables = table_curvatures(scaler, reference)
    terms = restraints.terms(scaler)
    normal = _still_normal_matrices(scaler, terms, diagonal, cross_tables)
    curvature_b = normal[:, 0, 0]
    both = "scale" in names and "offset" in names
    if scaler.offset_series is not None:
        normal_c = _set_units_of_offset_series(scaler, terms, both, normal)
    elif "offset" in terms:
        slopes = _set_units_of_offsets(scaler, both and scaler.series is None, normal)
        if both:
            curvature_b = curvature_b + np.einsum("sp,sp->s", normal[:, 1:, 0], slopes)
    if scaler.series is None:
        scaler.scale_units = 1.0 / np.sqrt(curvature_b)
        for model, unit in zip(scaler.models, scaler.scale_units):
            model.components["scale"].set_unit(float(unit), 1.0 / float(unit))
    else:
        weights, jacobian = scaler.series_weights, terms["scale"][1]
        normal_b = weights.T @ (curvature_b[:, None] * weights) + jacobian.T @ jacobian
        if scaler.offset_series is not None:
            normal_b = normal_b + _let_offset_series_follow(
                scaler, both, normal[:, 1:, 0], normal_c
            )
        scaler.series.set_unit(*whitening(normal_b))
    _set_units_of_detector(scaler, terms, names, reference, diagonal)


def _set_units_of_offsets(scaler: DiffuseScaler, follow: bool, normal: np.ndarray) -> np.ndarray:
    """Set the units of c of each still, which may follow its b.

    Args:
        follow: whether they do
        normal: (S, 1 + n, 1 + n) as still_normal_matrices gives them

    Returns:
        (S, n) derivatives of c along the valley in which b and c replace each other
    """
    units, inverses = whitening(normal[:, 1:, 1:])
    slopes = -np.einsum("spq,srq,sr->sp", units, units, normal[:, 1:, 0], optimize=True)
    scaler.offset_units = units
    scaler.slopes = slopes if follow else np.zeros_like(slopes)
    for model, unit, inverse, slope in zip(scaler.models, units, inverses, slopes):
        offset = model.components["offset"]
        offset.set_unit(unit, inverse)
        offset.follow(model.components["scale"] if follow else None, slope[:, None])
    return slopes


def _set_units_of_offset_series(
    scaler: DiffuseScaler, terms, both: bool, normal: np.ndarray
) -> np.ndarray:
    """Set the units of c(|q|, p_order); the own b of each still follows it, where both are refined.

    Args:
        normal: (S, 1 + n, 1 + n) as still_normal_matrices gives them

    Returns:
        the normal matrix of the parameters of the series
    """
    series = scaler.offset_series
    curvature_b, cross, normal_c = normal[:, 0, 0], normal[:, 1:, 0], normal[:, 1:, 1:]
    follow = scaler.series is None and both
    scaler.slopes = np.zeros_like(cross)
    if follow:
        scaler.slopes = -cross / curvature_b[:, None]
        normal_c = normal_c + cross[:, :, None] * scaler.slopes[:, None, :]
    if scaler.series is None:
        for still, model in enumerate(scaler.models):
            leader = OffsetOfStill(series, still) if follow else None
            model.components["scale"].follow(leader, scaler.slopes[still][None])
    jacobian = terms["offset"][1]
    normal_series = series.normal(normal_c) + jacobian.T @ jacobian
    series.set_unit(*whitening(normal_series))
    return normal_series


def _let_offset_series_follow(
    scaler: DiffuseScaler, both: bool, cross: np.ndarray, normal_c: np.ndarray
) -> np.ndarray | float:
    """Let c(|q|, p_order) follow b(p_order) if both are refined.

    Returns:
        what to add to the normal matrix of b
    """
    series = scaler.offset_series
    series.follow(None)
    if not both:
        return 0.0
    cross_series = np.einsum(
        "si,sq,sb->iqb", series.weights, cross, scaler.series_weights, optimize=True
    ).reshape(series.n_params, -1)
    slope = -np.linalg.solve(normal_c, cross_series)
    series.follow(scaler.series, slope)
    return cross_series.T @ slope


def _set_units_of_detector(
    scaler: DiffuseScaler, terms, names: list[str], reference: np.ndarray, diagonal: ModelTables
) -> None:
    """Set the units of d and a; a follows d, since each can replace what is smooth in the other."""
    if "panel" in terms:
        jacobian = terms["panel"][1]
        normal_d = np.diag(diagonal.d) + jacobian.T @ jacobian
    if "sensitivity" in terms:
        jacobian = terms["sensitivity"][1]
        weights = scaler.direction_weights
        product = isinstance(weights, ProductWeights)
        if product:
            normal_a = weights.normal(diagonal.a) + jacobian.T @ jacobian
        else:
            normal_a = weights.T @ (diagonal.a[:, None] * weights) + jacobian.T @ jacobian
        sensitivity = scaler.shared["sensitivity"]
        sensitivity.set_unit(*whitening(normal_a))
        sensitivity.follow(None)
        if "panel" in names and "sensitivity" in names:
            cross = _panels_and_directions(scaler, reference)
            cross = weights.sparse_product(cross) if product else cross @ weights
            slope = -np.linalg.solve(normal_a, cross.T)
            sensitivity.follow(scaler.shared["panel"], slope)
            normal_d = normal_d + cross @ slope
    if "panel" in terms:
        scaler.shared["panel"].set_unit(*whitening(normal_d))


def _panels_and_directions(scaler: DiffuseScaler, reference: np.ndarray) -> sparse.csr_matrix:
    """(P, directions): elements of the Gauss-Newton matrix, halved, between the tables d and a.

    Args:
        reference: (V,) fixed intensities
    """
    data, tables = scaler.data, scaler.tables
    intensity = np.repeat(reference, np.diff(data.start))
    signal = tables.b[data.still] * intensity + tables.c[data.still, data.radial]
    values = data.weight * (data.exposure * signal) ** 2
    values *= tables.d[data.panel] * tables.a[data.direction]
    where = (data.panel.astype(np.int32), data.direction.astype(np.int32))
    return sparse.coo_matrix((values, where), (len(tables.d), len(tables.a))).tocsr()
