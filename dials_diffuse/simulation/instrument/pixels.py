"""Direction, solid angle, polarisation and sensor efficiency of the simulated pixels.

Every factor is derived here from first principles, not shared with the
reduction, and checked in the tests against exact formulas and DIALS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RectBivariateSpline

from dxtbx import flumpy
from scitbx.array_family import flex

# Largest step of the grid on which parallax is evaluated, pixels
PARALLAX_STEP = 12


def _knots(n: int) -> np.ndarray:
    return np.linspace(0, n, max(5, int(np.ceil(n / PARALLAX_STEP)) + 1))


def pixel_positions(panel, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Where the panel's px-to-mm strategy puts points given in pixels.

    The displacement by parallax is smooth: it is asked for on a coarse grid
    and interpolated by cubic splines.

    Args:
        panel: dxtbx panel.
        fast: (F,) coordinates in pixels, the first pixel from 0 to 1.
        slow: (S,) the same.

    Returns:
        (S, F, 2) fast, slow position on the panel, mm.
    """
    size_fast, size_slow = panel.get_image_size()
    pixel = np.array(panel.get_pixel_size())
    knots_fast, knots_slow = _knots(size_fast), _knots(size_slow)
    x, y = np.meshgrid(knots_fast, knots_slow)
    points = flumpy.vec_from_numpy(np.ascontiguousarray(np.stack([x.ravel(), y.ravel()], axis=1)))
    exact = flumpy.to_numpy(panel.pixel_to_millimeter(points)).reshape(*x.shape, 2)
    naive = np.stack([x, y], axis=-1) * pixel
    result = np.empty((len(slow), len(fast), 2))
    plain = (fast * pixel[0], slow * pixel[1])
    for axis in range(2):
        shift = RectBivariateSpline(knots_slow, knots_fast, (exact - naive)[..., axis], kx=3, ky=3)
        result[..., axis] = shift(slow, fast)
    result[..., 0] += plain[0][None, :]
    result[..., 1] += plain[1][:, None]
    return result


def lab_positions(panel, millimetres: np.ndarray) -> np.ndarray:
    """Lab coordinates, mm, (..., 3) of positions (..., 2) on a panel."""
    return (
        np.array(panel.get_origin())
        + millimetres[..., :1] * np.array(panel.get_fast_axis())
        + millimetres[..., 1:] * np.array(panel.get_slow_axis())
    )


def triangle_solid_angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Solid angle, sr, of triangles seen from the origin; corners (..., 3).

    A. van Oosterom & J. Strackee, IEEE Trans. Biomed. Eng. 30 (1983) 125.
    """
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    triple = np.abs(np.einsum("...i,...i", a, np.cross(b, c)))
    dot = lambda u, v: np.einsum("...i,...i", u, v)  # noqa: E731
    below = la * lb * lc + dot(a, b) * lc + dot(a, c) * lb + dot(b, c) * la
    return 2 * np.arctan2(triple, below)


def solid_angles(corners: np.ndarray) -> np.ndarray:
    """Exact solid angle of every pixel, sr.

    Args:
        corners: (S + 1, F + 1, 3) lab positions of the pixels' corners, mm.

    Returns:
        (S, F) array.
    """
    a, b = corners[:-1, :-1], corners[:-1, 1:]
    c, d = corners[1:, 1:], corners[1:, :-1]
    return triangle_solid_angle(a, b, c) + triangle_solid_angle(a, c, d)


def polarization(
    directions: np.ndarray, s0: np.ndarray, normal: np.ndarray, fraction: float
) -> np.ndarray:
    """Scattered over incident intensity of a free electron, by its dipole pattern.

    An electron driven along unit vector e radiates as 1 - (e.s)^2 towards s
    (Jackson, Classical Electrodynamics, section 14.8). Of the incident beam,
    `fraction` has its field in the plane of polarization, the rest normal to that.

    Args:
        directions: (..., 3) unit vectors from the sample to the pixels.
        s0: direction of the beam.
        normal: of the plane of polarization.
        fraction: 0.5 for an unpolarized beam.

    Returns:
        (...) factors between 0 and 1.
    """
    along = s0 / np.linalg.norm(s0)
    in_plane = np.cross(normal, along)
    in_plane /= np.linalg.norm(in_plane)
    across = np.cross(along, in_plane)
    return fraction * (1 - (directions @ in_plane) ** 2) + (1 - fraction) * (
        1 - (directions @ across) ** 2
    )


def sensor_efficiency(cosine: np.ndarray, mu: float, thickness: float) -> np.ndarray:
    """Part of the photons that a sensor absorbs, by the length of the ray in it.

    Beer and Lambert: 1 - exp(-mu t / cos). mu in 1/mm, thickness t in mm,
    cosine of the angle between ray and panel normal. 1 for an ideal sensor.
    """
    if mu <= 0 or thickness <= 0:
        return np.ones_like(cosine)
    return -np.expm1(-mu * thickness / cosine)


@dataclass
class PanelPixels:
    """All that is the same on every still, of a panel with S x F pixels.

    Attributes:
        directions: (S, F, 3) unit vectors from the sample to the pixels' centres.
        distance: (S, F) mm.
        solid_angle: (S, F) sr.
        polarization: (S, F).
        efficiency: (S, F) of the sensor.
        step_fast, step_slow: (S, F, 3) change of the unit vector per pixel.
    """

    directions: np.ndarray
    distance: np.ndarray
    solid_angle: np.ndarray
    polarization: np.ndarray
    efficiency: np.ndarray
    step_fast: np.ndarray
    step_slow: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.distance.shape

    def __getitem__(self, selection) -> PanelPixels:
        """Part of the pixels, by slices of slow and fast."""
        return PanelPixels(**{name: values[selection] for name, values in vars(self).items()})


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1)[..., None]


def panel_pixels(panel, beam) -> PanelPixels:
    """Evaluate a panel's pixels for a beam (its direction and polarization)."""
    size_fast, size_slow = panel.get_image_size()
    fast, slow = np.arange(size_fast), np.arange(size_slow)
    centres = lab_positions(panel, pixel_positions(panel, fast + 0.5, slow + 0.5))
    corners = lab_positions(
        panel, pixel_positions(panel, np.arange(size_fast + 1.0), np.arange(size_slow + 1.0))
    )
    distance = np.linalg.norm(centres, axis=-1)
    directions = centres / distance[..., None]
    edges = _unit(corners)
    left_right = edges[:, 1:] - edges[:, :-1]
    up_down = edges[1:] - edges[:-1]
    normal = np.array(panel.get_normal())
    return PanelPixels(
        directions=directions,
        distance=distance,
        solid_angle=solid_angles(corners),
        polarization=polarization(
            directions,
            np.array(beam.get_s0()),
            np.array(beam.get_polarization_normal()),
            beam.get_polarization_fraction(),
        ),
        efficiency=sensor_efficiency(
            np.abs(directions @ normal), panel.get_mu(), panel.get_thickness()
        ),
        step_fast=(left_right[:-1] + left_right[1:]) / 2,
        step_slow=(up_down[:, :-1] + up_down[:, 1:]) / 2,
    )


def rays_to_pixels(detector, directions: np.ndarray):
    """Where rays meet the detector.

    Args:
        detector: dxtbx detector.
        directions: (N, 3).

    Returns:
        panel (N,) int, -1 where the ray meets none; (N, 2) fast, slow in
        pixels; (N, 2) in mm.
    """
    n = len(directions)
    panels = np.full(n, -1)
    pixels = np.zeros((n, 2))
    millimetres = np.zeros((n, 2))
    for index, panel in enumerate(detector):
        inverse = np.array(panel.get_D_matrix()).reshape(3, 3)
        v = directions @ inverse.T
        ahead = (v[:, 2] > 0) & (panels < 0)
        xy = v[:, :2] / np.where(v[:, 2:] > 0, v[:, 2:], 1.0)
        size = np.array(panel.get_image_size_mm())
        # parallax moves a point by less than two pixels or so: decide after it
        margin = 3 * max(panel.get_pixel_size())
        near = np.flatnonzero(ahead & np.all((xy > -margin) & (xy < size + margin), axis=1))
        if not len(near):
            continue
        points = flumpy.vec_from_numpy(np.ascontiguousarray(xy[near]))
        px = flumpy.to_numpy(panel.millimeter_to_pixel(points)).reshape(-1, 2)
        inside = np.all((px >= 0) & (px < np.array(panel.get_image_size())), axis=1)
        hit = near[inside]
        panels[hit] = index
        pixels[hit] = px[inside]
        millimetres[hit] = xy[hit]
    return panels, pixels, millimetres


def as_flex(image: np.ndarray) -> flex.int:
    """(S, F) integers -> 2D flex.int."""
    return flumpy.from_numpy(np.array(image, dtype=np.int32, order="C"))
