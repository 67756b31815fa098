"""Ellipses of Bragg spots on a panel, from the sections of nodes with the Ewald sphere."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from dials_diffuse.adapters.tables import as_numpy, vec2_column


class SpotsOnSphere(NamedTuple):
    """N spots before it is known on which panel they are.

    Attributes:
        s1: (N, 3) s0 + centre of the section, 1/Angstrom
        direction: (N, 3) s1 / |s1|
        spread: (N, 6) covariance of the section, see Sections
        level: (N,) squared size of the section, see Sections
        counts: (N,) integrated counts over what may be left of them a pixel, 0 where unknown
    """

    s1: np.ndarray
    direction: np.ndarray
    spread: np.ndarray
    level: np.ndarray
    counts: np.ndarray


class PanelEllipses(NamedTuple):
    """Ellipses of M of the spots on a panel.

    Attributes:
        rows: (M,) which of the spots
        centre, bbox, ellipse, to_pixels: see SpotRows
    """

    rows: np.ndarray
    centre: np.ndarray
    bbox: np.ndarray
    ellipse: np.ndarray
    to_pixels: np.ndarray


@numba.njit(cache=True)
def _jacobians(v, mm, inverse, pixel_size):
    """d(pixels)/d(s1) by the quotient rule, (N, 2, 3) px Angstrom, without parallax.

    Args:
        v: (N, 3) inverse d matrix times s1
        mm: (N, 2) v[:2] / v[2], where that is on the panel
        inverse: (3, 3) inverse d matrix
        pixel_size: (2,) mm
    """
    jacobian = np.empty((v.shape[0], 2, 3))
    for i in range(v.shape[0]):
        for axis in range(2):
            for j in range(3):
                slope = inverse[axis, j] - mm[i, axis] * inverse[2, j]
                jacobian[i, axis, j] = slope / (v[i, 2] * pixel_size[axis])
    return jacobian


@numba.njit(cache=True)
def _covariances(jacobian, spread, point_spread):
    """Covariances of spots on the panel, (N, 3) xx, xy, yy, px^2."""
    covariance = np.empty((jacobian.shape[0], 3))
    for i in range(jacobian.shape[0]):
        k00, k01, k02, k11, k12, k22 = spread[i]
        for axis in range(2):
            x, y, z = jacobian[i, axis]
            kx = x * k00 + y * k01 + z * k02
            ky = x * k01 + y * k11 + z * k12
            kz = x * k02 + y * k12 + z * k22
            covariance[i, 2 * axis] = kx * x + ky * y + kz * z + point_spread**2
            if axis == 0:
                x, y, z = jacobian[i, 1]
                covariance[i, 1] = kx * x + ky * y + kz * z
    return covariance


@numba.njit(cache=True)
def _ellipses(pixel, covariance, level, counts, size, padding):
    """Ellipses around spots.

    Args:
        pixel: (N, 2) centres
        covariance: see _covariances
        level, counts: see SpotsOnSphere
        size: (2,) of the panel, fast, slow
        padding: pixels added to the semi-axes

    Returns:
        bbox (N, 4), ellipse (N, 3), and (N,) bool: the box touches the panel. The others are not filled
    """
    bbox, ellipse = np.empty((pixel.shape[0], 4), np.int32), np.empty((pixel.shape[0], 3))
    touching = np.zeros(pixel.shape[0], np.bool_)
    for i in range(pixel.shape[0]):
        sxx, sxy, syy = covariance[i]
        # Principal axes of the 2 x 2 covariance, in closed form
        mean, half = (sxx + syy) / 2, (sxx - syy) / 2
        root = np.hypot(half, sxy)
        angle = 0.5 * np.arctan2(sxy, half)
        # A normal spot of N counts, N / (2 pi |S|^1/2) high, falls to f counts a pixel at
        # u^2 = 2 ln(N / (2 pi |S|^1/2 f)); pixels are no smaller than one
        area = 2 * np.pi * np.sqrt(max(sxx * syy - sxy**2, 0.0) + 1 / 144)
        bright = 2 * np.log(max(counts[i] / area, 1.0))
        reach = np.sqrt(max(level[i], bright))
        long = reach * np.sqrt(mean + root) + padding
        short = reach * np.sqrt(max(mean - root, 0.0)) + padding
        cos, sin = np.cos(angle), np.sin(angle)
        half_x = np.hypot(long * cos, short * sin)
        half_y = np.hypot(long * sin, short * cos)
        x0, x1 = np.floor(pixel[i, 0] - half_x), np.ceil(pixel[i, 0] + half_x)
        y0, y1 = np.floor(pixel[i, 1] - half_y), np.ceil(pixel[i, 1] + half_y)
        touching[i] = x1 > 0 and y1 > 0 and x0 < size[0] and y0 < size[1]
        if touching[i]:
            bbox[i, 0], bbox[i, 1], bbox[i, 2], bbox[i, 3] = x0, x1, y0, y1
            ellipse[i, 0] = (cos / long) ** 2 + (sin / short) ** 2
            ellipse[i, 1] = cos * sin * (1 / long**2 - 1 / short**2)
            ellipse[i, 2] = (sin / long) ** 2 + (cos / short) ** 2
    return bbox, ellipse, touching


@numba.njit(cache=True)
def _radial_and_tangential(jacobian, direction, s0):
    """Derivatives along and across the direction from the beam centre, (N, 2, 2); see SpotRows.to_pixels."""
    to_pixels = np.empty((jacobian.shape[0], 2, 2))
    for i in range(jacobian.shape[0]):
        dx, dy, dz = direction[i]
        tx, ty, tz = s0[1] * dz - s0[2] * dy, s0[2] * dx - s0[0] * dz, s0[0] * dy - s0[1] * dx
        length = np.sqrt(tx * tx + ty * ty + tz * tz)
        tx, ty, tz = tx / length, ty / length, tz / length
        rx, ry, rz = ty * dz - tz * dy, tz * dx - tx * dz, tx * dy - ty * dx
        for axis in range(2):
            x, y, z = jacobian[i, axis]
            to_pixels[i, axis, 0] = x * rx + y * ry + z * rz
            to_pixels[i, axis, 1] = x * tx + y * ty + z * tz
    return to_pixels


def _cone(panel, margin: float) -> tuple[np.ndarray, float]:
    """Axis and cosine of the opening of a cone that holds all directions to a panel, by a margin (rad)."""
    n_fast, n_slow = panel.get_image_size()
    corners = np.array(
        [panel.get_pixel_lab_coord((x, y)) for x in (0, n_fast) for y in (0, n_slow)]
    )
    corners /= np.linalg.norm(corners, axis=1)[:, None]
    axis = corners.mean(axis=0)
    axis /= np.linalg.norm(axis)
    # Directions of a rectangle lie within the cone of its corners
    widest = np.arccos(np.clip((corners @ axis).min(), -1, 1)) + margin
    return axis, float(np.cos(min(widest, np.pi)))


def _largest_displacement(panel) -> float | None:
    """Pixels that parallax moves a spot at most, for rays less than 80 degrees from the normal.

    None where it is not known.
    """
    strategy = type(panel.get_px_mm_strategy()).__name__
    if strategy == "SimplePxMmStrategy":
        return 0.0
    if strategy == "ParallaxCorrectedPxMmStrategy":
        return 6 * panel.get_thickness() / min(panel.get_pixel_size())
    return None


def _may_touch(pixel, covariance, level, counts, size, margin: float) -> np.ndarray:
    """Which spots may touch a panel, (N,) bool, by a bound on the size of their ellipses.

    Args:
        pixel, covariance, level, counts, size: as of _ellipses, without parallax
        margin: pixels that they may be off by
    """
    # The least area of a spot is 2 pi / 12 pixels
    bright = 2 * np.log(np.maximum(6 / np.pi * counts, 1.0))
    variance = covariance[:, 0] + covariance[:, 2]
    reach = np.sqrt(np.maximum(level, bright) * variance) + margin
    return ((-reach[:, None] < pixel) & (pixel < size + reach[:, None])).all(axis=1)


def ellipses_on_panel(
    panel, spots: SpotsOnSphere, s0: np.ndarray, point_spread: float, padding: float, margin: float
) -> PanelEllipses:
    """Ellipses of the spots whose bounding box touches a panel.

    Args:
        panel: dxtbx model
        spots: of a still
        s0: (3,) 1/Angstrom
        point_spread: standard deviation of what the detector adds, pixels
        padding: pixels added to the semi-axes
        margin: radius of the largest spot as seen from the sample, rad
    """
    axis, cosine = _cone(panel, margin)
    rows = np.flatnonzero(spots.direction @ axis >= cosine)
    inverse = np.linalg.inv(np.array(panel.get_d_matrix()).reshape(3, 3))
    pixel_size, size = np.array(panel.get_pixel_size()), np.array(panel.get_image_size())
    v = spots.s1[rows] @ inverse.T
    front = v[:, 2] > 0
    rows, v = rows[front], v[front]
    mm = v[:, :2] / v[:, 2:]
    jacobian = _jacobians(v, mm, inverse, pixel_size)
    covariance = _covariances(jacobian, spots.spread[rows], float(point_spread))
    displacement = _largest_displacement(panel)
    if displacement is not None:
        # To correct millimetres for parallax takes as long as all the rest
        near = _may_touch(
            mm / pixel_size,
            covariance,
            spots.level[rows],
            spots.counts[rows],
            size,
            padding + displacement + 1,
        )
        rows, mm, jacobian, covariance = (a[near] for a in (rows, mm, jacobian, covariance))
    pixel = as_numpy(panel.millimeter_to_pixel(vec2_column(mm))) if len(mm) else mm
    bbox, ellipse, touching = _ellipses(
        pixel, covariance, spots.level[rows], spots.counts[rows], size, float(padding)
    )
    rows = rows[touching]
    to_pixels = _radial_and_tangential(jacobian[touching], spots.direction[rows], s0)
    return PanelEllipses(rows, pixel[touching], bbox[touching], ellipse[touching], to_pixels)
