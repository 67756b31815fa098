"""Nodes of a reciprocal lattice near the Ewald sphere, and their sections with it.

A node is a normal distribution with covariance C(r) about r (see spots.shape). Near the spot the
Ewald sphere is a plane, r - excitation * n + u with n = s1/|s1| and u across n. On it the distance
from the node in standard deviations, squared, is

    m(u) = m0 + (u - u0)' K^-1 (u - u0),  m0 = excitation^2 / (n' C n),
    K = C - C n n' C / (n' C n),  with its minimum at r + x0, x0 = -excitation C n / (n' C n)

(the conditional distribution of a normal one). Points with m <= k^2 are an ellipse around r + x0
with covariance K and size sqrt(k^2 - m0); a node with m0 > k^2 does not reach the sphere.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from dials_diffuse.grid.symmetry import centring_vectors
from dials_diffuse.masking.spots.shape import SpotShape


class Sections(NamedTuple):
    """Sections of N nodes with the Ewald sphere.

    Attributes:
        hkl: (N, 3) int32 Miller indices
        centre: (N, 3) r + x0, 1/Angstrom
        spread: (N, 6) K: xx, xy, xz, yy, yz, zz, 1/Angstrom^2
        level: (N,) k^2 - m0
        excitation: (N,) |s0 + r| - |s0|, 1/Angstrom, where the path of a moving node is nearest to the sphere
    """

    hkl: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    level: np.ndarray
    excitation: np.ndarray


@numba.njit(cache=True)
def _interval(cc, vc, vv, radius_squared):
    """l with |v + l c|^2 <= radius^2, as (first, last); first > last when there is none."""
    disc = vc * vc - cc * (vv - radius_squared)
    if disc < 0.0:
        return 1.0, -1.0
    root = np.sqrt(disc)
    return (-vc - root) / cc, (-vc + root) / cc


@numba.njit(cache=True)
def _is_absent(h, k, l, vectors, denominator):
    """Whether lattice centring extinguishes a node; see centring_vectors."""
    for t in range(vectors.shape[0]):
        if (h * vectors[t, 0] + k * vectors[t, 1] + l * vectors[t, 2]) % denominator != 0:
            return True
    return False


@numba.njit(cache=True)
def _near_nodes(setting, s0, q_max, limits, reach, vectors, denominator):
    """Miller indices of the nodes with |r| <= q_max within reach of the Ewald sphere, (N, 3) int32.

    Along each line of nodes (h, k, all l) they are those within a ball of radius |s0| + reach and
    outside of one of |s0| - reach: two intervals of l at most.
    """
    hkl = np.empty((4096, 3), np.int32)
    n = 0
    radius = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    cx, cy, cz = setting[0, 2], setting[1, 2], setting[2, 2]
    cc = cx * cx + cy * cy + cz * cz
    outer = (radius + reach) ** 2
    inner = max(radius - reach, 0.0) ** 2
    for h in range(-limits[0], limits[0] + 1):
        for k in range(-limits[1], limits[1] + 1):
            gx = h * setting[0, 0] + k * setting[0, 1]
            gy = h * setting[1, 0] + k * setting[1, 1]
            gz = h * setting[2, 0] + k * setting[2, 1]
            gc, gg = gx * cx + gy * cy + gz * cz, gx * gx + gy * gy + gz * gz
            low, high = _interval(cc, gc, gg, q_max * q_max)
            vx, vy, vz = gx + s0[0], gy + s0[1], gz + s0[2]
            vc, vv = vx * cx + vy * cy + vz * cz, vx * vx + vy * vy + vz * vz
            first, last = _interval(cc, vc, vv, outer)
            if low > high or first > last:
                continue
            first, last = int(np.ceil(max(first, low))), int(np.floor(min(last, high)))
            hole_first, hole_last = _interval(cc, vc, vv, inner)
            l = first
            while l <= last:
                if hole_first < l < hole_last:
                    l = int(np.ceil(hole_last))
                    hole_last = hole_first
                    continue
                if not (h == 0 and k == 0 and l == 0) and not _is_absent(
                    h, k, l, vectors, denominator
                ):
                    if n == hkl.shape[0]:
                        hkl = np.concatenate((hkl, np.empty_like(hkl)))
                    hkl[n, 0], hkl[n, 1], hkl[n, 2] = h, k, l
                    n += 1
                l += 1
    return hkl[:n]


@numba.njit(cache=True)
def _fill_covariance(c, r, r2, s0, constant, across, along):
    """Fill c (3, 3) with the covariance C(r) of a node r, |r|^2 = r2; see SpotShape."""
    r_length = np.sqrt(r2)
    rx, ry, rz = r
    f1, f2, f3 = ry * s0[2] - rz * s0[1], rz * s0[0] - rx * s0[2], rx * s0[1] - ry * s0[0]
    length = np.sqrt(f1**2 + f2**2 + f3**2)
    e1 = (f1 / length, f2 / length, f3 / length)
    e3 = (rx / r_length, ry / r_length, rz / r_length)
    e2 = (
        e3[1] * e1[2] - e3[2] * e1[1],
        e3[2] * e1[0] - e3[0] * e1[2],
        e3[0] * e1[1] - e3[1] * e1[0],
    )
    for a in range(3):
        for b in range(3):
            c[a, b] = constant[a, b] + r2 * (
                across[0] * e1[a] * e1[b]
                + across[1] * (e1[a] * e2[b] + e2[a] * e1[b])
                + across[2] * e2[a] * e2[b]
                + along * along * e3[a] * e3[b]
            )


@numba.njit(cache=True)
def _nearest_moment(excitation, vn):
    """When a node is nearest to the sphere, from -1/2 at the start of the exposure to 1/2 at its end.

    excitation is that of the middle, vn how much it grows during the exposure.
    """
    if 2.0 * abs(excitation) < abs(vn):
        return -excitation / vn
    return -0.5 if excitation * vn > 0.0 else 0.5


@numba.njit(cache=True)
def _sections(hkl, setting, s0, q_max, k_of_q, constant, across, along, largest, turn):
    """Sections of nodes hkl (N, 3), and the (M,) rows of those that reach the Ewald sphere.

    Only these rows of the sections are filled. k_of_q is how many standard deviations reach, in
    equal steps of |q| from 0 to q_max; largest are SpotShape.largest_variances.
    """
    rows = np.empty(hkl.shape[0], np.int64)
    centre, spread = np.empty((hkl.shape[0], 3)), np.empty((hkl.shape[0], 6))
    level, residual = np.empty(hkl.shape[0]), np.empty(hkl.shape[0])
    c = np.empty((3, 3))
    half_turn = 0.5 * np.sqrt(turn[0] ** 2 + turn[1] ** 2 + turn[2] ** 2)
    radius = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    n = 0
    for i in range(hkl.shape[0]):
        h, k, l = hkl[i]
        gx = h * setting[0, 0] + k * setting[0, 1]
        gy = h * setting[1, 0] + k * setting[1, 1]
        gz = h * setting[2, 0] + k * setting[2, 1]
        rx, ry, rz = gx + l * setting[0, 2], gy + l * setting[1, 2], gz + l * setting[2, 2]
        sx = gx + s0[0] + l * setting[0, 2]
        sy = gy + s0[1] + l * setting[1, 2]
        sz = gz + s0[2] + l * setting[2, 2]
        s_length = np.sqrt(sx * sx + sy * sy + sz * sz)
        excitation = s_length - radius
        r2 = rx * rx + ry * ry + rz * rz
        step = np.sqrt(r2) / q_max * (k_of_q.shape[0] - 1)
        bin_q = min(int(step), k_of_q.shape[0] - 2)
        n_sigma = k_of_q[bin_q] + (step - bin_q) * (k_of_q[bin_q + 1] - k_of_q[bin_q])
        square = n_sigma * n_sigma
        # Most nodes are too far away however their distribution lies and however they move
        static = max(abs(excitation) - half_turn * np.sqrt(r2), 0.0)
        if static * static > (1 + 1e-6) * square * (largest[0] + largest[1] * r2):
            continue
        _fill_covariance(c, (rx, ry, rz), r2, s0, constant, across, along)
        nx, ny, nz = sx / s_length, sy / s_length, sz / s_length
        cnx = c[0, 0] * nx + c[0, 1] * ny + c[0, 2] * nz
        cny = c[1, 0] * nx + c[1, 1] * ny + c[1, 2] * nz
        cnz = c[2, 0] * nx + c[2, 1] * ny + c[2, 2] * nz
        ncn = nx * cnx + ny * cny + nz * cnz
        vx = turn[1] * rz - turn[2] * ry
        vy = turn[2] * rx - turn[0] * rz
        vz = turn[0] * ry - turn[1] * rx
        vn = vx * nx + vy * ny + vz * nz
        moment = _nearest_moment(excitation, vn)
        excitation += moment * vn
        m0 = excitation * excitation / ncn
        if m0 > square:
            continue
        residual[i] = excitation
        # Moments at which it is on the sphere, and where it is there, see lattice_sections
        moments = 1.0 / (12.0 + vn * vn / ncn)
        ux, uy, uz = vx - vn / ncn * cnx, vy - vn / ncn * cny, vz - vn / ncn * cnz
        rx, ry, rz = rx + moment * vx, ry + moment * vy, rz + moment * vz
        shift = -excitation / ncn
        centre[i, 0], centre[i, 1], centre[i, 2] = (
            rx + shift * cnx,
            ry + shift * cny,
            rz + shift * cnz,
        )
        spread[i, 0] = c[0, 0] - cnx * cnx / ncn + moments * ux * ux
        spread[i, 1] = c[0, 1] - cnx * cny / ncn + moments * ux * uy
        spread[i, 2] = c[0, 2] - cnx * cnz / ncn + moments * ux * uz
        spread[i, 3] = c[1, 1] - cny * cny / ncn + moments * uy * uy
        spread[i, 4] = c[1, 2] - cny * cnz / ncn + moments * uy * uz
        spread[i, 5] = c[2, 2] - cnz * cnz / ncn + moments * uz * uz
        level[i] = square - m0
        rows[n] = i
        n += 1
    return centre, spread, level, residual, rows[:n]


def lattice_sections(
    setting: np.ndarray,
    space_group,
    s0: np.ndarray,
    shape: SpotShape,
    k_of_q: np.ndarray,
    q_max: float,
    turn: np.ndarray | None = None,
) -> Sections:
    """Sections of all nodes of a lattice that reach the Ewald sphere.

    A node of a crystal that turns moves by v = turn x r during the exposure. Its section is taken where its path
    is nearest to the sphere (a sharp node crosses it there). A node of size C is on the sphere
    for a while: if all moments are equally likely, those at which the photons come have
    the variance 1 / (12 + (v.n)^2 / n'Cn), that of a uniform and of a normal distribution
    multiplied, n the sphere's normal. Meanwhile the section moves by
    u = v - (v.n) Cn / n'Cn, along the sphere: K grows by that variance times u u'.

    Args:
        setting: (3, 3) A, in the lab frame, 1/Angstrom
        space_group: cctbx.sgtbx.space_group; its lattice centring leaves nodes out
        s0: (3,) 1/Angstrom
        shape: of the nodes
        k_of_q: (K,) standard deviations k that belong to a node, at equal steps of |q| from 0 to q_max
        q_max: largest |q|, 1/Angstrom
        turn: (3,) axis times the angle by which the crystal turns, rad; None for a crystal at rest
    """
    turn = np.zeros(3) if turn is None else np.asarray(turn, dtype=float)
    limits = np.floor(np.linalg.norm(np.linalg.inv(setting), axis=1) * q_max).astype(np.int64)
    reach = k_of_q.max() * shape.largest_sigma(q_max) + 0.5 * q_max * np.linalg.norm(turn)
    hkl = _near_nodes(setting, s0, q_max, limits, reach, *centring_vectors(space_group))
    *columns, rows = _sections(
        hkl,
        setting,
        s0,
        q_max,
        k_of_q,
        shape.constant,
        np.array(shape.across),
        float(shape.along),
        shape.largest_variances(),
        turn,
    )
    return Sections(hkl[rows], *(column[rows] for column in columns))
