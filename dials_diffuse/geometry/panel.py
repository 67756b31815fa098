"""q and acceptance of every pixel of a panel, for one detector and beam."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import numpy as np

from dxtbx import flumpy

from dials.array_family import flex

from dials_diffuse.adapters.beams import polarization_normal
from dials_diffuse.geometry.corrections import LORENTZ_CODES, PanelConstants, geometry_at_points
from dials_diffuse.geometry.cubic import at_middles, fill_planes, node_positions
from dials_diffuse.geometry.materials import gas_attenuation, sensor_of
from dials_diffuse.geometry.probe import probe_for
from dials_diffuse.geometry.settings import GeometrySettings

logger = logging.getLogger("dials.diffuse.geometry")

# Polynomials between nodes are within this of the exact positions, in pixels; their E within this of itself
NODE_TOLERANCE = 1e-4
E_TOLERANCE = 3e-7
NODE_STEPS = (64, 32, 16, 8)  # pixels between nodes
# Strategies whose positions are smooth functions of the pixel
_SMOOTH = ("SimplePxMmStrategy", "ParallaxCorrectedPxMmStrategy")


@dataclass(frozen=True)
class PanelGeometry:
    """q and acceptance of every pixel of a panel.

    Attributes:
        planes: (3, n_slow, n_fast) float32, components of q in 1/Angstrom, lab frame,
            q = (s1_hat - s0_hat)/wavelength at the pixel's centre (the first pixel's is 0.5, 0.5)
        acceptance: (n_slow, n_fast) float32, E = Omega P QE A (L), sr; finite, 0 where there is none
    """

    planes: np.ndarray
    acceptance: np.ndarray

    @property
    def q(self) -> np.ndarray:
        """(n_slow, n_fast, 3) float32 view of q, 1/Angstrom"""
        return np.moveaxis(self.planes, 0, -1)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_slow, n_fast)"""
        n_slow, n_fast = self.acceptance.shape
        return n_slow, n_fast

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes"""
        return self.planes.nbytes + self.acceptance.nbytes

    @functools.cached_property
    def largest_q(self) -> float:
        """An upper bound of |q|, 1/Angstrom"""
        # Largest at a corner, but beyond 90 degrees
        slow, fast = (np.append(np.arange(0, n, 16), n - 1) for n in self.shape)
        return (
            1.01 * float(np.linalg.norm(self.planes[:, slow[:, None], fast], axis=0).max()) + 1e-6
        )

    def q_length(self) -> np.ndarray:
        """(n_slow, n_fast) float32 |q| = 1/d, 1/Angstrom"""
        x, y, z = self.planes
        return np.sqrt(x * x + y * y + z * z)

    def restrict(
        self, mask: np.ndarray, d_min: float | None = None, d_max: float | None = None
    ) -> None:
        """Remove pixels without acceptance, or beyond resolution limits, from a mask.

        Args:
            mask: (n_slow, n_fast) bool, True = good; changed in place
            d_min, d_max: Angstrom, None or 0 for no limit
        """
        if d_min or d_max:
            q = self.q_length()
            mask &= q <= (1 / d_min if d_min else np.inf)
            mask &= q >= (1 / d_max if d_max else 0.0)
        mask &= self.acceptance > 0


def compute_panel(panel, beam, settings: GeometrySettings) -> PanelGeometry:
    """q and acceptance of every pixel of one panel.

    Both are computed in double precision at nodes 8 to 64 pixels apart and interpolated by cubics, to 1e-4
    pixels in position and 3e-7 in acceptance. Where that does not hold, all pixels are computed. Acceptances that
    are not smooth over the panel (a Lorentz factor; the end of a flight tube at a distance that some pixels
    reach and others don't) and models of pixel positions that are not dxtbx's own are computed pixel by
    pixel, which needs another 56 bytes of memory a pixel.

    Args:
        panel, beam: dxtbx models
        settings: factors of the acceptance

    Returns:
        q in the lab frame (1/Angstrom, |q| = 1/d) and acceptance (sr) of every pixel, single precision

    Raises:
        ValueError: wavelength or pixel size is not a positive number.
    """
    wavelength = beam.get_wavelength()
    if not (np.isfinite(wavelength) and wavelength > 0):
        raise ValueError(
            f"The wavelength is {wavelength}: correct the beam model (dials.modify_geometry or "
            "dials.import geometry.beam.wavelength=)"
        )
    pixel_size = np.array(panel.get_pixel_size(), dtype=float)
    if not (np.isfinite(pixel_size).all() and pixel_size.min() > 0):
        raise ValueError(f"The pixel size of panel {panel.get_name()} is {tuple(pixel_size)} mm")
    constants = _constants_of(panel, beam, settings)
    n_fast, n_slow = panel.get_image_size()
    planes = np.empty((4, n_slow, n_fast), dtype=np.float32)
    smooth = type(panel.get_px_mm_strategy()).__name__ in _SMOOTH
    interpolated = smooth and settings.corrections.lorentz == "none"
    if not (interpolated and _fill_from_nodes(panel, constants, planes)):
        geometry_at_points(_points_of_pixels(panel, smooth), constants, planes)
    return PanelGeometry(planes[:3], planes[3])


def detector_geometry(detector, beam, settings: GeometrySettings) -> list[PanelGeometry]:
    """Geometry of every panel of a detector.

    Raises:
        ValueError: wavelength or pixel size is not a positive number.
    """
    return [compute_panel(panel, beam, settings) for panel in detector]


def _constants_of(panel, beam, settings: GeometrySettings) -> PanelConstants:
    wavelength = float(beam.get_wavelength())
    corrections, path = settings.corrections, settings.flight_path
    probe = probe_for(beam, settings)
    sensor = None
    if corrections.efficiency:
        sensor = sensor_of(panel, wavelength, settings.sensor, probe.attenuated)
    gas = np.zeros(2)
    if corrections.air and probe.attenuated:
        for number, name in enumerate(("air", path.medium)):
            gas[number] = gas_attenuation(name, wavelength, path.pressure, path.temperature)
    polarized = corrections.polarization and probe.polarized
    return PanelConstants(
        frame=np.array(
            [panel.get_fast_axis(), panel.get_slow_axis(), panel.get_normal(), panel.get_origin()]
        ),
        pixel_area=float(np.prod(panel.get_pixel_size())),
        s0=np.array(beam.get_unit_s0()),
        wavelength=wavelength,
        normal=polarization_normal(beam) if polarized else np.zeros(3),
        fraction=float(beam.get_polarization_fraction()),
        sensor=np.array(sensor or (0.0, 0.0)),
        gas=gas,
        path_length=np.inf if path.length is None else float(path.length),
        use_solid_angle=corrections.solid_angle,
        use_polarization=polarized,
        lorentz=LORENTZ_CODES[corrections.lorentz],
    )


def _points(panel, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Where the photons of pixels enter the sensor, through dxtbx's own conversion (1.6 microseconds each).

    Photons that a pixel counts entered the sensor where its column, seen along the rays, meets the
    surface; where parallax grows across the panel these areas are not all alike.

    Args:
        fast, slow: (m,), (n,) pixel coordinates, evenly spaced

    Returns:
        (3, n, m): fast and slow coordinate, mm, and the area on the surface over that of the pixel (the Jacobian
        of the conversion)
    """
    x, y = np.meshgrid(fast, slow)
    pixels = flumpy.vec_from_numpy(np.stack([x.ravel(), y.ravel()], axis=1))
    mm = flumpy.to_numpy(panel.pixel_to_millimeter(flex.vec2_double(pixels)))
    points = np.ones((3, len(slow), len(fast)))
    points[0], points[1] = mm[:, 0].reshape(x.shape), mm[:, 1].reshape(x.shape)
    if min(x.shape) > 2:
        x_slow, x_fast = np.gradient(points[0], slow, fast, edge_order=2)
        y_slow, y_fast = np.gradient(points[1], slow, fast, edge_order=2)
        points[2] = np.abs(x_fast * y_slow - x_slow * y_fast) / np.prod(panel.get_pixel_size())
    return points


def _points_of_pixels(panel, smooth: bool) -> np.ndarray:
    """(3, n_slow, n_fast) `_points` of every pixel, between close nodes where they are smooth."""
    n_fast, n_slow = panel.get_image_size()
    if not smooth:
        return _points(panel, np.arange(n_fast) + 0.5, np.arange(n_slow) + 0.5)
    step = 8
    points = np.empty((3, n_slow, n_fast))
    fill_planes(_points(panel, *(node_positions(n, step) for n in (n_fast, n_slow))), step, points)
    return points


def _exact_geometry(panel, fast, slow, constants: PanelConstants) -> np.ndarray:
    """(4, n, m) q and E at pixel coordinates fast (m,) and slow (n,), evenly spaced."""
    values = np.empty((4, len(slow), len(fast)))
    geometry_at_points(_points(panel, fast, slow), constants, values)
    return values


def _fill_from_nodes(panel, constants: PanelConstants, planes: np.ndarray) -> bool:
    """Fill planes with q and E, interpolated between nodes as far apart as the tolerances allow.

    The polynomials between nodes are compared with the exact values in the middle between them.

    Args:
        planes: (4, n_slow, n_fast) float32, filled in place

    Returns:
        False if even the closest nodes are too far apart
    """
    n_fast, n_slow = panel.get_image_size()
    for step in NODE_STEPS:
        fast, slow = (node_positions(n, step) for n in (n_fast, n_slow))
        nodes = _exact_geometry(panel, fast, slow, constants)
        middles = [positions[:-1] + step / 2 for positions in (fast, slow)]
        exact = _exact_geometry(panel, middles[0], middles[1], constants)[:, 1:-1, 1:-1]
        interpolated = at_middles(nodes)
        pixel = np.linalg.norm(np.diff(nodes[:3], axis=2), axis=0).min() / step
        # written so that NaN is not within
        if (
            nodes[3].min() > 0
            and exact[3].min() > 0
            and np.abs(interpolated - exact)[:3].max() < NODE_TOLERANCE * pixel
            and np.abs(interpolated[3] / exact[3] - 1).max() < E_TOLERANCE
        ):
            fill_planes(nodes, step, planes)
            return True
    return False


def warn_of_unknown_sensors(detector, beam, settings: GeometrySettings) -> bool:
    """Log a warning if the quantum efficiency of some panel can't be known; True if so."""
    if not (settings.corrections.efficiency and probe_for(beam, settings).attenuated):
        return False
    sensors = [sensor_of(panel, beam.get_wavelength(), settings.sensor) for panel in detector]
    if None in sensors:
        logger.warning(
            "Warning: sensor material or thickness of %d panel(s) is not known: their quantum efficiency is "
            "taken as 1 (give sensor.material= and sensor.thickness=)",
            sensors.count(None),
        )
    return None in sensors
