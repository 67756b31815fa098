"""The acceptance of a pixel: the factors between a cross-section and the photons that are counted.

    photons = exposure time * E * (I(q) + background),   E = Omega P QE A (L)

Every factor is a function of its own, on numbers or numpy arrays alike; numba compiles the same
functions for the loop over points of a panel. All are known from the geometry and the materials, none
is fitted, and all are taken as exact: their errors are not propagated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

LORENTZ_NONE, LORENTZ_INVERSE_Q, LORENTZ_SIN_TWO_THETA = 0, 1, 2
LORENTZ_CODES = {
    "none": LORENTZ_NONE,
    "inverse_q": LORENTZ_INVERSE_Q,
    "sin_two_theta": LORENTZ_SIN_TWO_THETA,
}


def solid_angle(area, cos_obliquity, distance):
    """Solid angle of a pixel seen from the sample.

    Args:
        area: of the pixel, mm^2
        cos_obliquity: cosine of the angle between ray and panel normal
        distance: from the sample to the pixel's centre, mm

    Returns:
        sr; the error of taking the centre for the whole pixel is of order (size / distance)^2
    """
    return area * cos_obliquity / (distance * distance)


def polarization(cos_two_theta, s1_dot_normal, fraction):
    """Polarisation factor P of scattering by electrons.

    Kahn, Fourme, Gadet, Janin, Dumas & Andre, J. Appl. Cryst. 15, 330 (1982), in the convention of
    XDS and DIALS: fraction 0.5 is an unpolarised beam, 1 one polarised perpendicular to the normal.

    Args:
        cos_two_theta: cosine of the scattering angle
        s1_dot_normal: unit scattered ray times unit polarisation normal
        fraction: polarisation fraction

    Returns:
        P, 1 in the forward direction
    """
    return (1.0 - 2.0 * fraction) * (1.0 - s1_dot_normal * s1_dot_normal) + fraction * (
        1.0 + cos_two_theta * cos_two_theta
    )


def quantum_efficiency(mu, thickness, cos_obliquity):
    """Fraction of the photons that the sensor absorbs (Lambert-Beer along the slanted ray).

    Args:
        mu: attenuation coefficient of the sensor, 1/mm
        thickness: of the sensor, mm
        cos_obliquity: cosine of the angle between ray and panel normal
    """
    return 1.0 - np.exp(-mu * thickness / cos_obliquity)


def air_transmission(distance, mu_air, mu_medium, medium_length):
    """Fraction of the photons that the gas between sample and detector lets through.

    Args:
        distance: from sample to pixel, mm
        mu_air: attenuation coefficient of the air, 1/mm
        mu_medium: that of the gas in the flight path, 1/mm
        medium_length: length of the flight path, mm; at most all of the distance
    """
    inside = np.minimum(distance, medium_length)
    return np.exp(-mu_medium * inside - mu_air * (distance - inside))


def lorentz_factor(q, sin_two_theta, code):
    """Lorentz factor, for comparison with programs that apply one.

    A still samples a continuous function of q on the Ewald sphere: how long a point stays in
    reflecting position has no meaning, and no Lorentz factor applies. (Rotation, and the
    integration of spots across the sphere, bring it in.)

    Args:
        q: |q|, 1/Angstrom
        sin_two_theta: sine of the scattering angle
        code: LORENTZ_NONE -> 1, LORENTZ_INVERSE_Q -> 1/|q| (times 1/Angstrom),
            LORENTZ_SIN_TWO_THETA -> 1/sin(2 theta)
    """
    if code == LORENTZ_INVERSE_Q:
        return 1.0 / q
    if code == LORENTZ_SIN_TWO_THETA:
        return 1.0 / sin_two_theta
    return 1.0 + 0.0 * q


_solid_angle = njit(error_model="numpy")(solid_angle)
_polarization = njit(error_model="numpy")(polarization)
_quantum_efficiency = njit(error_model="numpy")(quantum_efficiency)
_air_transmission = njit(error_model="numpy")(air_transmission)
_lorentz_factor = njit(error_model="numpy")(lorentz_factor)


class PanelConstants(NamedTuple):
    """What q and acceptance of the pixels of a panel depend on beside their place on it.

    Attributes:
        frame: (4, 3) fast axis, slow axis, panel normal (unit vectors), origin (mm)
        pixel_area: mm^2
        s0: (3,) unit vector of the beam
        wavelength: Angstrom
        normal: (3,) unit vector of polarisation
        fraction: polarisation fraction
        sensor: (2,) attenuation coefficient (1/mm) and thickness (mm); 0: QE is 1
        gas: (2,) attenuation coefficients of the air and of the flight path's gas, 1/mm
        path_length: of the flight path, mm
        use_solid_angle, use_polarization: whether these factors apply
        lorentz: code of the Lorentz factor
    """

    frame: np.ndarray
    pixel_area: float
    s0: np.ndarray
    wavelength: float
    normal: np.ndarray
    fraction: float
    sensor: np.ndarray
    gas: np.ndarray
    path_length: float
    use_solid_angle: bool
    use_polarization: bool
    lorentz: int


@njit(cache=True, error_model="numpy")
def geometry_at_points(points, panel, values):
    """q and acceptance of points of a flat panel.

    Args:
        points: (3, n, m) fast and slow coordinate where a pixel's photons enter the sensor, mm, and the
            area of the sensor's surface that the pixel stands for, over that of the pixel
        panel: its PanelConstants
        values: (4, n, m) float, filled in place with q = (s1_hat - s0_hat)/wavelength (1/Angstrom) and
            E = Omega P QE A L (sr), 0 where there is none
    """
    fast_axis, slow_axis, normal, origin = panel.frame
    ray = np.empty(3)
    for i in range(points.shape[1]):
        for j in range(points.shape[2]):
            for k in range(3):
                ray[k] = origin[k] + points[0, i, j] * fast_axis[k] + points[1, i, j] * slow_axis[k]
            distance = math.sqrt(_dot(ray, ray))
            inverse = 1.0 / distance
            for k in range(3):
                ray[k] *= inverse
                values[k, i, j] = (ray[k] - panel.s0[k]) * (1.0 / panel.wavelength)
            e = _acceptance(ray, distance, abs(_dot(ray, normal)), points[2, i, j], panel)
            # A pixel without one is not used; NaN would spoil sums over its row
            values[3, i, j] = e if abs(e) < np.inf else 0.0


@njit(error_model="numpy")
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(error_model="numpy")
def _acceptance(ray, distance, cos_obliquity, area_ratio, panel):
    """E of a pixel that the unit vector `ray` points to; see geometry_at_points."""
    cos_two_theta = _dot(ray, panel.s0)
    e = 1.0
    if panel.use_solid_angle:
        e *= _solid_angle(panel.pixel_area, cos_obliquity, distance)
    if panel.use_polarization:
        e *= _polarization(cos_two_theta, _dot(ray, panel.normal), panel.fraction)
    if panel.use_solid_angle:
        e *= area_ratio
    if panel.gas[0] > 0 or panel.gas[1] > 0:
        e *= _air_transmission(distance, panel.gas[0], panel.gas[1], panel.path_length)
    if panel.sensor[0] > 0:
        e *= _quantum_efficiency(panel.sensor[0], panel.sensor[1], cos_obliquity)
    if panel.lorentz != LORENTZ_NONE:
        chord = 0.0
        for k in range(3):
            chord += (ray[k] - panel.s0[k]) ** 2
        chord = math.sqrt(chord)  # 2 sin(theta)
        sin_two_theta = chord * math.sqrt(max(0.0, 1.0 - 0.25 * chord * chord))
        # Infinite on the beam itself: such a pixel is not used
        e *= _lorentz_factor(chord / panel.wavelength, sin_two_theta, panel.lorentz)
    return e
