"""Where rows of a table lie: |q| and the direction of s1, and the bins of the scaling model for these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dials_diffuse.model.components import N_AZIMUTHAL, N_RADIAL, nearest_bins

# Patches of an image: rings of |q|, and sectors of a ring; the arcs of nylon are some 25 degrees wide
N_RINGS, N_SECTORS = 12, 20
# Points of each edge of a panel that are looked at for the extent of all directions
_EDGE_POINTS = 33


class Bins(NamedTuple):
    """Ranges of the look-up tables of the scaling model.

    Attributes:
        q_max: end of the table c(|q|), 1/Angstrom
        x0, x1, y0, y1: ends of the table a(x, y), in units of the projected direction of s1
    """

    q_max: float
    x0: float
    x1: float
    y0: float
    y1: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x0, x1, y0, y1)"""
        return self[1:]

    def q_of(self, radial: np.ndarray) -> np.ndarray:
        """|q| of the centres of radial bins, 1/Angstrom"""
        return (np.asarray(radial) + 0.5) * (self.q_max / N_RADIAL)


class Frames(NamedTuple):
    """Beams and detectors of experiments as plain numbers; equal ones are kept once.

    Attributes:
        number: (n,) int64, row of each experiment in the other two
        beams: (G, 10) two unit vectors across the beam, one along it, and 1/wavelength (1/Angstrom)
        panels: (G, P, 9) origin of each panel, and its pixel vectors fast and slow, mm; NaN for panels
            that a detector does not have
    """

    number: np.ndarray
    beams: np.ndarray
    panels: np.ndarray


def across_beam(beam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors (3,) across the beam (3,); the first lies along the laboratory's x as seen along it."""
    start = np.array([1.0, 0.0, 0.0])
    if abs(beam @ start) > 0.9:
        start = np.array([0.0, 1.0, 0.0])
    first = start - (start @ beam) * beam
    first /= np.linalg.norm(first)
    return first, np.cross(beam, first)


def frames_of(experiments) -> Frames:
    """Beams and detectors of experiments.

    Parallax is left out: a fraction of a pixel does not matter to functions that vary over a tenth of
    the detector.
    """
    n_panels = max(len(experiment.detector) for experiment in experiments)
    # equal detectors that were read from different files are different objects
    seen: dict[int, bytes] = {}
    detectors: dict[bytes, np.ndarray] = {}
    numbers: dict[tuple, int] = {}
    beams, panels, number = [], [], []
    for experiment in experiments:
        s0, detector = np.array(experiment.beam.get_s0()), experiment.detector
        if id(detector) not in seen:
            of_detector = _panels(detector, n_panels)
            sizes = np.array([panel.get_image_size() for panel in detector])
            seen[id(detector)] = of_detector.tobytes() + sizes.tobytes()
            detectors.setdefault(seen[id(detector)], of_detector)
        content = seen[id(detector)]
        key = (content, *s0)
        if key not in numbers:
            numbers[key] = len(beams)
            size = np.linalg.norm(s0)
            beams.append(np.concatenate((*across_beam(s0 / size), s0 / size, [size])))
            panels.append(detectors[content])
        number.append(numbers[key])
    return Frames(np.array(number, dtype=np.int64), np.array(beams), np.array(panels))


def _panels(detector, n_panels: int) -> np.ndarray:
    """(n_panels, 9): origin, pixel vectors fast and slow (mm); NaN for panels that do not exist"""
    out = np.full((n_panels, 9), np.nan)
    for number, panel in enumerate(detector):
        fast, slow = panel.get_pixel_size()
        vectors = (panel.get_fast_axis(), fast), (panel.get_slow_axis(), slow)
        out[number] = [*panel.get_origin(), *(size * x for axis, size in vectors for x in axis)]
    return out


@njit(cache=True)
def direction_of(beam, panel, fast, slow):
    """Projected direction (x, y) of s1 at a position on a panel, with |(x, y)| = 2 sin(theta).

    Lambert's equal-area projection on a plane across the beam, which is unique over all scattering angles
    and does not depend on how the detector is divided into panels.

    Args:
        beam: (10,) as in Frames.beams; panel: (9,) as in Frames.panels
        fast, slow: position in pixels
    """
    lx = panel[0] + fast * panel[3] + slow * panel[6]
    ly = panel[1] + fast * panel[4] + slow * panel[7]
    lz = panel[2] + fast * panel[5] + slow * panel[8]
    size = np.sqrt(lx * lx + ly * ly + lz * lz)
    along = (lx * beam[6] + ly * beam[7] + lz * beam[8]) / size
    # sin(2 theta) -> 2 sin(theta)
    factor = np.sqrt(2.0 / max(1.0 + along, 1e-12)) / size
    x = (lx * beam[0] + ly * beam[1] + lz * beam[2]) * factor
    y = (lx * beam[3] + ly * beam[4] + lz * beam[5]) * factor
    return x, y


@njit(cache=True)
def _nearest(scaled, n):
    """Bin of a position in units of a bin, in 0 to n - 1"""
    if not scaled > 0.0:
        return 0
    return min(int(min(scaled, 1e9)), n - 1)


@njit(cache=True)
def bins_at(bins, wave_number, x, y):
    """(|q| in 1/Angstrom, radial bin, bin of the flattened table a) of a projected direction."""
    q = np.sqrt(x * x + y * y) * wave_number
    radial = _nearest(q * (N_RADIAL / bins.q_max), N_RADIAL)
    i = _nearest((x - bins.x0) * (N_AZIMUTHAL / (bins.x1 - bins.x0)), N_AZIMUTHAL)
    j = _nearest((y - bins.y0) * (N_AZIMUTHAL / (bins.y1 - bins.y0)), N_AZIMUTHAL)
    return q, radial, j * N_AZIMUTHAL + i


def patches_of(bins: Bins) -> np.ndarray:
    """(N_AZIMUTHAL^2,) uint16: patch of each bin of the flattened table a, by the bin's centre."""
    centres = (np.arange(N_AZIMUTHAL) + 0.5) / N_AZIMUTHAL
    x = bins.x0 + (bins.x1 - bins.x0) * centres[None]
    y = bins.y0 + (bins.y1 - bins.y0) * centres[:, None]
    farthest = np.hypot(max(-bins.x0, bins.x1), max(-bins.y0, bins.y1))
    ring = nearest_bins(np.hypot(x, y) * (N_RINGS / farthest), N_RINGS)
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * N_SECTORS).astype(int) % N_SECTORS
    return (ring * N_SECTORS + sector).ravel().astype(np.uint16)


@njit(cache=True)
def _directions(number, panel, px, frames, out):
    for k in range(len(number)):
        frame = frames.number[number[k]]
        beam = frames.beams[frame]
        x, y = direction_of(beam, frames.panels[frame, panel[k]], px[k, 0], px[k, 1])
        out[0, k], out[1, k], out[2, k] = np.sqrt(x * x + y * y) * beam[9], x, y


def positions_of(
    experiments, number: np.ndarray, panel: np.ndarray, px: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """|q| (N,) in 1/Angstrom and projected direction x, y (N,) of s1 at positions in pixels.

    Args:
        number: (N,) index of the experiment; panel: (N,); px: (N, 2 or more) fast and slow
    """
    out = np.empty((3, len(number)))
    columns = np.asarray(number, dtype=np.int64), np.asarray(panel, dtype=np.int64)
    _directions(*columns, np.ascontiguousarray(px, dtype=float), frames_of(experiments), out)
    return out[0], out[1], out[2]


def directions_of_bins(bins: Bins, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bins (N,) of the flattened table a of projected directions x (N,), y (N,)."""
    i = nearest_bins((x - bins.x0) * (N_AZIMUTHAL / (bins.x1 - bins.x0)), N_AZIMUTHAL)
    j = nearest_bins((y - bins.y0) * (N_AZIMUTHAL / (bins.y1 - bins.y0)), N_AZIMUTHAL)
    return j * N_AZIMUTHAL + i


def bins_of(experiments, d_min: float | None) -> Bins:
    """Ranges that hold all directions of all detectors, as far as d_min (Angstrom; None: without end)."""
    frames = frames_of(experiments)
    steps = np.linspace(0.0, 1.0, _EDGE_POINTS)
    x0 = y0 = np.inf
    x1 = y1 = q_max = -np.inf
    seen = set()
    for number, experiment in enumerate(experiments):
        if frames.number[number] in seen:
            continue
        seen.add(frames.number[number])
        sizes = np.array([panel.get_image_size() for panel in experiment.detector], dtype=float)
        edges = [
            (steps, 0 * steps),
            (steps, 0 * steps + 1),
            (0 * steps, steps),
            (0 * steps + 1, steps),
        ]
        corners = np.concatenate([np.stack(edge, axis=1) for edge in edges])
        px = (sizes[:, None] * corners).reshape(-1, 2)
        panel = np.repeat(np.arange(len(sizes)), len(corners))
        q, x, y = positions_of([experiment], np.zeros(len(px), dtype=int), panel, px)
        most = np.inf
        if d_min is not None:
            most = 1.0 / d_min / frames.beams[frames.number[number], 9]
            q_max = max(q_max, min(q.max(), 1.0 / d_min))
        q_max = max(q_max, q.max()) if d_min is None else q_max
        x0, x1 = min(x0, max(x.min(), -most)), max(x1, min(x.max(), most))
        y0, y1 = min(y0, max(y.min(), -most)), max(y1, min(y.max(), most))
    return Bins(q_max * (1 + 1e-6), x0 - 1e-6, x1 + 1e-6, y0 - 1e-6, y1 + 1e-6)
