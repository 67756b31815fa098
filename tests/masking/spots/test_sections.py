"""Sections of nodes with the Ewald sphere, against plain numpy over all nodes."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx

from dials_diffuse.masking.spots.sections import centring_vectors, lattice_sections
from dials_diffuse.masking.spots.shape import SpotShape

S0 = np.array([0.05, -0.02, -1.0])
Q_MAX = 0.3
K_OF_Q = np.linspace(4.0, 2.0, 65)


def setting_matrix(cell=(31.0, 40.0, 55.0), seed=2):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q @ np.diag(1 / np.array(cell)) @ np.array([[1, 0.1, 0], [0, 1, 0.05], [0, 0, 1]])


def covariance(shape, r):
    e3 = r / np.linalg.norm(r)
    e1 = np.cross(r, S0)
    e1 /= np.linalg.norm(e1)
    e2 = np.cross(e3, e1)
    a11, a12, a22 = shape.across
    frame = np.stack([e1, e2, e3], axis=1)
    across = np.array([[a11, a12, 0], [a12, a22, 0], [0, 0, shape.along**2]])
    return shape.constant + (r @ r) * frame @ across @ frame.T


def expected_sections(setting, shape, centred):
    """hkl -> (centre, K, k^2 - m0)"""
    found = {}
    for hkl in np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3), axis=-1).reshape(-1, 3):
        r = setting @ hkl
        length, s1 = np.linalg.norm(r), S0 + r
        excitation = np.linalg.norm(s1) - np.linalg.norm(S0)
        # No node reaches as far as 0.02 in these tests
        if not 0 < length <= Q_MAX or abs(excitation) > 0.02 or (centred and hkl[:2].sum() % 2):
            continue
        n, c = s1 / np.linalg.norm(s1), covariance(shape, r)
        level = np.interp(length, np.linspace(0, Q_MAX, 65), K_OF_Q) ** 2 - excitation**2 / (
            n @ c @ n
        )
        if level >= 0:
            cn = c @ n
            spread = c - np.outer(cn, cn) / (n @ cn)
            found[tuple(hkl)] = r - excitation * cn / (n @ cn), spread, level
    return found


@pytest.mark.parametrize("symbol", ["P 1", "C 1 2 1"])
@pytest.mark.parametrize(
    "shape",
    [
        SpotShape.isotropic(5e-4, 0.0),
        SpotShape.isotropic(1e-4, 6e-3, along=4e-3),
        SpotShape(np.diag([1e-7, 4e-7, 2e-7]), (4e-6, 3e-6, 9e-6)),
    ],
)
def test_sections_are_those_of_all_nodes(shape, symbol):
    setting = setting_matrix()
    group = sgtbx.space_group_info(symbol).group()
    expected = expected_sections(setting, shape, symbol.startswith("C"))
    sections = lattice_sections(setting, group, S0, shape, K_OF_Q, Q_MAX)
    assert len(expected) > 20
    assert sorted(map(tuple, sections.hkl.tolist())) == sorted(expected)
    for hkl, centre, spread, level, _ in zip(*sections):
        other_centre, matrix, other_level = expected[tuple(hkl.tolist())]
        assert np.allclose(centre, other_centre, atol=1e-12)
        assert np.allclose(spread, matrix[np.triu_indices(3)], atol=1e-15)
        assert level == pytest.approx(other_level, abs=1e-8)


TURN = np.radians(0.6) * np.array([0.8, 0.6, 0.0])


@pytest.mark.parametrize(
    "shape",
    [
        SpotShape.isotropic(4e-5, 0.0),
        SpotShape.isotropic(4e-4, 0.0),
        SpotShape(np.diag([1e-8, 4e-7, 2e-7])),
    ],
    ids=["sharp", "as wide as the path", "uneven"],
)
def test_photons_of_nodes_that_turn_lie_in_their_sections(shape):
    """Random points of nodes at random moments; those on the sphere are the photons"""
    generator = np.random.default_rng(8)
    group = sgtbx.space_group_info("P 1").group()
    setting = setting_matrix()
    sections = lattice_sections(setting, group, S0, shape, np.full(65, 4.0), Q_MAX, TURN)
    at_rest = lattice_sections(setting, group, S0, shape, np.full(65, 4.0), Q_MAX)
    assert len(sections.hkl) > 1.3 * len(at_rest.hkl)
    axis, width = TURN / np.linalg.norm(TURN), np.linalg.norm(TURN)
    spread = np.empty((len(sections.hkl), 3, 3))
    upper = np.triu_indices(3)
    spread[:, upper[0], upper[1]] = spread[:, upper[1], upper[0]] = sections.spread
    n, inside, photons, chosen = 400_000, 0.0, 0.0, 0
    for row in range(0, len(sections.hkl), max(len(sections.hkl) // 60, 1)):
        r = setting @ sections.hkl[row]
        points = r + generator.multivariate_normal(np.zeros(3), shape.constant, n)
        angle = generator.uniform(-0.5, 0.5, n)[:, None] * width
        along = (points @ axis)[:, None] * axis
        points = along + np.cos(angle) * (points - along) + np.sin(angle) * np.cross(axis, points)
        excitation = np.linalg.norm(S0 + points, axis=1) - np.linalg.norm(S0)
        hits = points[np.abs(excitation) < 2e-6]
        if len(hits) < 100:
            continue
        # on the sphere; what is along its normal is of no account
        normal = (S0 + r) / np.linalg.norm(S0 + r)
        projector = np.eye(3) - np.outer(normal, normal)
        off = (hits - sections.centre[row]) @ projector
        inverse = np.linalg.pinv(projector @ spread[row] @ projector, rcond=1e-6)
        # of a node at rest in the sphere, a part exp(-k^2 / 2) is further out
        m = np.einsum("ni,ij,nj->n", off, inverse, off)
        inside += (m <= sections.level[row]).sum()
        photons += len(hits)
        chosen += 1
    assert chosen > 20
    assert inside / photons > 0.99


def test_nodes_that_turn_cross_the_sphere_where_the_angle_says():
    """A point alone crosses at one moment: the root of |s0 + R r| = |s0|, found by halving"""
    from scipy.optimize import brentq
    from scipy.spatial.transform import Rotation

    group = sgtbx.space_group_info("P 1").group()
    setting, shape = setting_matrix(), SpotShape.isotropic(1e-6, 0.0)
    sections = lattice_sections(setting, group, S0, shape, np.full(65, 4.0), Q_MAX, TURN)

    def turned(part, r):
        return Rotation.from_rotvec(part * TURN).apply(r)

    def distance(part, r):
        return np.linalg.norm(S0 + turned(part, r)) - np.linalg.norm(S0)

    crossing = {}
    for hkl in np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3), axis=-1).reshape(-1, 3):
        r = setting @ hkl
        if 0 < np.linalg.norm(r) <= Q_MAX and distance(-0.5, r) * distance(0.5, r) < 0:
            crossing[tuple(hkl)] = turned(brentq(distance, -0.5, 0.5, args=(r,)), r)
    found = {tuple(h): c for h, c in zip(sections.hkl.tolist(), sections.centre)}
    assert len(crossing) > 20 and len(set(crossing) - set(found)) <= 1
    # the path is a bit bent, which is left out
    for hkl in set(crossing) & set(found):
        assert np.linalg.norm(found[hkl] - crossing[hkl]) < 1e-5
    at_rest = lattice_sections(setting, group, S0, shape, np.full(65, 4.0), Q_MAX)
    assert len(at_rest.hkl) < 0.2 * len(crossing)


def test_many_nodes_are_all_listed():
    """More than fit into the arrays at first"""
    setting, shape = setting_matrix((150.0, 160.0, 170.0)), SpotShape.isotropic(3e-3, 0.0)
    group = sgtbx.space_group_info("P 1").group()
    hkl = lattice_sections(setting, group, S0, shape, K_OF_Q, Q_MAX).hkl
    assert len(hkl) > 4096 and len(np.unique(hkl, axis=0)) == len(hkl)


@pytest.mark.parametrize("symbol, n", [("P 2 2 2", 0), ("C 2 2 2", 1), ("F 2 2 2", 3), ("R 3", 2)])
def test_centring_vectors_leave_out_what_the_lattice_does(symbol, n):
    """In groups without screw axes and glide planes"""
    group = sgtbx.space_group_info(symbol).group()
    vectors, denominator = centring_vectors(group)
    assert vectors.shape == (n, 3)
    for hkl in np.ndindex(4, 4, 4):
        assert (vectors @ np.array(hkl) % denominator == 0).all() != group.is_sys_absent(hkl)
