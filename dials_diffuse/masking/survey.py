"""Survey a subset of the images: sum over them what the pixel mask and the size of the spots follow from.

Two things are summed, image by image, so that memory does not grow with their number:

- for each pixel, how it compares with the mean of its resolution ring on its panel, outside
  of Bragg spots (PixelSums, judged in pixels/dynamic.py and pixels/shadow.py)
- around all nodes of the crystals, how the scattering above that mean falls off with the
  displacement from the node (SpotSums, judged in spots/size.py)
"""

from __future__ import annotations

import logging
import tempfile
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numba
import numpy as np

from dials_diffuse.adapters.images import check_shape, read_raw, static_mask, trusted_bounds
from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.system import map_in_processes, resolve_nproc
from dials_diffuse.io.handover import Handover
from dials_diffuse.masking.bright.rings import RingCache, clipped_statistics
from dials_diffuse.masking.pixels.sums import PixelSums
from dials_diffuse.masking.spots.flat_panels import FlatPanels
from dials_diffuse.masking.spots.prediction import detector_d_min, predict_spots
from dials_diffuse.masking.spots.rows import SpotRows
from dials_diffuse.masking.spots.shape import SpotShape, shape_of_model
from dials_diffuse.masking.spots.sums import EXCITATION_BINS, Q_BINS, WIDEST, WIDEST_SIGMA, SpotSums

logger = logging.getLogger("dials.diffuse.masking.survey")

HIGH_SIGMA = 6.0
# Pixels of a ring from which its mean is estimated
SAMPLES = 6000
# Means and variances of rings are multiples of this: their sums in double precision are exact up to 8e9
EXACT = 2.0**-20
# Images that are worth a process: its sums take seven times the memory of an image
LEAST_SHARE = 4
# A node close to the sphere is at the pixels within this distance (px)
NEAR = 1.5


class PanelImage(NamedTuple):
    """One panel of an image.

    Attributes:
        values: (n_slow, n_fast) float64, ADU
        bad: (n_slow, n_fast) bool, True = bad in every image
        low, high: trusted values
        ring: (n_slow, n_fast) uint8, resolution ring of each pixel
        mean, sigma: (N_RINGS,) of the pixels of a ring outside of Bragg spots, ADU
    """

    values: np.ndarray
    bad: np.ndarray
    low: float
    high: float
    ring: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray


# The arrays of PixelSums of one panel, and those of SpotSums that _add_spots adds to
PanelSums = namedtuple("PanelSums", [f.name for f in fields(PixelSums) if f.name != "images"])
NodeSums = namedtuple("NodeSums", "excess pixels level strength plane_excess plane_pixels")


@numba.njit(cache=True)
def _add_pixels(panel, bragg, near, sums):
    """Compare every pixel with its ring, and add to the PanelSums, which are changed in place.

    bragg, near: (n_slow, n_fast) bool: under a Bragg spot; at a node close to the sphere
    """
    square = np.rint(panel.sigma**2 / EXACT) * EXACT
    limit = (panel.mean + HIGH_SIGMA * panel.sigma).astype(np.float32)
    for y in range(panel.values.shape[0]):
        for x in range(panel.values.shape[1]):
            if near[y, x]:
                sums.near[y, x] += 1
            if panel.bad[y, x]:
                continue
            value = panel.values[y, x]
            if value < panel.low:
                sums.negative[y, x] += 1
                continue
            if value > panel.high:
                sums.overloaded[y, x] += 1
                continue
            if bragg[y, x]:
                continue
            r = panel.ring[y, x]
            # A ring without samples: there is nothing to compare with
            if not square[r] < np.inf:
                continue
            sums.valid[y, x] += 1
            sums.total[y, x] += value
            sums.expected[y, x] += panel.mean[r]
            sums.variance[y, x] += square[r]
            if value > limit[r]:
                sums.high[y, x] += 1
            if value < sums.least[y, x]:
                sums.least[y, x] = value
            if value > sums.most[y, x]:
                sums.most[y, x] = value


@numba.njit(cache=True)
def _add_spots(panel, centre, to_pixels, q_bin, excitation_bin, window, sums):
    """Add the pixels around N nodes to the NodeSums, which are changed in place.

    centre: (N, 2) predicted positions, fast and slow, pixels
    to_pixels: (N, 2, 2) from displacements (radial, tangential), 1/Angstrom, to pixels
    q_bin, excitation_bin: (N,) bins of the sums
    window: largest displacement, radial and tangential, 1/Angstrom; no pixels outside of the
        box around the circle of this radius are read
    """
    n_slow, n_fast = panel.values.shape
    n_plane = sums.plane_excess.shape[1]
    for i in range(centre.shape[0]):
        centre_x, centre_y = centre[i, 0], centre[i, 1]
        a, b = to_pixels[i, 0, 0], to_pixels[i, 0, 1]
        c, d = to_pixels[i, 1, 0], to_pixels[i, 1, 1]
        det = a * d - b * c
        half_x = window * np.sqrt(a * a + b * b)
        half_y = window * np.sqrt(c * c + d * d)
        bin_q, bin_e = q_bin[i], excitation_bin[i]
        strength = 0.0
        first_y, last_y = int(np.floor(centre_y - half_y)), int(np.ceil(centre_y + half_y))
        first_x, last_x = int(np.floor(centre_x - half_x)), int(np.ceil(centre_x + half_x))
        for y in range(max(0, first_y), min(n_slow, last_y)):
            for x in range(max(0, first_x), min(n_fast, last_x)):
                value = panel.values[y, x]
                if panel.bad[y, x] or value < panel.low or value > panel.high:
                    continue
                dx, dy = x + 0.5 - centre_x, y + 0.5 - centre_y
                radial = (d * dx - b * dy) / det
                tangential = (a * dy - c * dx) / det
                if abs(radial) >= window or abs(tangential) >= window:
                    continue
                level = panel.mean[panel.ring[y, x]]
                excess = value - level
                u = int((radial / window + 1.0) / 2.0 * n_plane)
                v = int((tangential / window + 1.0) / 2.0 * n_plane)
                sums.plane_excess[bin_q, u, v] += excess
                sums.plane_pixels[bin_q, u, v] += 1.0
                if radial * radial + tangential * tangential < 0.25 * window * window:
                    strength += excess
                    sums.excess[bin_q, bin_e] += excess
                    sums.pixels[bin_q, bin_e] += 1.0
                    sums.level[bin_q, bin_e] += level
        sums.strength[bin_q, 0] += strength
        sums.strength[bin_q, 1] += strength * strength


@dataclass
class SurveySums:
    """Sums over the images that could be read.

    Attributes:
        pixels: sums for each pixel
        spots: sums around nodes
        failures: path of an image -> why it could not be read
    """

    pixels: PixelSums
    spots: SpotSums
    failures: dict[str, str]


class ImageSummer:
    """Sums one image after the other.

    Args:
        good: pixels that are good in every image, a (n_slow, n_fast) bool array a panel
        q_max, window: of the sums around nodes, 1/Angstrom
        measure_spots: sum around nodes
        own_masks: whether images have lookup masks of their own

    Attributes:
        pixels: the sums so far
    """

    def __init__(
        self,
        good: list[np.ndarray],
        q_max: float,
        window: float,
        measure_spots: bool,
        own_masks: bool = False,
    ):
        self._own_masks = own_masks
        sizes = [mask.shape for mask in good]
        self.pixels = PixelSums.empty(sizes)
        self._q_max, self._window, self._measure_spots = q_max, window, measure_spots
        self._bad = [~mask for mask in good]
        self._flat_panels = FlatPanels(sizes)
        self._rings = RingCache(SAMPLES)

    def add(self, raw: Sequence[np.ndarray], bounds, lattices: Sequence[Still]) -> SpotSums:
        """Add an image to the sums of pixels.

        Args:
            raw: its pixels, a (n_slow, n_fast) array a panel
            bounds: (smallest, largest) trusted value of each panel
            lattices: the stills on it

        Returns:
            the sums around the nodes of its lattices
        """
        still = lattices[0]
        bragg = self._painted([_first_guess(lattice) for lattice in lattices])
        nodes = [predict_spots(lattice, WIDEST, WIDEST_SIGMA, 0.0) for lattice in lattices]
        near = self._painted([_around(rows) for rows in nodes])
        rings = self._rings.get(still.detector, still.beam)
        bad, panels = self._bad, []
        if self._own_masks:
            bad = [mask | ~own for mask, own in zip(bad, static_mask(still.imageset))]
        for number, values in enumerate(raw):
            panels.append(
                _compared_with_rings(
                    values, bad[number], bragg[number], bounds[number], rings[number]
                )
            )
            sums = PanelSums(*(getattr(self.pixels, name)[number] for name in PanelSums._fields))
            _add_pixels(panels[-1], bragg[number], near[number], sums)
        self.pixels.images += 1
        spots = SpotSums(self._q_max, self._window)
        for rows in nodes if self._measure_spots else ():
            add_nodes(rows, panels, spots)
        return spots

    def _painted(self, spots: Sequence[SpotRows]) -> list[np.ndarray]:
        """The pixels under spots, a (n_slow, n_fast) bool array a panel."""
        return self._flat_panels.split(self._flat_panels.paint(spots))


def _compared_with_rings(values, bad, bragg, bounds, rings) -> PanelImage:
    """A panel with the statistics of its rings, from samples outside of Bragg spots."""
    low, high = bounds
    sampled = values.ravel()[rings.samples].astype(np.float64)
    usable = (low <= sampled) & (sampled <= high)
    usable &= ~(bad | bragg).ravel()[rings.samples]
    of_ring = rings.number.ravel()[rings.samples]
    mean, sigma, _ = clipped_statistics(sampled[usable].astype(np.float32), of_ring[usable])
    mean = np.rint(mean / EXACT) * EXACT
    # Of one type for all images: numba 0.56 may take one compiled function for another if it gets
    # named tuples of several types. It costs 5 ms a panel of 6 Mpixel, of the surveyed images only
    values = np.asarray(values, dtype=np.float64)
    return PanelImage(values, bad, low, high, rings.number, mean, sigma)


def _first_guess(still: Still) -> SpotRows:
    """Bragg rows before the size of the spots is measured: from the models, else of a usual size."""
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


def add_nodes(rows: SpotRows, panels: Sequence[PanelImage], sums: SpotSums) -> None:
    """Add the pixels around the nodes of a crystal to sums, which are changed in place.

    Args:
        rows: its nodes, out to WIDEST_SIGMA of WIDEST
        panels: the image
        sums: of its |q| and window
    """
    sums.stills += 1
    q_bin = np.minimum((rows.q / sums.q_max * Q_BINS).astype(np.int64), Q_BINS - 1)
    largest = WIDEST_SIGMA * np.hypot(WIDEST.size, WIDEST.angle * sums.q_of_bins())[q_bin]
    excitation_bin = (np.abs(rows.excitation) / largest * EXCITATION_BINS).astype(np.int64)
    inside = excitation_bin < EXCITATION_BINS
    inverse = np.linalg.inv(rows.to_pixels[inside])
    np.add.at(sums.pixel_variance, q_bin[inside], (inverse**2).sum(axis=2) / 12)
    np.add.at(sums.nodes, q_bin[inside], 1)
    arrays = NodeSums(*(getattr(sums, name) for name in NodeSums._fields))
    columns = rows.centre, rows.to_pixels, q_bin, excitation_bin
    for number, panel in enumerate(panels):
        on_panel = inside & (rows.panel == number)
        _add_spots(panel, *(column[on_panel] for column in columns), sums.window, arrays)


def _survey_share(task):
    """Read and sum the images of one process.

    Args:
        task: (stills by image, arguments of ImageSummer, folder for the handover, or None)

    Returns:
        (PixelSums, SpotSums of each image or None, path -> why an image can't be read), or the
        Handover of that
    """
    groups, *arguments, folder = task
    summer = ImageSummer(*arguments)
    spots: list[SpotSums | None] = []
    failures = {}
    for lattices in groups:
        still = lattices[0]
        try:
            raw = read_raw(still.imageset, still.image_index)
            check_shape(raw, still)
            bounds = [trusted_bounds(panel) for panel in still.detector]
        except ValueError as error:
            failures[still.path] = str(error)
            spots.append(None)
        else:
            spots.append(summer.add(raw, bounds, lattices))
    share = summer.pixels, spots, failures
    return share if folder is None else Handover.store(share, folder)


def run_survey(
    groups: Sequence[list[Still]],
    n_images: int,
    good,
    measure_spots: bool,
    nproc: int | None,
    own_masks: bool = False,
) -> SurveySums:
    """Survey some of the images, evenly spread over all of them.

    The sums are the same, to the last bit, whatever the number of processes.

    Args:
        groups: stills by image
        n_images: how many of them
        good, measure_spots, own_masks: see ImageSummer
        nproc: number of processes, None for as many as there are processors

    Raises:
        ValueError: none of these images can be read.
    """
    subset = spread_subset(groups, n_images)
    logger.info("Surveying %d of %d images", len(subset), len(groups))
    q_max = 1 / detector_d_min(subset[0][0].detector, subset[0][0].beam)
    # Half of the distance between nodes
    window = 0.5 * min(np.linalg.norm(group[0].setting_matrix(), axis=0).min() for group in subset)
    n_shares = max(1, min(resolve_nproc(nproc), len(subset) // LEAST_SHARE))
    result = None
    spots: list[SpotSums | None] = [None] * len(subset)
    # Through a pipe, the sums of a process take 2 s longer (6 Mpixels): more than it saves on a
    # few images
    with tempfile.TemporaryDirectory(prefix="diffuse_mask-") as folder:
        folder_or_none = folder if n_shares > 1 else None
        arguments = good, q_max, window, measure_spots, own_masks, folder_or_none
        tasks = [(subset[i::n_shares], *arguments) for i in range(n_shares)]
        for i, share in enumerate(map_in_processes(_survey_share, tasks, n_shares)):
            share = share.take() if isinstance(share, Handover) else share
            pixels, spots[i::n_shares], failures = share
            if result is None:
                result = SurveySums(pixels, SpotSums(q_max, window), failures)
            else:
                result.pixels.add(pixels)
                result.failures.update(failures)
    # One image after the other, so that the order of additions does not depend on nproc
    for spots_of_image in filter(None, spots):
        result.spots.add(spots_of_image)
    result.spots.orientations = count_orientations([still for group in subset for still in group])
    for reason in result.failures.values():
        logger.warning("This image is not used: %s", reason)
    if result.pixels.images == 0:
        raise ValueError(f"None of the images can be used. {next(iter(result.failures.values()))}")
    return result


def spread_subset(groups: Sequence, n: int | None) -> list:
    """n of the groups, evenly spread; all for None."""
    if n is None or n >= len(groups):
        return list(groups)
    positions = np.unique(np.round(np.linspace(0, len(groups) - 1, n)).astype(int))
    return [groups[i] for i in positions]


def count_orientations(stills: Sequence[Still], tolerance: float = 0.005) -> int:
    """Number of crystals whose orientations differ by more than the tolerance (rad)."""
    different: list[np.ndarray] = []
    for still in stills:
        b = np.array(still.crystal.get_B()).reshape(3, 3)
        rotation = still.setting_matrix() @ np.linalg.inv(b)
        # |R1 - R2| = 2 sqrt(2) sin(angle / 2) (Frobenius norm)
        if all(np.linalg.norm(rotation - other) > np.sqrt(2) * tolerance for other in different):
            different.append(rotation)
    return max(len(different), 1)
