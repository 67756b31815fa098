"""Collect where stills are bright, and learn from it what follows h and what stays in place.

Of each still two things are taken (ImageEvidence): how many voxels of every place in the reciprocal
cell and every step of |q| it passes through, and the voxels of the asymmetric unit in which it has
bright groups, with their place on the detector. Memory grows with the number of bright voxels only, and
that is limited (MOST_BRIGHT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import poisson

from dials_diffuse.adapters.images import trusted_bounds
from dials_diffuse.adapters.stills import Still
from dials_diffuse.grid.expand import pack_voxels, unpack_voxels
from dials_diffuse.grid.symmetry import reciprocal_operators
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.masking.bright.features import (
    PLACE,
    CrystalFeatures,
    Located,
    locate,
    place_codes,
)
from dials_diffuse.masking.bright.other_spots import OtherSpots

# Equal steps of |q| in which the rates of bright voxels are compared
Q_STEPS = 50
# Every third pixel along both axes stands for the group around it
STEP = 3
# Bright voxels that are kept of all images together, 32 bytes each
MOST_BRIGHT = 3_000_000
# A voxel of the cell is the crystal's if it is bright this much more often than by chance,
ENRICHED = 4.0
# by this many standard deviations, and this many times more
CERTAIN, FEWEST = 4.0, 4
PASSES = 4
# So much brighter than usual, shells around nodes belong to other domains
CLOUDY = 3.0
# At most this part of foreign groups may be bright on other stills by chance
BY_CHANCE = 0.02
# The same voxel seen at places this far from each other on the detector (pixels) is seen anew
ELSEWHERE = 3 * PLACE
# Places are bright whatever they see if they are on this part of the images, of at least so many
ALWAYS, FEWEST_IMAGES = 0.5, 4
# Two h at the same place are different beyond this many voxels
OTHER_H = 4


class ImageEvidence(NamedTuple):
    """What one image tells.

    Attributes:
        visits: (n_a, n_b, n_c, Q_STEPS) int32, voxels that it passes through
        voxel: (N, 3) int32, bright voxels, not next to a node, as they are
        q: (N,) |q|, 1/Angstrom
        place: (N, 3) panel, fast, slow of a bright group in them
        pixels: number of pixels that can be used
    """

    visits: np.ndarray
    voxel: np.ndarray
    q: np.ndarray
    place: np.ndarray
    pixels: int


def _once(located: Located) -> np.ndarray:
    """Rows of the first place of each voxel that is not next to a node."""
    far = np.flatnonzero(located.far)
    _, first = np.unique(pack_voxels(located.voxel[far]), return_index=True)
    return far[first]


def image_evidence(
    lattices: Sequence[Still], raw, known: np.ndarray, others: OtherSpots, grid: VoxelGrid, q_max
) -> ImageEvidence:
    """Look at one image.

    Args:
        lattices: the stills on it
        raw: its pixels, an (n_slow, n_fast) array a panel
        known: pixels under spots of its lattices, see OtherSpots.painted
        others: finds bright groups
        grid: of voxels
        q_max: end of the steps of |q|, 1/Angstrom
    """
    blocked = others.blocked(known)
    regions = others.regions_in(raw, lattices[0], blocked)
    n = np.array(grid.subdivide)
    visits = np.zeros((*grid.subdivide, Q_STEPS), np.int32)
    voxels, lengths, places, pixels = [], [], [], 0
    for panel, (values, bad) in enumerate(zip(raw, blocked)):
        low, high = trusted_bounds(lattices[0].detector[panel])
        some = values[1::STEP, 1::STEP]
        y, x = np.nonzero(~bad[1::STEP, 1::STEP] & (some >= low) & (some <= high))
        pixels += STEP**2 * len(x)
        groups = regions[panel].groups
        for still in lattices:
            seen = locate(still, panel, x * STEP + 1.5, y * STEP + 1.5, grid.subdivide)
            first = _once(seen)
            at = (*(seen.voxel[first] % n).T, q_step(seen.q[first], q_max))
            np.add.at(visits, at, 1)
            bright = locate(still, panel, groups[:, 1] + 0.5, groups[:, 2] + 0.5, grid.subdivide)
            first = _once(bright)
            voxels.append(bright.voxel[first])
            lengths.append(bright.q[first])
            places.append(np.column_stack([np.full(len(first), panel), groups[first, 1:]]))
    columns = (np.concatenate(part) for part in (voxels, lengths, places))
    return ImageEvidence(visits, *columns, pixels)


def q_step(q, q_max: float) -> np.ndarray:
    """The step of |q| that each of (N,) is in."""
    return np.minimum((q / q_max * Q_STEPS).astype(np.int64), Q_STEPS - 1)


class Evidence:
    """Adds up what images tell.

    Args:
        grid: of voxels
        q_max: end of the steps of |q|, 1/Angstrom

    Attributes:
        images: number of images so far
    """

    def __init__(self, grid: VoxelGrid, q_max: float):
        self.images = 0
        self._grid, self._q_max = grid, q_max
        self._visits = np.zeros((*grid.subdivide, Q_STEPS), np.int64)
        self._bright: list[tuple[np.ndarray, ...]] = []
        self._n_bright = self._n_pixels = 0

    @property
    def full(self) -> bool:
        """Whether no more images should be added."""
        return self._n_bright > MOST_BRIGHT

    def add(self, image: ImageEvidence) -> None:
        """Add what one image tells."""
        self._visits += image.visits
        number = np.full(len(image.q), self.images)
        self._bright.append((pack_voxels(image.voxel), image.q, image.place, number))
        self._n_bright += len(image.q)
        self._n_pixels += image.pixels
        self.images += 1

    def learn(self) -> CrystalFeatures:
        """What follows h, and what stays in place."""
        columns = [np.concatenate(parts) for parts in zip(*self._bright)] if self._bright else None
        empty = np.zeros(0, np.int64)
        of_cell = np.zeros(self._grid.subdivide, bool)
        if columns is None or not len(columns[0]):
            return CrystalFeatures(self._grid, of_cell, empty, empty, self.images)
        key, q, place, image = columns
        voxel = unpack_voxels(key)
        places = self._always_bright(voxel, place, image)
        free = ~np.isin(_codes(place), places)
        voxel, q, place, image = voxel[free], q[free], place[free], image[free]
        asu = pack_voxels(self._grid.to_asu(voxel))
        of_cell, rate, cloudy = self._of_cell(voxel, asu, q, place)
        clear = ~cloudy[tuple((voxel % np.array(self._grid.subdivide)).T)]
        voxels = self._seen_again(asu[clear], q[clear], place[clear], image[clear], rate)
        return CrystalFeatures(self._grid, of_cell, voxels, places, self.images)

    def _always_bright(self, voxel, place, image) -> np.ndarray:
        """Codes of places that are bright on most images and see different h there, ascending."""
        if self.images < FEWEST_IMAGES:
            return np.zeros(0, np.int64)
        code = _codes(place)
        # Each still once, and each h once
        coarse = pack_voxels(np.floor_divide(voxel, OTHER_H))
        of_place, at = np.unique(code, return_inverse=True)
        stills = np.unique(np.column_stack([at, image]), axis=0)[:, 0]
        indices = np.unique(np.column_stack([at, coarse]), axis=0)[:, 0]
        number = np.bincount(stills, minlength=len(of_place))
        different = np.bincount(indices, minlength=len(of_place))
        # If bright groups were anywhere
        usual = len(stills) * self.images * PLACE**2 / max(self._n_pixels, 1)
        limit = max(ALWAYS * self.images, usual + CERTAIN * np.sqrt(usual))
        return of_place[(number > limit) & (different > ALWAYS * number) & (different > 2)]

    def _of_cell(self, voxel, asu, q, place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where in the cell features are.

        Spots of other domains make a cloud around nodes. So voxels are compared with others at their
        distance from the node, where these are brighter than usual.

        Returns:
            (n_a, n_b, n_c) bool: the voxels that are bright too often; (Q_STEPS,) rate of the others;
            (n_a, n_b, n_c) bool: the voxels that are in the cloud
        """
        # What stays in place with h, on stills of one orientation, counts once
        _, first = np.unique(
            np.column_stack([asu, place // (2 * PLACE)]), axis=0, return_index=True
        )
        n = np.array(self._grid.subdivide)
        bright = np.zeros(self._visits.shape)
        np.add.at(bright, (*(voxel[first] % n).T, q_step(q[first], self._q_max)), 1)
        operators = reciprocal_operators(self._grid.laue_group)
        visits, bright = (_symmetric(table, operators) for table in (self._visits, bright))
        shell = _shells(self._grid)
        flagged = np.zeros(self._grid.subdivide, bool)
        total = bright.sum(axis=-1)
        for _ in range(PASSES):
            others = ~flagged
            rate = bright[others].sum(axis=0) / np.maximum(visits[others].sum(axis=0), 1)
            expected = (visits * rate).sum(axis=-1)
            cloud = _brightness_of_shells(shell, total, expected)[shell]
            expected = expected * np.maximum(cloud, 1)
            limit = np.maximum(ENRICHED * expected, expected + CERTAIN * np.sqrt(expected))
            flagged = total > limit + FEWEST
        return flagged, rate, cloud > CLOUDY

    def _seen_again(self, asu, q, place, image, rate) -> np.ndarray:
        """Keys of voxels that are bright on more stills than by chance, ascending.

        Args:
            asu, q, place, image: of bright voxels
            rate: (Q_STEPS,) part of the voxels that are bright by chance
        """
        keys, first, at = np.unique(asu, return_index=True, return_inverse=True)
        pairs = np.unique(np.column_stack([at, image]), axis=0)[:, 0]
        stills = np.bincount(pairs, minlength=len(keys))
        # Panels are far from each other
        spread = np.zeros(len(keys))
        for axis in (place[:, 0] * 1e6 + place[:, 1], place[:, 0] * 1e6 + place[:, 2]):
            low, high = np.full(len(keys), np.inf), np.full(len(keys), -np.inf)
            np.minimum.at(low, at, axis)
            np.maximum.at(high, at, axis)
            spread = np.maximum(spread, high - low)
        step = q_step(q[first], self._q_max)
        chance = (self._visits_of_a_voxel() * rate)[step]
        certain = poisson.sf(stills - 2, chance) < BY_CHANCE
        return keys[(stills > 1) & (spread > ELSEWHERE) & certain]

    def _visits_of_a_voxel(self) -> np.ndarray:
        """(Q_STEPS,) how often a voxel of the asymmetric unit was seen, mean."""
        edges = np.linspace(0, self._q_max, Q_STEPS + 1)
        volume = 4 / 3 * np.pi * np.diff(edges**3) * self._grid.unit_cell.volume()
        order = len(reciprocal_operators(self._grid.laue_group))
        voxels = volume * np.prod(self._grid.subdivide) / order
        return self._visits.sum(axis=(0, 1, 2)) / np.maximum(voxels, 1)


def _shells(grid: VoxelGrid) -> np.ndarray:
    """Distances from the node of the voxels of the cell in mean widths of a voxel, (n_a, n_b, n_c) int."""
    n = np.array(grid.subdivide)
    index = np.indices(grid.subdivide).reshape(3, -1).T
    away = np.linalg.norm(grid.q_of_voxel((index + n // 2) % n - n // 2), axis=1)
    width = (1 / (grid.unit_cell.volume() * np.prod(n))) ** (1 / 3)
    return np.rint(away / width).astype(int).reshape(grid.subdivide)


def _brightness_of_shells(shell, total, expected) -> np.ndarray:
    """How much brighter than expected the upper quartile of the seen voxels of each shell is.

    Clouds fall off from the node: no shell is brighter than those inside of it.
    """
    seen = expected > 0
    ratio = np.where(seen, total / np.where(seen, expected, 1), 0)
    result = np.full(shell.max() + 1, np.inf)
    for number in range(len(result)):
        inside = ratio[seen & (shell == number)]
        if len(inside):
            result[number] = np.percentile(inside, 75)
    result = np.minimum.accumulate(result)
    return np.where(np.isfinite(result), result, 1.0)


def _codes(place: np.ndarray) -> np.ndarray:
    return place_codes(0, place[:, 1], place[:, 2]) + (place[:, 0].astype(np.int64) << 40)


def _symmetric(table: np.ndarray, operators) -> np.ndarray:
    """The sum of a table (n_a, n_b, n_c, Q_STEPS) over symmetry-equivalent voxels, each taken once."""
    n = np.array(table.shape[:3])
    index = np.indices(table.shape[:3]).reshape(3, -1)
    result, same = np.zeros(table.shape), np.zeros(table.shape[:3])
    for operator in operators:
        image = (operator @ index) % n[:, None]
        result[tuple(index)] += table[tuple(image)]
        same[tuple(index)] += (image == index).all(axis=0)
    return result / same[..., None]
