"""Where on the detector the nodes of a crystal's reciprocal lattice leave their spots.

A node is a normal distribution C(r) about r (see spot_shape). Near the spot the Ewald
sphere is a plane, r - excitation * n + u with n = s1/|s1| and u across n. On it the
distance from the node in standard deviations, squared, is

    m(u) = m0 + (u - u0)' K^-1 (u - u0),  m0 = excitation^2 / (n' C n),
    K = C - C n n' C / (n' C n),  node + x0, x0 = -excitation C n / (n' C n), is its minimum

(the conditional distribution of a normal one). Pixels with m <= k^2 are an ellipse
around the image of r + x0 with covariance K, size sqrt(k^2 - m0); a node with
m0 > k^2 is not there. For pure mosaicity (C across r only) the
centre is where DIALS predicts stills: r turned onto the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.tables import as_numpy, vec2_column
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.masking.spots.rows import SpotRows
from dials_diffuse.masking.spots.shape import SpotShape
from dials_diffuse.masking.spots.size import MaskExtent, ResidualLevel

K_STEPS = 65


@dataclass(frozen=True)
class ObservedSpots:
    """Integrated spots of a still.

    Attributes:
        miller_index: (N, 3); counts: (N,) above background, ADU
        residual_level: what may be left of a spot
    """

    miller_index: np.ndarray
    counts: np.ndarray
    residual_level: ResidualLevel

    def counts_over_floor(self, hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
        """counts / floor of the nodes hkl (N, 3) at |q| (N,); 0 where none were observed."""
        if len(self.counts) == 0:
            return np.zeros(len(hkl))
        observed, wanted = pack_voxels(self.miller_index), pack_voxels(hkl)
        order = np.argsort(observed, kind="stable")
        at = order[np.minimum(np.searchsorted(observed[order], wanted), len(order) - 1)]
        counts = np.where(observed[at] == wanted, self.counts[at], 0.0)
        return np.maximum(counts, 0.0) / self.residual_level.at(q)


@numba.njit(cache=True)
def _interval(cc, vc, vv, radius_squared):
    """l with |v + l c|^2 <= radius^2, as (first, last); first > last when there is none."""
    disc = vc * vc - cc * (vv - radius_squared)
    if disc < 0.0:
        return 1.0, -1.0
    root = np.sqrt(disc)
    return (-vc - root) / cc, (-vc + root) / cc


@numba.njit(cache=True)
def _sections(
    setting, s0, q_max, limits, constant, across, along, k_of_q, reach, largest, centring, den
):
    """Nodes within k standard deviations of the Ewald sphere and their sections with it.

    k_of_q: how many standard deviations, in equal steps of |q| from 0 to q_max. reach: no node further
    from the sphere gets there. largest: (a, b), no variance of a node r is larger than a + b |r|^2.

    Returns (n, hkl (N, 3), centre - s0 of the section (N, 3), K (N, 6), k^2 - m0 (N,)),
    of which the first n rows are filled.
    """
    capacity = 4096
    hkl = np.empty((capacity, 3), np.int32)
    centre = np.empty((capacity, 3))
    spread = np.empty((capacity, 6))
    level = np.empty(capacity)
    e1, e2, e3, c = np.empty(3), np.empty(3), np.empty(3), np.empty((3, 3))
    n = 0
    radius = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    cx, cy, cz = setting[0, 2], setting[1, 2], setting[2, 2]
    cc = cx * cx + cy * cy + cz * cz
    outer = (radius + reach) ** 2
    inner = max(radius - reach, 0.0) ** 2
    for h in range(-limits[0], limits[0] + 1):
        for j in range(-limits[1], limits[1] + 1):
            gx = h * setting[0, 0] + j * setting[0, 1]
            gy = h * setting[1, 0] + j * setting[1, 1]
            gz = h * setting[2, 0] + j * setting[2, 1]
            low, high = _interval(
                cc, gx * cx + gy * cy + gz * cz, gx * gx + gy * gy + gz * gz, q_max * q_max
            )
            if low > high:
                continue
            vx, vy, vz = gx + s0[0], gy + s0[1], gz + s0[2]
            vc, vv = vx * cx + vy * cy + vz * cz, vx * vx + vy * vy + vz * vz
            first, last = _interval(cc, vc, vv, outer)
            if first > last:
                continue
            first, last = int(np.ceil(max(first, low))), int(np.floor(min(last, high)))
            hole_first, hole_last = _interval(cc, vc, vv, inner)
            l = first - 1
            while l < last:
                l += 1
                if hole_first < l < hole_last:
                    l = int(np.ceil(hole_last)) - 1
                    hole_last = hole_first
                    continue
                if h == 0 and j == 0 and l == 0:
                    continue
                absent = False
                for t in range(centring.shape[0]):
                    if (h * centring[t, 0] + j * centring[t, 1] + l * centring[t, 2]) % den != 0:
                        absent = True
                if absent:
                    continue
                rx, ry, rz = gx + l * cx, gy + l * cy, gz + l * cz
                sx, sy, sz = vx + l * cx, vy + l * cy, vz + l * cz
                s_length = np.sqrt(sx * sx + sy * sy + sz * sz)
                excitation = s_length - radius
                nx, ny, nz = sx / s_length, sy / s_length, sz / s_length
                r2 = rx * rx + ry * ry + rz * rz
                r_length = np.sqrt(r2)
                step = r_length / q_max * (k_of_q.shape[0] - 1)
                bin_q = min(int(step), k_of_q.shape[0] - 2)
                k = k_of_q[bin_q] + (step - bin_q) * (k_of_q[bin_q + 1] - k_of_q[bin_q])
                # Most nodes are too far away however their distribution lies
                if excitation * excitation > (1 + 1e-6) * k * k * (largest[0] + largest[1] * r2):
                    continue
                e3[0], e3[1], e3[2] = rx / r_length, ry / r_length, rz / r_length
                e1[0] = ry * s0[2] - rz * s0[1]
                e1[1] = rz * s0[0] - rx * s0[2]
                e1[2] = rx * s0[1] - ry * s0[0]
                length = np.sqrt(e1[0] ** 2 + e1[1] ** 2 + e1[2] ** 2)
                e1[0], e1[1], e1[2] = e1[0] / length, e1[1] / length, e1[2] / length
                e2[0] = e3[1] * e1[2] - e3[2] * e1[1]
                e2[1] = e3[2] * e1[0] - e3[0] * e1[2]
                e2[2] = e3[0] * e1[1] - e3[1] * e1[0]
                for a in range(3):
                    for b in range(3):
                        c[a, b] = constant[a, b] + r2 * (
                            across[0] * e1[a] * e1[b]
                            + across[1] * (e1[a] * e2[b] + e2[a] * e1[b])
                            + across[2] * e2[a] * e2[b]
                            + along * along * e3[a] * e3[b]
                        )
                cnx = c[0, 0] * nx + c[0, 1] * ny + c[0, 2] * nz
                cny = c[1, 0] * nx + c[1, 1] * ny + c[1, 2] * nz
                cnz = c[2, 0] * nx + c[2, 1] * ny + c[2, 2] * nz
                ncn = nx * cnx + ny * cny + nz * cnz
                m0 = excitation * excitation / ncn
                if m0 > k * k:
                    continue
                if n == hkl.shape[0]:
                    hkl = np.concatenate((hkl, np.empty_like(hkl)))
                    centre = np.concatenate((centre, np.empty_like(centre)))
                    spread = np.concatenate((spread, np.empty_like(spread)))
                    level = np.concatenate((level, np.empty_like(level)))
                hkl[n, 0], hkl[n, 1], hkl[n, 2] = h, j, l
                shift = -excitation / ncn
                centre[n, 0] = rx + shift * cnx
                centre[n, 1] = ry + shift * cny
                centre[n, 2] = rz + shift * cnz
                spread[n, 0] = c[0, 0] - cnx * cnx / ncn
                spread[n, 1] = c[0, 1] - cnx * cny / ncn
                spread[n, 2] = c[0, 2] - cnx * cnz / ncn
                spread[n, 3] = c[1, 1] - cny * cny / ncn
                spread[n, 4] = c[1, 2] - cny * cnz / ncn
                spread[n, 5] = c[2, 2] - cnz * cnz / ncn
                level[n] = k * k - m0
                n += 1
    return n, hkl, centre, spread, level


def centring_vectors(space_group) -> tuple[np.ndarray, int]:
    """Translations of a space group's lattice centring, (n, 3) integers over a common
    denominator; a node is there if its scalar product with each is an integer."""
    vectors, den = [], 1
    for i in range(1, space_group.n_ltr()):
        translation = space_group(i, 0, 0).t()
        den = translation.den()
        vectors.append(translation.num())
    return np.array(vectors, dtype=np.int64).reshape(-1, 3), int(den)


@dataclass(frozen=True)
class _PanelProjection:
    inverse: np.ndarray
    pixel_size: tuple[float, float]
    size: tuple[int, int]
    axis: np.ndarray
    cosine: float


def _projection(panel, margin: float) -> _PanelProjection:
    n_fast, n_slow = panel.get_image_size()
    corners = np.array(
        [panel.get_pixel_lab_coord((x, y)) for x in (0, n_fast) for y in (0, n_slow)]
    )
    corners /= np.linalg.norm(corners, axis=1)[:, None]
    axis = corners.mean(axis=0)
    axis /= np.linalg.norm(axis)
    # Directions of a rectangle lie within the cone of its corners
    widest = np.arccos(np.clip((corners @ axis).min(), -1, 1)) + margin
    return _PanelProjection(
        np.linalg.inv(np.array(panel.get_d_matrix()).reshape(3, 3)),
        panel.get_pixel_size(),
        panel.get_image_size(),
        axis,
        float(np.cos(min(widest, np.pi))),
    )


def detector_d_min(detector, beam) -> float:
    """Resolution of the outermost corner of a detector, Angstrom."""
    return min(panel.get_max_resolution_at_corners(beam.get_s0()) for panel in detector)


def predict_spots(
    still: Still,
    shape: SpotShape,
    n_sigma: float | MaskExtent,
    padding: float,
    d_min: float | None = None,
    minimum_radius: float = 0.0,
    observed: ObservedSpots | None = None,
) -> SpotRows:
    """The ellipses of all nodes of a still's crystal that reach the Ewald sphere.

    Args:
        still: with crystal, beam and detector
        shape: of the nodes
        n_sigma: k: how many standard deviations of a node are masked, a number or a
            function of |q| (1/Angstrom)
        padding: pixels added to both semi-axes
        d_min: Angstrom; None for all that the detector sees
        minimum_radius: all pixels closer to a node than this are masked too, 1/Angstrom,
            by adding (minimum_radius / k)^2 to the constant variance
        observed: spots that are brighter than the mean are masked further out

    Raises:
        ValueError: the shape has no extent.
    """
    detector, beam = still.detector, still.beam
    s0 = np.array(beam.get_s0())
    q_max = 1 / max(d_min or 0.0, detector_d_min(detector, beam))
    q_steps = np.linspace(0.0, q_max, K_STEPS)
    k_of_q = (
        n_sigma.n_sigma_at(q_steps)
        if isinstance(n_sigma, MaskExtent)
        else np.full(K_STEPS, float(n_sigma))
    )
    constant = shape.constant + (minimum_radius / k_of_q.min()) ** 2 * np.eye(3)
    shape = shape.changed(constant=constant)
    largest = shape.largest_sigma(q_max)
    if not largest > 0:
        raise ValueError(
            f"The spots of experiment {still.index} have no size: "
            "give bragg.mosaicity and bragg.domain_size"
        )
    setting = still.setting_matrix()
    limits = np.floor(np.linalg.norm(np.linalg.inv(setting), axis=1) * q_max).astype(np.int64)
    centring, den = centring_vectors(still.crystal.get_space_group())
    n, hkl, q, spread, level = _sections(
        setting,
        s0,
        q_max,
        limits,
        constant,
        np.array(shape.across),
        float(shape.along),
        k_of_q,
        k_of_q.max() * largest,
        shape.largest_variances(),
        centring,
        den,
    )
    hkl, q, spread, level = hkl[:n], q[:n], spread[:n], level[:n]
    s1 = s0 + q
    direction = s1 / np.linalg.norm(s1, axis=1)[:, None]
    margin = k_of_q.max() * largest / np.linalg.norm(s0)
    node = hkl @ setting.T
    excitation = np.linalg.norm(s0 + node, axis=1) - np.linalg.norm(s0)
    q_length = np.linalg.norm(node, axis=1)
    nodes = (hkl, q_length, excitation)
    counts = observed.counts_over_floor(hkl, q_length) if observed else np.zeros(n)
    parts = [
        _on_panel(
            number,
            panel,
            _projection(panel, margin),
            shape,
            padding,
            s0,
            nodes,
            s1,
            direction,
            spread,
            level,
            counts,
        )
        for number, panel in enumerate(detector)
    ]
    return SpotRows(*(np.concatenate(columns) for columns in zip(*parts)))


@numba.njit(cache=True)
def _ellipses(
    near,
    v,
    mm,
    pixel,
    inverse,
    pixel_size,
    size,
    spread,
    level,
    counts,
    direction,
    s0,
    point_spread,
    padding,
):
    """Ellipses of the spots whose bounding box touches a panel of some size (fast, slow).

    Args:
        near: (N,) rows of spread, level, counts and direction
        v: (N, 3) inverse d matrix times s1; mm, pixel: (N, 2) where that is on the panel

    Returns:
        (n, which rows, bbox (N, 4), ellipse (N, 3), to_pixels (N, 2, 2)), of which the first n are filled
    """
    rows = np.empty(near.size, np.int64)
    bbox = np.empty((near.size, 4), np.int32)
    ellipse = np.empty((near.size, 3))
    to_pixels = np.empty((near.size, 2, 2))
    jacobian = np.empty((2, 3))
    n = 0
    for i in range(near.size):
        row = near[i]
        # d(mm)/d(s1), by the quotient rule, in pixels
        for axis in range(2):
            for j in range(3):
                slope = inverse[axis, j] - mm[i, axis] * inverse[2, j]
                jacobian[axis, j] = slope / (v[i, 2] * pixel_size[axis])
        k00, k01, k02, k11, k12, k22 = spread[row]
        x, y, z = jacobian[0]
        kx, ky, kz = (
            x * k00 + y * k01 + z * k02,
            x * k01 + y * k11 + z * k12,
            x * k02 + y * k12 + z * k22,
        )
        sxx = kx * x + ky * y + kz * z + point_spread**2
        sxy = kx * jacobian[1, 0] + ky * jacobian[1, 1] + kz * jacobian[1, 2]
        x, y, z = jacobian[1]
        kx, ky, kz = (
            x * k00 + y * k01 + z * k02,
            x * k01 + y * k11 + z * k12,
            x * k02 + y * k12 + z * k22,
        )
        syy = kx * x + ky * y + kz * z + point_spread**2
        # Principal axes of the 2 x 2 covariance, in closed form
        mean, half = (sxx + syy) / 2, (sxx - syy) / 2
        root = np.hypot(half, sxy)
        angle = 0.5 * np.arctan2(sxy, half)
        # A normal spot of N counts, N / (2 pi |S|^1/2) high, falls to f counts a pixel at
        # u^2 = 2 ln(N / (2 pi |S|^1/2 f)); pixels are no smaller than one
        area = 2 * np.pi * np.sqrt(max(sxx * syy - sxy**2, 0.0) + 1 / 144)
        bright = 2 * np.log(max(counts[row] / area, 1.0))
        reach = np.sqrt(max(level[row], bright))
        long = reach * np.sqrt(mean + root) + padding
        short = reach * np.sqrt(max(mean - root, 0.0)) + padding
        cos, sin = np.cos(angle), np.sin(angle)
        half_x = np.hypot(long * cos, short * sin)
        half_y = np.hypot(long * sin, short * cos)
        x0, x1 = np.floor(pixel[i, 0] - half_x), np.ceil(pixel[i, 0] + half_x)
        y0, y1 = np.floor(pixel[i, 1] - half_y), np.ceil(pixel[i, 1] + half_y)
        # written so that NaN does not touch
        if not (x1 > 0 and y1 > 0 and x0 < size[0] and y0 < size[1]):
            continue
        rows[n] = i
        bbox[n, 0], bbox[n, 1], bbox[n, 2], bbox[n, 3] = x0, x1, y0, y1
        ellipse[n, 0] = (cos / long) ** 2 + (sin / short) ** 2
        ellipse[n, 1] = cos * sin * (1 / long**2 - 1 / short**2)
        ellipse[n, 2] = (sin / long) ** 2 + (cos / short) ** 2
        # Across the direction of the spot: tangential to the beam centre, and radial
        dx, dy, dz = direction[row]
        tx, ty, tz = s0[1] * dz - s0[2] * dy, s0[2] * dx - s0[0] * dz, s0[0] * dy - s0[1] * dx
        length = np.sqrt(tx * tx + ty * ty + tz * tz)
        tx, ty, tz = tx / length, ty / length, tz / length
        rx, ry, rz = ty * dz - tz * dy, tz * dx - tx * dz, tx * dy - ty * dx
        for axis in range(2):
            x, y, z = jacobian[axis]
            to_pixels[n, axis, 0] = x * rx + y * ry + z * rz
            to_pixels[n, axis, 1] = x * tx + y * ty + z * tz
        n += 1
    return n, rows, bbox, ellipse, to_pixels


@numba.njit(cache=True)
def _may_touch(
    v, mm, inverse, pixel_size, size, spread, level, counts, near, point_spread, padding, displaced
):
    """Which spots may reach a panel: (N,) bool, by bounds of what _ellipses computes.

    Args:
        as _ellipses; displaced: pixels that the model of the sensor may move a spot at most
    """
    touches = np.empty(near.size, np.bool_)
    for i in range(near.size):
        row = near[i]
        k00, k01, k02, k11, k12, k22 = spread[row]
        variance = 2 * point_spread**2
        for axis in range(2):
            scale = 1 / (v[i, 2] * pixel_size[axis])
            x = (inverse[axis, 0] - mm[i, axis] * inverse[2, 0]) * scale
            y = (inverse[axis, 1] - mm[i, axis] * inverse[2, 1]) * scale
            z = (inverse[axis, 2] - mm[i, axis] * inverse[2, 2]) * scale
            variance += (
                x * (x * k00 + 2 * (y * k01 + z * k02)) + y * (y * k11 + 2 * z * k12) + z * z * k22
            )
        # the least area of a spot is 2 pi / 12 pixels
        bright = 2 * np.log(max(6 / np.pi * counts[row], 1.0))
        reach = np.sqrt(max(level[row], bright) * variance) + padding + displaced + 1
        fast, slow = mm[i, 0] / pixel_size[0], mm[i, 1] / pixel_size[1]
        touches[i] = -reach < fast < size[0] + reach and -reach < slow < size[1] + reach
    return touches


def _on_panel(
    number, panel, projection, shape, padding, s0, nodes, s1, direction, spread, level, counts
):
    """Rows of the spots whose bounding box touches one panel."""
    near = np.flatnonzero(direction @ projection.axis >= projection.cosine)
    v = s1[near] @ projection.inverse.T
    front = v[:, 2] > 0
    near, v = near[front], v[front]
    mm = v[:, :2] / v[:, 2:]
    displacement = _largest_displacement(panel)
    if displacement is not None:
        # To correct millimetres for parallax takes as long as all the rest
        touching = _may_touch(
            v,
            mm,
            projection.inverse,
            np.array(projection.pixel_size),
            np.array(projection.size),
            spread,
            level,
            counts,
            near,
            float(shape.point_spread),
            float(padding),
            displacement,
        )
        near, v, mm = near[touching], v[touching], mm[touching]
    pixel = as_numpy(panel.millimeter_to_pixel(vec2_column(mm))) if len(mm) else mm
    n, rows, *columns = _ellipses(
        near,
        v,
        mm,
        pixel,
        projection.inverse,
        np.array(projection.pixel_size),
        np.array(projection.size),
        spread,
        level,
        counts,
        direction,
        s0,
        float(shape.point_spread),
        float(padding),
    )
    bbox, ellipse, to_pixels = (column[:n] for column in columns)
    touching = near[rows[:n]]
    hkl, q, excitation = nodes
    return (
        np.full(n, number, dtype=np.int64),
        hkl[touching],
        pixel[rows[:n]],
        bbox,
        ellipse,
        q[touching],
        excitation[touching],
        to_pixels,
    )


def _largest_displacement(panel) -> float | None:
    """Pixels that parallax moves a spot at most, for rays less than 80 degrees from the normal; None where that is not
    known."""
    strategy = type(panel.get_px_mm_strategy()).__name__
    if strategy == "SimplePxMmStrategy":
        return 0.0
    if strategy == "ParallaxCorrectedPxMmStrategy":
        return 6 * panel.get_thickness() / min(panel.get_pixel_size())
    return None
