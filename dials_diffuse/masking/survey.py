"""One pass over a subset of the images, from which the rest of the masks is made.

Two things are summed, image by image, so that memory does not grow with their number:

- per pixel, how it behaves against the mean of its resolution ring on its panel, outside
  of Bragg spots (PixelSums; judged in dynamic.py)
- around all nodes of the crystals, how the scattering above that mean falls off with the
  displacement from the node (SpotSums; judged in spot_size.py)
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace

import numba
import numpy as np

from dials_diffuse.adapters.images import check_shape, read_raw, trusted_bounds
from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.system import map_in_processes
from dials_diffuse.io.handover import Handover
from dials_diffuse.masking.bright.rings import RingCache, clipped_statistics
from dials_diffuse.masking.pixels.sums import PixelSums
from dials_diffuse.masking.spots.flat_panels import FlatPanels
from dials_diffuse.masking.spots.prediction import SpotRows, predict_spots
from dials_diffuse.masking.spots.shape import SpotShape, shape_of_model
from dials_diffuse.masking.spots.sums import EXCITATION_BINS, Q_BINS, WIDEST, WIDEST_SIGMA, SpotSums

logger = logging.getLogger("dials.diffuse.masking.survey")

HIGH_SIGMA = 6.0
# Pixels of a ring that tell its mean
SAMPLES = 6000
# Means and variances of rings are multiples of this: their sums in double precision are exact up to 8e9
EXACT = 2.0**-20
# Images that are worth a process: its sums take seven times the memory of an image
LEAST_SHARE = 4
# A node close to the sphere is at the pixels within this distance (px)
NEAR = 1.5


@numba.njit(cache=True)
def _sample_pixels(raw, blocked, low, high, ring, samples, value, of_ring):
    """Values of the usable pixels among the samples, and their rings; returns their number."""
    n = 0
    for k in range(samples.shape[0]):
        y, x = samples[k] // raw.shape[1], samples[k] % raw.shape[1]
        if not blocked[y, x] and low <= raw[y, x] and raw[y, x] <= high:
            value[n] = raw[y, x]
            of_ring[n] = ring[y, x]
            n += 1
    return n


@numba.njit(cache=True)
def _add_pixels(
    raw,
    bad,
    bragg,
    near,
    ring,
    mean,
    sigma,
    low,
    high,
    threshold,
    valid,
    n_high,
    n_near,
    n_negative,
    n_over,
    total,
    expected,
    variance,
    least,
    most,
):
    square = np.rint(sigma**2 / EXACT) * EXACT
    limit = (mean + threshold * sigma).astype(np.float32)
    for y in range(raw.shape[0]):
        for x in range(raw.shape[1]):
            if near[y, x]:
                n_near[y, x] += 1
            if bad[y, x]:
                continue
            value = raw[y, x]
            if value < low:
                n_negative[y, x] += 1
                continue
            if value > high:
                n_over[y, x] += 1
                continue
            if bragg[y, x]:
                continue
            r = ring[y, x]
            valid[y, x] += 1
            total[y, x] += value
            expected[y, x] += mean[r]
            variance[y, x] += square[r]
            if value > limit[r]:
                n_high[y, x] += 1
            if value < least[y, x]:
                least[y, x] = value
            if value > most[y, x]:
                most[y, x] = value


@numba.njit(cache=True)
def _add_spots(
    raw,
    bad,
    low,
    high,
    ring,
    mean,
    centre,
    to_pixels,
    q_bin,
    excitation_bin,
    window,
    excess,
    pixels,
    level,
    strength,
    plane_excess,
    plane_pixels,
):
    n_slow, n_fast = raw.shape
    n_plane = plane_excess.shape[1]
    for i in range(centre.shape[0]):
        a, b = to_pixels[i, 0, 0], to_pixels[i, 0, 1]
        c, d = to_pixels[i, 1, 0], to_pixels[i, 1, 1]
        det = a * d - b * c
        half_x = window * np.sqrt(a * a + b * b)
        half_y = window * np.sqrt(c * c + d * d)
        bin_q, bin_e = q_bin[i], excitation_bin[i]
        of_spot = 0.0
        for y in range(
            max(0, int(np.floor(centre[i, 1] - half_y))),
            min(n_slow, int(np.ceil(centre[i, 1] + half_y))),
        ):
            for x in range(
                max(0, int(np.floor(centre[i, 0] - half_x))),
                min(n_fast, int(np.ceil(centre[i, 0] + half_x))),
            ):
                if bad[y, x] or raw[y, x] < low or raw[y, x] > high:
                    continue
                dx, dy = x + 0.5 - centre[i, 0], y + 0.5 - centre[i, 1]
                radial = (d * dx - b * dy) / det
                tangential = (a * dy - c * dx) / det
                if abs(radial) >= window or abs(tangential) >= window:
                    continue
                surroundings = mean[ring[y, x]]
                value = raw[y, x] - surroundings
                u = int((radial / window + 1.0) / 2.0 * n_plane)
                v = int((tangential / window + 1.0) / 2.0 * n_plane)
                plane_excess[bin_q, u, v] += value
                plane_pixels[bin_q, u, v] += 1.0
                if radial * radial + tangential * tangential < 0.25 * window * window:
                    excess[bin_q, bin_e] += value
                    of_spot += value
                    pixels[bin_q, bin_e] += 1.0
                    level[bin_q, bin_e] += surroundings
        strength[bin_q, 0] += of_spot
        strength[bin_q, 1] += of_spot * of_spot


@dataclass
class SurveyTask:
    """The images that one process looks at.

    Attributes:
        groups: stills by image
        good: pixels that are good in every image, a (n_slow, n_fast) bool array a panel
        q_max: 1/Angstrom; window: 1/Angstrom
        want_spots: sum around nodes too
        folder: where the sums are handed over; None: they stay in the process
    """

    groups: list[list[Still]]
    good: list[np.ndarray]
    q_max: float
    window: float
    want_spots: bool
    folder: str | None = None


@dataclass
class Survey:
    """Sums over the images that could be read, and why others could not."""

    pixels: PixelSums
    spots: SpotSums
    failures: dict[str, str] = field(default_factory=dict)


@dataclass
class Share:
    """What one process has seen.

    Attributes:
        pixels: summed over its images
        spots: of each image, None where it could not be read
        failures: path -> why an image could not be read
    """

    pixels: PixelSums
    spots: list[SpotSums | None] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def survey_images(task: SurveyTask) -> Share:
    """Read the task's images one by one and sum.

    Images that can't be read are noted in failures, by their path.
    """
    pixels_of = FlatPanels([mask.shape for mask in task.good])
    share = Share(PixelSums.empty([mask.shape for mask in task.good]))
    cache = RingCache(SAMPLES)
    bad = [~mask for mask in task.good]

    flats = pixels_of.blank(), pixels_of.blank()

    def painted(flat, spots: list[SpotRows]) -> list[np.ndarray]:
        flat[:] = False
        for rows in spots:
            pixels_of.paint(flat, rows.panel, rows.centre, rows.bbox, rows.ellipse)
        return pixels_of.of_panels(flat)

    for group in task.groups:
        still = group[0]
        try:
            raw = read_raw(still.imageset, still.image_index)
            check_shape(raw, still)
            bounds = [trusted_bounds(panel) for panel in still.detector]
        except ValueError as error:
            share.failures[still.path] = str(error)
            share.spots.append(None)
            continue
        rings = cache.of(still.detector, still.beam)
        bragg = painted(flats[0], [_first_guess(lattice) for lattice in group])
        nodes = [predict_spots(lattice, WIDEST, WIDEST_SIGMA, 0.0) for lattice in group]
        near = painted(flats[1], [_around(rows) for rows in nodes])
        means = []
        sums = share.pixels
        for number, pixels in enumerate(raw):
            low, high = bounds[number]
            blocked = bad[number] | bragg[number]
            ring, samples = rings.panels[number].number, rings.panels[number].samples
            value = np.empty(len(samples), np.float32)
            of_ring = np.empty(len(samples), np.int16)
            n = _sample_pixels(pixels, blocked, low, high, ring, samples, value, of_ring)
            mean, sigma, _ = clipped_statistics(value[:n], of_ring[:n])
            mean = np.rint(mean / EXACT) * EXACT
            means.append(mean)
            _add_pixels(
                pixels,
                bad[number],
                bragg[number],
                near[number],
                ring,
                mean,
                sigma,
                low,
                high,
                HIGH_SIGMA,
                sums.valid[number],
                sums.high[number],
                sums.near[number],
                sums.negative[number],
                sums.overloaded[number],
                sums.total[number],
                sums.expected[number],
                sums.variance[number],
                sums.least[number],
                sums.most[number],
            )
        sums.images += 1
        share.spots.append(SpotSums(task.q_max, task.window))
        if task.want_spots:
            for rows in nodes:
                _stack(rows, raw, bad, task, bounds, rings.number, means, share.spots[-1])
    return share


def _first_guess(still: Still) -> SpotRows:
    """Bragg rows by the models' shapes, before the data have been asked."""
    shape = shape_of_model(still.experiment) or SpotShape.isotropic(5e-4, 3e-3)
    return predict_spots(still, shape, 4.0, 2.0)


def _around(rows: SpotRows) -> SpotRows:
    """The pixels within NEAR of the rows' centres."""
    low, high = np.floor(rows.centre - NEAR), np.ceil(rows.centre + NEAR)
    return replace(
        rows,
        bbox=np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1).astype(np.int32),
        ellipse=np.tile((1 / NEAR**2, 0.0, 1 / NEAR**2), (len(low), 1)),
    )


def _stack(rows, raw, bad, task, bounds, rings, means, sums: SpotSums) -> None:
    sums.stills += 1
    q_bin = np.minimum((rows.q / task.q_max * Q_BINS).astype(np.int64), Q_BINS - 1)
    largest = WIDEST_SIGMA * np.hypot(WIDEST.size, WIDEST.angle * sums.q_of_bins())[q_bin]
    excitation_bin = (np.abs(rows.excitation) / largest * EXCITATION_BINS).astype(np.int64)
    inside = excitation_bin < EXCITATION_BINS
    inverse = np.linalg.inv(rows.to_pixels[inside])
    np.add.at(sums.pixel_variance, q_bin[inside], (inverse**2).sum(axis=2) / 12)
    np.add.at(sums.nodes, q_bin[inside], 1)
    for number, pixels in enumerate(raw):
        here = inside & (rows.panel == number)
        _add_spots(
            pixels,
            bad[number],
            *bounds[number],
            rings[number],
            means[number],
            rows.centre[here],
            rows.to_pixels[here],
            q_bin[here],
            excitation_bin[here],
            task.window,
            sums.excess,
            sums.pixels,
            sums.level,
            sums.strength,
            sums.plane_excess,
            sums.plane_pixels,
        )


def spread_subset(groups: list, n: int | None) -> list:
    """n of the groups, evenly spread; all for None."""
    if n is None or n >= len(groups):
        return list(groups)
    positions = np.unique(np.round(np.linspace(0, len(groups) - 1, n)).astype(int))
    return [groups[i] for i in positions]


def _hand_over_survey(task: SurveyTask) -> Share | Handover:
    share = survey_images(task)
    return share if task.folder is None else Handover.of(share, task.folder)


def run_survey(groups, good, q_max, window, want_spots, nproc) -> Survey:
    """Survey images in processes, each a share of them, and add their sums, to the last bit the same
    whatever nproc."""
    n_tasks = max(1, min(nproc, len(groups) // LEAST_SHARE))
    result = None
    spots: list[SpotSums | None] = [None] * len(groups)
    with tempfile.TemporaryDirectory(prefix="diffuse_mask-") as folder:
        tasks = [
            SurveyTask(
                groups[i::n_tasks], good, q_max, window, want_spots, folder if n_tasks > 1 else None
            )
            for i in range(n_tasks)
        ]
        for i, share in enumerate(map_in_processes(_hand_over_survey, tasks, n_tasks)):
            share = share.take() if isinstance(share, Handover) else share
            spots[i::n_tasks] = share.spots
            if result is None:
                result = Survey(share.pixels, SpotSums(q_max, window), share.failures)
            else:
                result.pixels.add(share.pixels)
                result.failures.update(share.failures)
    for of_image in filter(None, spots):
        result.spots.add(of_image)
    result.spots.orientations = count_orientations([still for group in groups for still in group])
    return result


def count_orientations(stills: list[Still], tolerance: float = 0.005) -> int:
    """Number of crystals whose orientations differ by more than the tolerance (rad)."""
    seen: list[np.ndarray] = []
    for still in stills:
        b = np.array(still.crystal.get_B()).reshape(3, 3)
        rotation = still.setting_matrix() @ np.linalg.inv(b)
        # |R1 - R2| = 2 sqrt(2) sin(angle / 2) (Frobenius norm)
        if all(np.linalg.norm(rotation - other) > np.sqrt(2) * tolerance for other in seen):
            seen.append(rotation)
    return max(len(seen), 1)
