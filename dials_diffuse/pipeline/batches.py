"""Count the stills of .expt files, and divide them into batches."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import libtbx

from dials_diffuse.adapters.beams import XRAY, check_beams, check_polarization, probe_of_dict
from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.io.batches import MOST_ROWS
from dials_diffuse.pipeline.contents import batches_of, image_keys, n_pixels, read_contents
from dials_diffuse.pipeline.step_parameters import Files, step_values

logger = logging.getLogger("dials.diffuse.pipeline")

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


@dataclass(frozen=True)
class StillsOfFiles:
    """The stills in some .expt files.

    Attributes:
        keys: of each file, a key for each still, equal for stills on the same image (image_keys)
        n_pixels: of the largest detector
        shared: True if some image is in more than one file
    """

    keys: list[list[Hashable]]
    n_pixels: int
    shared: bool

    @property
    def number(self) -> int:
        """Number of stills in all files"""
        return sum(len(keys) for keys in self.keys)


def stills_of_files(pairs: Sequence[Files], folder: Path) -> StillsOfFiles:
    """Read which stills are in .expt files, one file after the other.

    Raises:
        ValueError: a file is unreadable, or an experiment is in two files.
    """
    all_keys, most_pixels, shared = [], 0, False
    file_of_experiment: dict[str, str] = {}
    file_of_image: dict[Hashable, int] = {}
    for number, (expt, _) in enumerate(pairs):
        contents = read_contents(Path(folder, expt))
        keys = image_keys(contents)
        for experiment, key in zip(contents["experiment"], keys):
            name = experiment.get("identifier")
            if name and file_of_experiment.setdefault(name, expt) != expt:
                raise ValueError(
                    f"{expt} holds an experiment that {file_of_experiment[name]} holds too ({name}): "
                    "give each still once"
                )
            shared |= file_of_image.setdefault(key, number) != number
        all_keys.append(keys)
        most_pixels = max(most_pixels, n_pixels(contents))
    return StillsOfFiles(all_keys, most_pixels, shared)


def check_beams_of_files(pairs: Sequence[Files], folder: Path, polarization: bool) -> None:
    """Find out before the work that a step could not use the beams.

    Args:
        pairs: .expt and .refl files
        folder: what their names are relative to
        polarization: whether it will be corrected for

    Raises:
        ValueError: see check_beams and check_polarization.
    """
    for expt, _ in pairs:
        beams = list(filter(None, read_contents(Path(folder, expt)).get("beam", [])))
        check_beams(beams, expt)
        if polarization:
            check_polarization(beam for beam in beams if probe_of_dict(beam) == XRAY)


def batch_size(stills: StillsOfFiles, pairs: Sequence[Files], params, folder: Path) -> int:
    """Stills in a batch at most: batch_size, or as many as memory and the files of observations hold.

    Args:
        stills: in the files
        pairs: the files
        params: extract of dials_diffuse.phil.process
        folder: what the names of the files are relative to
    """
    size = params.batch_size
    if size is None or size is libtbx.Auto:
        size = automatic_batch_size(stills.n_pixels)
    # A still has no more observations than pixels
    if size * stills.n_pixels <= MOST_ROWS:
        return size
    first = load_experiments(Path(folder, pairs[0][0]), check_format=False)[0]
    if first.crystal is None:
        return size
    extract = step_values("extract", params, folder)
    most = most_stills_of_a_batch(first, extract.subdivide, extract.d_min)
    if size > most:
        logger.info(
            "Batches of %d stills at most: the observations of more do not fit into one file", most
        )
    return min(size, most)


@dataclass(frozen=True)
class Portion:
    """Files that are read together: one that is cut into batches, or several that make one batch.

    Attributes:
        files: their numbers
        batches: number of stills of each batch
    """

    files: list[int]
    batches: list[int]


def plan_portions(keys: Sequence[Sequence[Hashable]], size: int) -> list[Portion]:
    """Divide the stills of several files into batches.

    Files are taken in their order. A file with more stills than a batch may have is cut into parts; smaller
    files are joined as wholes up to the size of a batch. Stills on the same image stay in one batch,
    which is larger then if the image has more lattices than the size.

    Args:
        keys: for each file, a key for each of its stills, equal for stills on the same image
        size: number of stills in a batch at most

    Returns:
        a Portion for each file that is cut into batches, and for each batch of joined files, in order
    """
    joined: list[list[int]] = []
    for number, keys_of_file in enumerate(keys):
        before = sum(len(keys[i]) for i in joined[-1]) if joined else size
        if before + len(keys_of_file) > size:
            joined.append([number])
        else:
            joined[-1].append(number)
    return [
        Portion(files, [len(b) for b in batches_of([k for i in files for k in keys[i]], size)])
        for files in joined
    ]
