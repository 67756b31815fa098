"""How many images or stills go into a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dials_diffuse.io.batches import MOST_ROWS

# A batch of so many pixels, or stills, takes some hundred megabytes
_PIXELS_OF_A_BATCH = 5e8
_STILLS_OF_A_BATCH = 500
# To index, which takes seconds an image: small enough for several processes to share the work
_IMAGES_OF_A_BATCH = (4, 50)


def index_batch_size(n_images: int) -> int:
    """Images that are indexed as one batch, of n_images in all; not a matter of how many processes there are"""
    least, most = _IMAGES_OF_A_BATCH
    return min(most, max(least, n_images // 16))


def automatic_batch_size(n_pixels: int) -> int:
    """Stills in a batch, for detectors of n_pixels"""
    return int(min(_STILLS_OF_A_BATCH, max(10, _PIXELS_OF_A_BATCH // max(1, n_pixels))))


def most_stills_of_a_batch(experiment, subdivide: Sequence[int], d_min: float | None = None) -> int:
    """Stills whose observations dials.diffuse_extract surely writes as one file.

    A still has no more rows than pixels, and on average no more than S (|v1| + |v2| + |v3|)/V: the
    Ewald sphere within q_max has the area S = pi q_max^2, a plane meets
    (|n v1| + |n v2| + |n v3|)/V voxels of edges v and volume V per area, half of that in the mean over
    its direction n, and each may have a row under Bragg spots and one beside them.

    Args:
        experiment: one of the stills
        subdivide: voxels per reciprocal cell edge
        d_min: Angstrom; None: all that the detector sees
    """
    detector, s0 = experiment.detector, experiment.beam.get_s0()
    d_min = max(d_min or 0.0, min(panel.get_max_resolution_at_corners(s0) for panel in detector))
    reciprocal = np.array(
        experiment.crystal.get_unit_cell().reciprocal().orthogonalization_matrix()
    ).reshape(3, 3)
    edges = reciprocal / np.array(subdivide)
    n_rows = np.pi / d_min**2 * np.linalg.norm(edges, axis=0).sum() / np.linalg.det(edges)
    n_pixels = sum(int(np.prod(panel.get_image_size())) for panel in detector)
    return max(1, int(MOST_ROWS / min(n_rows, n_pixels)))
