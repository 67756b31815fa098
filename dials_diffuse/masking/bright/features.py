"""Tell sharp features of the crystal (satellites, rods, streaks) from what does not belong to it.

A bright group that no lattice explains may be the crystal's all the same. Then it follows h: it is
bright again at the same h on other stills, or at the same distance from other nodes. Salt, ice and
cosmic rays don't, and what sits on the window stays at its place on the detector while h moves. Some
stills are looked at for that (see evidence), and this module holds what was learnt:

- voxels of the cell of reciprocal space (h without its whole part, under the Laue group) that are
  bright far more often than their resolution rings are. All nodes count, so that one still tells;
- voxels of the asymmetric unit that are bright on several stills, at different places on the
  detector, where chance would hardly have it so. They need no period;
- places on the detector that are bright on most of the stills, whatever h they see.

A region is kept if half of its groups lie in such voxels. Whether it is bright enough on this
still makes no difference then: to mask only what counts high would bias the mean. All else is masked.
So are groups next to a node, and groups that a node would reach if turned by less than MISSET: they
may be Bragg scattering of another domain, which follows h too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from dials_diffuse.adapters.stills import Still
from dials_diffuse.grid.expand import pack_voxels
from dials_diffuse.grid.symmetry import check_subdivide, laue_group_of
from dials_diffuse.grid.voxel_grid import VoxelGrid

# A voxel is about as wide as this many pixels, within limits
VOXEL_PIXELS = 3.0
COARSEST, FINEST = 5, 16
# A group is next to a node within this many voxels along all axes,
NEXT_TO = 1.5
# or if a rotation of the node by less than this reaches it, rad
MISSET = 0.01
# Bright places on the detector are looked at in squares of this many pixels
PLACE = 8


class RegionCounts(NamedTuple):
    """Numbers of bright regions of an image.

    Attributes:
        found: all
        kept: taken for the crystal's
        near: masked, and next to a node, so that nothing could be asked
    """

    found: int = 0
    kept: int = 0
    near: int = 0

    def __add__(self, other) -> RegionCounts:
        return RegionCounts(*(a + b for a, b in zip(self, other)))


class Located(NamedTuple):
    """Where in reciprocal space N places on the detector are.

    Attributes:
        voxel: (N, 3) int32
        q: (N,) |q|, 1/Angstrom
        far: (N,) bool: not next to a node
    """

    voxel: np.ndarray
    q: np.ndarray
    far: np.ndarray


@numba.njit(cache=True)
def _locate(x, y, d, s0, setting, inverse, subdivide, voxel, length, far):
    """Fill voxel, length and far; see Located. x, y: (N,) pixels; d: of the panel, for pixels."""
    wave = np.sqrt(s0[0] ** 2 + s0[1] ** 2 + s0[2] ** 2)
    q, delta, lab = np.empty(3), np.empty(3), np.empty(3)
    for k in range(x.size):
        for i in range(3):
            lab[i] = d[i, 0] * x[k] + d[i, 1] * y[k] + d[i, 2]
        scale = wave / np.sqrt(lab[0] ** 2 + lab[1] ** 2 + lab[2] ** 2)
        for i in range(3):
            q[i] = lab[i] * scale - s0[i]
        alone = False
        for i in range(3):
            h = inverse[i, 0] * q[0] + inverse[i, 1] * q[1] + inverse[i, 2] * q[2]
            voxel[k, i] = np.floor(h * subdivide[i] + 0.5)
            delta[i] = h - np.rint(h)
            alone |= abs(delta[i]) * subdivide[i] > NEXT_TO
        away = 0.0
        for i in range(3):
            part = setting[i, 0] * delta[0] + setting[i, 1] * delta[1] + setting[i, 2] * delta[2]
            away += part * part
        length[k] = np.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2)
        far[k] = alone & (away > (MISSET * length[k]) ** 2)


def locate(still: Still, panel: int, x, y, subdivide) -> Located:
    """The voxels that pixels of a still are in.

    Parallax is left out: it moves pixels by less than the size of a voxel.

    Args:
        still: with crystal, beam and detector
        panel: number of the panel
        x, y: (N,) fast, slow, pixels; the first pixel's centre is 0.5
        subdivide: voxels a reciprocal cell edge, three
    """
    model = still.detector[panel]
    size = np.diag([*model.get_pixel_size(), 1.0])
    d = np.array(model.get_d_matrix()).reshape(3, 3) @ size
    setting = np.ascontiguousarray(still.setting_matrix(), dtype=float)
    n = len(x)
    located = Located(np.empty((n, 3), np.int32), np.empty(n), np.empty(n, bool))
    _locate(
        np.asarray(x, dtype=float),
        np.asarray(y, dtype=float),
        d,
        np.array(still.beam.get_s0()),
        setting,
        np.linalg.inv(setting),
        np.array(subdivide, dtype=float),
        *located,
    )
    return located


def place_codes(panel: int, x, y) -> np.ndarray:
    """A number for the square of the detector that each pixel (x, y), (N,) each, is in: (N,) int64."""
    squares = [np.asarray(a).astype(np.int64) // PLACE for a in (y, x)]
    return (np.int64(panel) << 40) + (squares[0] << 20) + squares[1]


def contains(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N,) bool: which of N wanted numbers are among the values, which ascend."""
    if not len(values):
        return np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
    return values[at] == wanted


def feature_grid(still: Still) -> VoxelGrid:
    """A grid whose voxels are about VOXEL_PIXELS wide on the detector of a still, and obey the symmetry."""
    pixel = (
        min(panel.get_pixel_size()[0] / abs(panel.get_distance()) for panel in still.detector)
        / still.beam.get_wavelength()
    )
    spacing = np.linalg.norm(still.setting_matrix(), axis=0)
    wanted = np.rint(spacing / (VOXEL_PIXELS * pixel))
    subdivide = np.clip(wanted, COARSEST, FINEST).astype(int)
    group = laue_group_of(still.crystal.get_space_group())
    try:
        check_subdivide(subdivide, group)
    except ValueError:
        # Axes that symmetry relates are not equally long in this still
        subdivide[:] = subdivide.min()
    return VoxelGrid(tuple(subdivide.tolist()), still.crystal.get_unit_cell(), group)


@dataclass(frozen=True)
class CrystalFeatures:
    """What is known of the crystal's sharp features.

    Attributes:
        grid: of the voxels
        of_cell: (n_a, n_b, n_c) bool, voxels of the reciprocal cell that features are in
        voxels: keys of voxels of the asymmetric unit that features are in, ascending
        places: codes of places on the detector that are bright whatever h they see, ascending
        images: number of images from which this is known
    """

    grid: VoxelGrid
    of_cell: np.ndarray
    voxels: np.ndarray
    places: np.ndarray
    images: int

    def judge(self, lattices: Sequence[Still], panel: int, groups: np.ndarray, number: int):
        """Which regions of a panel are the crystal's.

        Args:
            lattices: the stills on the image
            panel: number of the panel
            groups: (M, 3) see BrightRegions
            number: N, of regions

        Returns:
            (N,) bool: they are; (N,) bool: nothing is known, as they are next to a node
        """
        region, x, y = groups.T
        size = np.bincount(region, minlength=number)
        bound = np.bincount(
            region, contains(self.places, place_codes(panel, x, y)), minlength=number
        )
        kept, near = np.zeros(number, bool), np.ones(number, bool)
        for still in lattices:
            located = locate(still, panel, x + 0.5, y + 0.5, self.grid.subdivide)
            far = np.bincount(region, located.far, minlength=number)
            own = np.bincount(region, located.far & self.follows(located.voxel), minlength=number)
            kept |= (own > 0) & (2 * own >= far) & (3 * far >= size)
            near &= 3 * far < size
        return kept & (2 * bound <= size), near

    def follows(self, voxel: np.ndarray) -> np.ndarray:
        """(N,) bool: voxels (N, 3) that features of the crystal are in."""
        inside = self.of_cell[tuple((voxel % np.array(self.grid.subdivide)).T)]
        return inside | contains(self.voxels, pack_voxels(self.grid.to_asu(voxel)))
