"""What a pixel would count of a given cross-section: the factors between the two.

    photons = exposure time * (E * I(q) + background),   E = Omega P QE A (L)

Every factor is a function of its own, in float64, on numbers or numpy arrays alike; numba
compiles the same functions for the fused pass over the pixels of a panel. All are known from
the geometry and the materials, none is fitted, and all are taken as exact: their errors are not
propagated.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.interpolate import PchipInterpolator

from cctbx import factor_ev_angstrom
from cctbx.eltbx import attenuation_coefficient

logger = logging.getLogger("dials.diffuse.extraction.corrections")

# Dry air, mole fractions (US Standard Atmosphere 1976, carbon dioxide left out)
_AIR = {"N": 2 * 0.78084, "O": 2 * 0.20948, "Ar": 0.00934}
_HELIUM = {"He": 1.0}
_MOLAR_MASS = {"N": 14.0067, "O": 15.9994, "Ar": 39.948, "He": 4.002602}  # g/mol
_GAS_CONSTANT = 8.314462618  # J/(mol K)

LORENTZ_NONE, LORENTZ_INVERSE_Q, LORENTZ_SIN_TWO_THETA = 0, 1, 2
_LORENTZ_CODES = {
    "none": LORENTZ_NONE,
    "inverse_q": LORENTZ_INVERSE_Q,
    "sin_two_theta": LORENTZ_SIN_TWO_THETA,
}


@dataclass(frozen=True)
class CorrectionSettings:
    """Which factors apply, and what the models don't say about the materials.

    Attributes:
        solid_angle, polarization, efficiency, air: False leaves that factor at 1
        lorentz: "none", "inverse_q" or "sin_two_theta"
        sensor_material: element or compound of the sensor, None: the panel's own
        sensor_thickness: in mm, None: the panel's own
        sensor_mu: attenuation coefficient in 1/mm, None: the panel's own
        medium: "air", "helium" or "vacuum", what fills flight_path_length
        flight_path_length: in mm, None: from sample to pixel; what is left of the way is air
        pressure: of the gases, in hPa
        temperature: of the gases, in K
    """

    solid_angle: bool = True
    polarization: bool = True
    efficiency: bool = True
    air: bool = True
    lorentz: str = "none"
    sensor_material: str | None = None
    sensor_thickness: float | None = None
    sensor_mu: float | None = None
    medium: str = "air"
    flight_path_length: float | None = None
    pressure: float = 1013.25
    temperature: float = 293.15

    @property
    def lorentz_code(self) -> int:
        return _LORENTZ_CODES[self.lorentz]


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


def sensor_efficiency(mu, thickness, cos_obliquity):
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


def lorentz_factor(q, sin_two_theta, kind):
    """Lorentz factor, for those who want one.

    A still samples a continuous function of q on the Ewald sphere: how long a point stays in
    reflecting position has no meaning, and no Lorentz factor applies. (Rotation, and the
    integration of spots across the sphere, bring it in.)

    Args:
        q: |q|, 1/Angstrom
        sin_two_theta: sine of the scattering angle
        kind: LORENTZ_NONE -> 1, LORENTZ_INVERSE_Q -> 1/|q| (times 1/Angstrom),
            LORENTZ_SIN_TWO_THETA -> 1/sin(2 theta)
    """
    if kind == LORENTZ_INVERSE_Q:
        return 1.0 / q
    if kind == LORENTZ_SIN_TWO_THETA:
        return 1.0 / sin_two_theta
    return 1.0 + 0.0 * q


def total_correction_mult(omega, p, qe, a, l=1.0):
    """The multiplier that turns photons per second into photons per second and steradian at unit
    polarisation and efficiency: 1 / (Omega P QE A L).

    Args:
        omega: solid_angle, sr
        p: polarization
        qe: sensor_efficiency
        a: air_transmission
        l: lorentz_factor
    """
    return 1.0 / (omega * p * qe * a * l)


def gas_attenuation(gas: str, wavelength: float, pressure: float, temperature: float) -> float:
    """Attenuation coefficient of an ideal gas, 1/mm, from NIST's tables in cctbx.

    Args:
        gas: "air" (dry), "helium" or "vacuum"
        wavelength: Angstrom
        pressure: hPa
        temperature: K
    """
    if gas == "vacuum":
        return 0.0
    composition = {"air": _AIR, "helium": _HELIUM}[gas]
    # g of each element in a mol of gas; 1 hPa/(J/(mol K) K) = 100 mol/m^3 = 1e-7 mol/mm^3
    moles_per_mm3 = 1e-7 * pressure / (_GAS_CONSTANT * temperature)
    mu_per_mole = sum(
        n * _MOLAR_MASS[element] * mass_attenuation(element, wavelength)
        for element, n in composition.items()
    )  # cm^2/mol
    return 100.0 * mu_per_mole * moles_per_mm3


def mass_attenuation(material: str, wavelength: float) -> float:
    """mu/rho in cm^2/g (Hubbell & Seltzer, NISTIR 5632, as tabulated in cctbx).

    Between its energies the table is interpolated by a cubic in the logarithms, from one
    absorption edge to the next: straight lines between 10 and 15 keV are 1.6 % too high for the air.

    Raises:
        ValueError: material unknown, or the wavelength is outside the table.
    """
    energy = factor_ev_angstrom / wavelength * 1e-6  # MeV
    try:
        table = attenuation_coefficient.get_table(material)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"There is no attenuation table of {material!r}: give sensor.material= or sensor.mu="
        ) from error
    x, y = np.log(np.array(table.energy())), np.log(np.array(table.mu_rho()))
    if not x[0] <= math.log(energy) <= x[-1]:
        raise ValueError(
            f"The attenuation table of {material} has no value at {wavelength:g} Angstrom"
        )
    # Edges are where the table gives two values at one energy
    edges = np.flatnonzero(np.diff(x) == 0) + 1
    for part in np.split(np.arange(len(x)), edges):
        if len(part) > 1 and x[part[0]] <= math.log(energy) <= x[part[-1]]:
            return math.exp(float(PchipInterpolator(x[part], y[part])(math.log(energy))))
    raise ValueError(f"The attenuation table of {material} has no value at {wavelength:g} Angstrom")


def solid_attenuation(material: str, wavelength: float) -> float:
    """Attenuation coefficient of a sensor material, 1/mm, from NIST's tables in cctbx.

    Raises:
        ValueError: material unknown, or the wavelength is outside the table.
    """
    mu_rho = mass_attenuation(material, wavelength)
    return 0.1 * mu_rho * float(attenuation_coefficient.get_table(material).density())


def sensor_of(panel, wavelength: float, settings: CorrectionSettings) -> tuple[float, float] | None:
    """(mu in 1/mm, thickness in mm) of a panel's sensor: from the parameters, else from the
    panel, else from the panel's material. None where that is not known.

    Raises:
        ValueError: unknown material.
    """
    thickness = settings.sensor_thickness or panel.get_thickness()
    if settings.sensor_mu is not None:
        mu = settings.sensor_mu
    elif settings.sensor_material is not None:
        mu = solid_attenuation(settings.sensor_material, wavelength)
    elif panel.get_mu() > 0:
        mu = panel.get_mu()
    elif panel.get_material():
        mu = solid_attenuation(panel.get_material(), wavelength)
    else:
        mu = 0.0
    if not (mu > 0 and thickness > 0):
        return None
    return float(mu), float(thickness)


# Where division by zero is an error it is a branch, and the loop no vector code
_solid_angle = njit(error_model="numpy")(solid_angle)
_polarization = njit(error_model="numpy")(polarization)
_lorentz_factor = njit(lorentz_factor)

_BLOCK = 32  # pixels of a row between which an exponent hardly changes
_FAR = 0.1  # where it does: a Taylor series of six terms is good to 2e-11 up to here


@njit(cache=True)
def _exponentials(x, out):
    """exp(x) of a convex or concave and slowly changing x, a block of pixels at a time.

    Of all that a pixel's geometry needs, exp takes longest, and is not made vector code of.
    """
    for first in range(0, x.size, _BLOCK):
        last = min(first + _BLOCK, x.size)
        middle = x[(first + last) // 2]
        # Of such functions one of the ends is furthest from the middle
        if max(abs(x[first] - middle), abs(x[last - 1] - middle)) > _FAR:
            for j in range(first, last):
                out[j] = math.exp(x[j])
            continue
        scale = math.exp(middle)
        for j in range(first, last):
            d = x[j] - middle
            series = 1.0 + d * (1 / 5 + d * (1 / 30))
            series = 1.0 + d * (1.0 + d * (1 / 2 + d * (1 / 6 + d * (1 / 24) * series)))
            out[j] = scale * series


@njit(cache=True, error_model="numpy")
def _row_of_q(x, y, frame, s0, wavelength, qx, qy, qz):
    """q of pixels at x, y mm on the panel.

    Here and in _row_of_factors: no branch, no function that is not a processor's instruction, numbers
    instead of elements of arrays, and few arrays: so it becomes vector code.
    """
    fx, fy, fz = frame[0]
    sx, sy, sz = frame[1]
    ox, oy, oz = frame[3]
    bx, by, bz = s0
    wavenumber = 1.0 / wavelength
    for j in range(x.size):
        rx = ox + x[j] * fx + y[j] * sx
        ry = oy + x[j] * fy + y[j] * sy
        rz = oz + x[j] * fz + y[j] * sz
        inverse = 1.0 / math.sqrt(rx * rx + ry * ry + rz * rz)
        qx[j] = (rx * inverse - bx) * wavenumber
        qy[j] = (ry * inverse - by) * wavenumber
        qz[j] = (rz * inverse - bz) * wavenumber


@njit(cache=True, error_model="numpy")
def _row_of_factors(
    x,
    y,
    frame,
    s0,
    normal,
    fraction,
    area,
    gas,
    medium_length,
    use_solid_angle,
    use_polarization,
    efficiency,
    air,
    path,
):
    """Omega P, exponent of the air and 1/cos(obliquity) of pixels at x, y mm on the panel."""
    fx, fy, fz = frame[0]
    sx, sy, sz = frame[1]
    nx, ny, nz = frame[2]
    ox, oy, oz = frame[3]
    bx, by, bz = s0
    px, py, pz = normal
    mu_air, mu_medium = gas
    for j in range(x.size):
        rx = ox + x[j] * fx + y[j] * sx
        ry = oy + x[j] * fy + y[j] * sy
        rz = oz + x[j] * fz + y[j] * sz
        distance = math.sqrt(rx * rx + ry * ry + rz * rz)
        inverse = 1.0 / distance
        ux, uy, uz = rx * inverse, ry * inverse, rz * inverse
        cos_obliquity = abs(ux * nx + uy * ny + uz * nz)
        omega = _solid_angle(area, cos_obliquity, distance)
        p = _polarization(ux * bx + uy * by + uz * bz, ux * px + uy * py + uz * pz, fraction)
        efficiency[j] = (omega if use_solid_angle else 1.0) * (p if use_polarization else 1.0)
        inside = min(distance, medium_length)
        air[j] = -mu_medium * inside - mu_air * (distance - inside)
        path[j] = 1.0 / cos_obliquity


@njit(cache=True)
def _interpolated(nodes, u, i0, i1, step, out):
    """A row of pixels between two rows of nodes, u of the way from i0 to i1."""
    j0 = 0
    for first in range(0, out.size, step):
        j1 = min(j0 + 1, nodes.shape[1] - 1)
        left = (1 - u) * nodes[i0, j0] + u * nodes[i1, j0]
        slope = ((1 - u) * nodes[i0, j1] + u * nodes[i1, j1] - left) / step
        for j in range(first, min(first + step, out.size)):
            out[j] = left + slope * (j - first)
        j0 += 1


@njit(cache=True)
def _row_of_geometry(
    x,
    y,
    stretch,
    frame,
    pixel_area,
    s0,
    wavelength,
    normal,
    fraction,
    sensor,
    gas,
    medium_length,
    use_solid_angle,
    use_polarization,
    lorentz,
    exponent,
    path,
    factor,
    qx,
    qy,
    qz,
    e,
):
    """q and E of points at x, y mm on the panel that follow one another on a line; see geometry_of_panel.

    Args:
        stretch: area of the sensor's surface that a pixel there stands for over that of the pixel
        exponent, path, factor: room for as many float64
        qx, qy, qz, e: filled
    """
    _row_of_q(x, y, frame, s0, wavelength, qx, qy, qz)
    _row_of_factors(
        x,
        y,
        frame,
        s0,
        normal,
        fraction,
        pixel_area,
        gas,
        medium_length,
        use_solid_angle,
        use_polarization,
        e,
        exponent,
        path,
    )
    if use_solid_angle:
        for j in range(e.size):
            e[j] *= stretch[j]
    if gas[0] > 0 or gas[1] > 0:
        _exponentials(exponent, factor)
        for j in range(e.size):
            e[j] *= factor[j]
    if sensor[0] > 0:
        for j in range(e.size):
            exponent[j] = -sensor[0] * sensor[1] * path[j]
        _exponentials(exponent, factor)
        for j in range(e.size):
            e[j] *= 1.0 - factor[j]
    if lorentz != 0:
        for j in range(e.size):
            e[j] *= _lorentz_of_pixel(qx[j], qy[j], qz[j], s0, wavelength, lorentz)


@njit(cache=True)
def geometry_of_panel(
    q,
    efficiency,
    shift,
    step,
    jacobian,
    frame,
    pixel_size,
    s0,
    wavelength,
    normal,
    fraction,
    sensor,
    gas,
    medium_length,
    use_solid_angle,
    use_polarization,
    lorentz,
):
    """q and E of every pixel of a flat panel, in one pass (compiled).

    Args:
        q: (3, n_slow, n_fast) float32, filled with (s1 - s0)/wavelength, 1/Angstrom
        efficiency: (n_slow, n_fast) float32, filled with E = Omega P QE A L
        shift: (2, n, m) mm in fast and slow from the plain pixel centre to where its photons
            enter the sensor, at the nodes of a coarse grid, `step` pixels apart
        step: of that grid in pixels; node (i, j) is the centre of pixel (i step, j step)
        jacobian: (n, m) area of the sensor's surface that a pixel stands for over that of
            the pixel, at the same nodes
        frame: (4, 3) fast axis, slow axis, panel normal (unit vectors), origin (mm)
        pixel_size: fast, slow, mm
        s0: (3,) unit vector of the beam
        normal: (3,) unit vector of polarisation; fraction: polarisation fraction
        sensor: mu (1/mm) and thickness (mm); mu = 0: QE is 1
        gas: mu of the air and of the gas in the flight path, 1/mm
        medium_length: of the flight path, mm
        use_solid_angle, use_polarization: else these factors are 1
        lorentz: code of the Lorentz factor
    """
    n_slow, n_fast = efficiency.shape
    area = pixel_size[0] * pixel_size[1]
    x, y, stretch, e = np.empty(n_fast), np.empty(n_fast), np.ones(n_fast), np.empty(n_fast)
    exponent, path, factor = np.empty(n_fast), np.empty(n_fast), np.empty(n_fast)
    for i in range(n_slow):
        x[:] = 0.0
        y[:] = 0.0
        if step > 0:
            i0 = i // step
            u = (i - i0 * step) / step
            i1 = min(i0 + 1, shift.shape[1] - 1)
            _interpolated(shift[0], u, i0, i1, step, x)
            _interpolated(shift[1], u, i0, i1, step, y)
            _interpolated(jacobian, u, i0, i1, step, stretch)
        for j in range(n_fast):
            x[j] += (j + 0.5) * pixel_size[0]
            y[j] += (i + 0.5) * pixel_size[1]
        _row_of_geometry(
            x,
            y,
            stretch,
            frame,
            area,
            s0,
            wavelength,
            normal,
            fraction,
            sensor,
            gas,
            medium_length,
            use_solid_angle,
            use_polarization,
            lorentz,
            exponent,
            path,
            factor,
            q[0, i],
            q[1, i],
            q[2, i],
            e,
        )
        for j in range(n_fast):
            # A pixel without one is not used; NaN would spoil sums over its row
            efficiency[i, j] = e[j] if abs(e[j]) < np.inf else 0.0


@njit(cache=True)
def geometry_at_points(
    points,
    stretch,
    nodes,
    frame,
    pixel_size,
    s0,
    wavelength,
    normal,
    fraction,
    sensor,
    gas,
    medium_length,
    use_solid_angle,
    use_polarization,
    lorentz,
):
    """q and E of pixels with given centres (compiled).

    Args:
        points: (n, m, 2) mm on the panel, where their photons enter the sensor
        stretch: (n, m), as jacobian of geometry_of_panel
        nodes: (4, n, m) float64, filled with q and E

    The others are those of geometry_of_panel.
    """
    m = points.shape[1]
    exponent, path, factor = np.empty(m), np.empty(m), np.empty(m)
    for i in range(points.shape[0]):
        _row_of_geometry(
            points[i, :, 0].copy(),
            points[i, :, 1].copy(),
            stretch[i],
            frame,
            pixel_size[0] * pixel_size[1],
            s0,
            wavelength,
            normal,
            fraction,
            sensor,
            gas,
            medium_length,
            use_solid_angle,
            use_polarization,
            lorentz,
            exponent,
            path,
            factor,
            nodes[0, i],
            nodes[1, i],
            nodes[2, i],
            nodes[3, i],
        )


@njit(cache=True)
def _lorentz_of_pixel(qx, qy, qz, s0, wavelength, lorentz):
    # A pixel on the beam itself has no Lorentz factor: it stays unusable (E = 0)
    q_length = math.sqrt(qx * qx + qy * qy + qz * qz)
    cos_two_theta = 1.0 + wavelength * (qx * s0[0] + qy * s0[1] + qz * s0[2])
    sin_two_theta = math.sqrt(max(0.0, 1.0 - cos_two_theta * cos_two_theta))
    if q_length > 0 and sin_two_theta > 0:
        return _lorentz_factor(q_length, sin_two_theta, lorentz)
    return 0.0
