"""Per-pixel geometry of one detector and beam, computed once for all stills that share them."""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import logging
import os
from dataclasses import astuple, dataclass, field

import numpy as np

from dxtbx import flumpy

from dials.array_family import flex

from dials_diffuse.geometry.corrections import (
    CorrectionSettings,
    gas_attenuation,
    geometry_at_points,
    geometry_of_panel,
    sensor_of,
)
from dials_diffuse.geometry.cubic import at_middles, fill_planes, node_positions
from dials_diffuse.io.json_file import write_json

logger = logging.getLogger("dials.diffuse.geometry")

# Interpolated pixel positions are within this of dxtbx's own, in pixels
POSITION_TOLERANCE = 1e-3
# and those of polynomials between nodes within this of the exact geometry, in pixels; their E within this of itself
NODE_TOLERANCE = 1e-4
E_TOLERANCE = 3e-7
NODE_STEPS = (64, 32, 16, 8)  # pixels between nodes
# Strategies that are smooth functions of the pixel; others are evaluated at every pixel
_SMOOTH = ("SimplePxMmStrategy", "ParallaxCorrectedPxMmStrategy")


@dataclass(frozen=True)
class PanelGeometry:
    """What every pixel of a panel sees.

    Attributes:
        planes: (3, n_slow, n_fast) float32, components of q in 1/Angstrom, lab frame,
            q = (s1_hat - s0_hat)/wavelength at the pixel's centre (the first pixel's is 0.5, 0.5)
        efficiency: (n_slow, n_fast) float32, E = Omega P QE A (L), sr; finite, 0 where there is none
    """

    planes: np.ndarray
    efficiency: np.ndarray

    @property
    def q(self) -> np.ndarray:
        """(n_slow, n_fast, 3) float32 view of q, 1/Angstrom"""
        return np.moveaxis(self.planes, 0, -1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.efficiency.shape

    @property
    def nbytes(self) -> int:
        return self.planes.nbytes + self.efficiency.nbytes

    @functools.cached_property
    def largest_q(self) -> float:
        """A bound of |q|, 1/Angstrom"""
        # no pixel's |q| exceeds those of the corners by more than rounding
        corners = self.planes[:, :: max(1, self.shape[0] - 1), :: max(1, self.shape[1] - 1)]
        return 1.01 * float(np.linalg.norm(corners, axis=0).max()) + 1e-6

    def q_length(self) -> np.ndarray:
        """(n_slow, n_fast) float32 |q| = 1/d, 1/Angstrom"""
        x, y, z = self.planes
        return np.sqrt(x * x + y * y + z * z)

    def restrict(
        self, mask: np.ndarray, d_min: float | None = None, d_max: float | None = None
    ) -> None:
        """Set the pixels of a mask (n_slow, n_fast) that are beyond the limits (Angstrom), or have no E, to False."""
        if d_min or d_max:
            q = self.q_length()
            mask &= q <= (1 / d_min if d_min else np.inf)
            mask &= q >= (1 / d_max if d_max else 0.0)
        mask &= self.efficiency > 0


@dataclass(frozen=True)
class DetectorGeometry:
    """The panels of a detector as one beam sees them."""

    panels: list[PanelGeometry] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(panel.nbytes for panel in self.panels)


def geometry_key(detector, beam, settings: CorrectionSettings) -> str:
    """A name for all that the geometry depends on: equal models have equal keys."""
    content = json.dumps(
        [detector.to_dict(), beam.to_dict(), astuple(settings)], sort_keys=True, default=str
    )
    return hashlib.sha1(content.encode()).hexdigest()


def _check_beam(beam) -> None:
    wavelength = beam.get_wavelength()
    if not (np.isfinite(wavelength) and wavelength > 0):
        raise ValueError(
            f"The wavelength is {wavelength}: correct the beam model (dials.modify_geometry or "
            "dials.import geometry.beam.wavelength=)"
        )


def _millimetres(panel, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """(n, m, 2) mm on the panel of pixel coordinates fast (m,), slow (n,), through dxtbx."""
    x, y = np.meshgrid(fast, slow)
    pixels = flumpy.vec_from_numpy(np.stack([x.ravel(), y.ravel()], axis=1))
    mm = flumpy.to_numpy(panel.pixel_to_millimeter(flex.vec2_double(pixels)))
    return mm.reshape(len(slow), len(fast), 2)


def _displacement(panel, step: int) -> np.ndarray:
    """(2, n, m) mm from plain pixel centres to the model's, every `step` pixels from the first,
    the last node at or beyond the last pixel."""
    n_fast, n_slow = panel.get_image_size()
    fast = np.arange(0, n_fast - 1 + step, step) + 0.5
    slow = np.arange(0, n_slow - 1 + step, step) + 0.5
    size = np.array(panel.get_pixel_size())
    plain = np.stack(np.meshgrid(fast, slow), axis=-1) * size
    return np.moveaxis(_millimetres(panel, fast, slow) - plain, -1, 0)


def pixel_shifts(panel) -> tuple[np.ndarray, int]:
    """How far parallax moves the pixels of a panel, on a grid coarse enough to be cheap.

    dxtbx takes 1.6 microseconds for one pixel; parallax is so smooth that linear interpolation on
    a coarse grid gives it to POSITION_TOLERANCE, which is checked in the middle between nodes.

    Returns:
        ((2, n, m) mm fast and slow, nodes `step` pixels apart); (empty, 0) where there is no shift
    """
    n_fast, n_slow = panel.get_image_size()
    if type(panel.get_px_mm_strategy()).__name__ == "SimplePxMmStrategy":
        return np.zeros((2, 0, 0)), 0
    tolerance = 0.5 * POSITION_TOLERANCE * min(panel.get_pixel_size())
    step = 32 if type(panel.get_px_mm_strategy()).__name__ in _SMOOTH else 1
    coarse = _displacement(panel, step)
    while step > 1:
        fine = _displacement(panel, step // 2)
        if _interpolation_error(coarse, fine) < tolerance:
            return coarse, step
        coarse, step = fine, step // 2
    return coarse, 1


def _interpolation_error(coarse: np.ndarray, fine: np.ndarray) -> float:
    """Largest difference between every second node of a grid and the mean of its neighbours."""
    worst = 0.0
    n, m = fine.shape[1:]
    rows, columns = np.arange(n), np.arange(m)
    r0, c0 = rows // 2, columns // 2
    r1 = np.minimum(r0 + rows % 2, coarse.shape[1] - 1)
    c1 = np.minimum(c0 + columns % 2, coarse.shape[2] - 1)
    for c, f in zip(coarse, fine):
        linear = 0.25 * (
            c[np.ix_(r0, c0)] + c[np.ix_(r0, c1)] + c[np.ix_(r1, c0)] + c[np.ix_(r1, c1)]
        )
        worst = max(worst, float(np.abs(linear - f).max()))
    return worst


def _area_ratio(shift: np.ndarray, step: int, pixel_size) -> np.ndarray:
    """(n, m) area on the sensor's surface over area of the pixel: Jacobian of 1 + shift.

    Photons that a pixel counts entered the sensor where its column, seen along the rays, meets
    the surface; where parallax grows across the panel these areas are not all alike.
    """
    if min(shift.shape[1:]) < 2:
        return np.ones(shift.shape[1:])
    x_slow, x_fast = np.gradient(shift[0], step * pixel_size[1], step * pixel_size[0])
    y_slow, y_fast = np.gradient(shift[1], step * pixel_size[1], step * pixel_size[0])
    return (1 + x_fast) * (1 + y_slow) - x_slow * y_fast


def compute_panel(panel, beam, settings: CorrectionSettings) -> PanelGeometry:
    """Geometry of one panel, computed in double precision.

    Raises:
        ValueError: wavelength or pixel size is not a positive number.
    """
    _check_beam(beam)
    n_fast, n_slow = panel.get_image_size()
    pixel_size = np.array(panel.get_pixel_size(), dtype=float)
    if not (np.isfinite(pixel_size).all() and pixel_size.min() > 0):
        raise ValueError(f"The pixel size of panel {panel.get_name()} is {tuple(pixel_size)} mm")
    constants = _constants_of(panel, beam, settings)
    # Planes of one array: the components of q, and E
    planes = np.empty((4, n_slow, n_fast), dtype=np.float32)
    smooth = type(panel.get_px_mm_strategy()).__name__ in _SMOOTH and settings.lorentz == "none"
    if not (smooth and _fill_from_nodes(panel, constants, planes)):
        shift, step = pixel_shifts(panel)
        ratio = _area_ratio(shift, step, pixel_size) if step else np.zeros((0, 0))
        geometry_of_panel(
            planes[:3], planes[3], np.ascontiguousarray(shift), step, ratio, *constants
        )
    return PanelGeometry(planes[:3], planes[3])


def _constants_of(panel, beam, settings: CorrectionSettings) -> tuple:
    """What geometry_of_panel and geometry_at_points need to know, from `frame` on."""
    wavelength = beam.get_wavelength()
    sensor = sensor_of(panel, wavelength, settings) if settings.efficiency else (0.0, 0.0)
    air = medium = 0.0
    length = 0.0
    if settings.air:
        air = gas_attenuation("air", wavelength, settings.pressure, settings.temperature)
        medium = gas_attenuation(
            settings.medium, wavelength, settings.pressure, settings.temperature
        )
        length = np.inf if settings.flight_path_length is None else settings.flight_path_length
    frame = np.array(
        [panel.get_fast_axis(), panel.get_slow_axis(), panel.get_normal(), panel.get_origin()]
    )
    normal = np.array(beam.get_polarization_normal(), dtype=float)
    return (
        frame,
        np.array(panel.get_pixel_size(), dtype=float),
        np.array(beam.get_unit_s0()),
        float(wavelength),
        normal / np.linalg.norm(normal),
        float(beam.get_polarization_fraction()),
        np.array(sensor or (0.0, 0.0)),
        np.array([air, medium]),
        float(length),
        settings.solid_angle,
        settings.polarization,
        settings.lorentz_code,
    )


def _exact_geometry(panel, fast: np.ndarray, slow: np.ndarray, constants: tuple) -> np.ndarray:
    """(4, n, m) q and E at pixel coordinates fast (m,), slow (n,), evenly spaced, through dxtbx's own conversion."""
    points = _millimetres(panel, fast, slow)
    # The Jacobian of the conversion, see _area_ratio
    x_slow, x_fast = np.gradient(points[..., 0], slow, fast, edge_order=2)
    y_slow, y_fast = np.gradient(points[..., 1], slow, fast, edge_order=2)
    stretch = np.abs(x_fast * y_slow - x_slow * y_fast) / np.prod(panel.get_pixel_size())
    values = np.empty((4, len(slow), len(fast)))
    geometry_at_points(points, stretch, values, *constants)
    return values


def _fill_from_nodes(panel, constants: tuple, planes: np.ndarray) -> bool:
    """Fill planes (4, n_slow, n_fast) with q and E from nodes as far apart as they may be; False if they had to be so close
    that every pixel is as well computed by itself.

    What the polynomials between nodes give is compared with dxtbx's and the formulas' own in the middle between them.
    """
    n_fast, n_slow = panel.get_image_size()
    for step in NODE_STEPS:
        fast, slow = (node_positions(n, step) for n in (n_fast, n_slow))
        nodes = _exact_geometry(panel, fast, slow, constants)
        exact = _exact_geometry(panel, fast[:-1] + step / 2, slow[:-1] + step / 2, constants)[
            :, 1:-1, 1:-1
        ]
        found = at_middles(nodes)
        pixel = np.linalg.norm(np.diff(nodes[:3], axis=2), axis=0).min() / step
        # written so that NaN is not within
        if (
            np.abs(found - exact)[:3].max() < NODE_TOLERANCE * pixel
            and np.abs(found[3] / exact[3] - 1).max() < E_TOLERANCE
            and nodes[3].min() > 0
        ):
            fill_planes(nodes, step, planes)
            return True
    return False


def warn_of_unknown_sensors(detector, beam, settings: CorrectionSettings) -> bool:
    """Log a warning if the efficiency of some panel can't be known; True if so."""
    if not settings.efficiency:
        return False
    names = [
        p.get_name() for p in detector if sensor_of(p, beam.get_wavelength(), settings) is None
    ]
    if names:
        logger.warning(
            "Warning: sensor material or thickness of %d panel(s) is not known: efficiency taken as 1 "
            "there (give sensor.material= and sensor.thickness=)",
            len(names),
        )
    return bool(names)


class GeometryCache:
    """Geometries of the models met last, at most `max_bytes` of them, and those that an earlier
    process stored in a folder, which are mapped into memory and so are there only once.

    Args:
        settings: of the corrections
        folder: where `store` puts geometries and `get` looks for them
        max_bytes: beyond this, what was used longest ago is forgotten
    """

    def __init__(
        self, settings: CorrectionSettings, folder: str | None = None, max_bytes: int = 400_000_000
    ):
        self.settings = settings
        self.folder = folder
        self.max_bytes = max_bytes
        self._known: collections.OrderedDict[str, DetectorGeometry] = collections.OrderedDict()

    def get(self, detector, beam, key: str | None = None) -> DetectorGeometry:
        """The geometry of a detector and beam.

        Args:
            key: geometry_key of them, if the caller has it at hand

        Raises:
            ValueError: see compute_panel
        """
        key = key or geometry_key(detector, beam, self.settings)
        geometry = self._known.get(key)
        if geometry is None:
            geometry = self._load(key)
            if geometry is None:
                geometry = DetectorGeometry(
                    [compute_panel(panel, beam, self.settings) for panel in detector]
                )
            self._known[key] = geometry
            while (
                len(self._known) > 1
                and sum(g.nbytes for g in self._known.values()) > self.max_bytes
            ):
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return geometry

    def store(self, detector, beam, key: str | None = None) -> None:
        """Compute a geometry and put it into the folder for other processes."""
        key = key or geometry_key(detector, beam, self.settings)
        panels = self.get(detector, beam, key).panels
        path = self._path(key)
        flat = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.float32, shape=(sum(4 * p.efficiency.size for p in panels),)
        )
        start = 0
        for panel in panels:
            for part in (panel.planes, panel.efficiency):
                flat[start : start + part.size] = part.ravel()
                start += part.size
        shapes = [list(panel.shape) for panel in panels]
        write_json(f"{path}.json", shapes)
        del self._known[key]

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, f"{key}.npy")

    def _load(self, key: str) -> DetectorGeometry | None:
        if self.folder is None or not os.path.exists(f"{self._path(key)}.json"):
            return None
        with open(f"{self._path(key)}.json") as handle:
            shapes = json.load(handle)
        # Private, not read-only: numba would compile everything once more for read-only arrays
        flat = np.load(self._path(key), mmap_mode="c").view(np.ndarray)
        panels, start = [], 0
        for n_slow, n_fast in shapes:
            size = n_slow * n_fast
            planes = flat[start : start + 3 * size].reshape(3, n_slow, n_fast)
            efficiency = flat[start + 3 * size : start + 4 * size].reshape(n_slow, n_fast)
            panels.append(PanelGeometry(planes, efficiency))
            start += 4 * size
        return DetectorGeometry(panels)


def detector_geometry(
    detector, beam, settings: CorrectionSettings | None = None
) -> DetectorGeometry:
    """q and E of every pixel of a detector; see PanelGeometry.

    Raises:
        ValueError: wavelength or pixel size is not a positive number.
    """
    settings = settings or CorrectionSettings()
    return DetectorGeometry([compute_panel(panel, beam, settings) for panel in detector])
