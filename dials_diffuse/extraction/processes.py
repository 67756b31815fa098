"""Extraction of many stills by several processes, which hand over observations in shared files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.inputs import DataPair
from dials_diffuse.adapters.system import map_in_processes
from dials_diffuse.extraction.background.planes import Background
from dials_diffuse.extraction.blocks import middle_of
from dials_diffuse.extraction.extractor import ExtractedStill, Extractor
from dials_diffuse.extraction.observations import COLUMNS, StoredObservations
from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.grid.lattice_settings import LatticeSetting
from dials_diffuse.io.scratch import ColumnScratch
from dials_diffuse.masking.masker import Masker


@dataclass(frozen=True)
class _ExtractImage:
    """Extracts images and stores the observations of their stills.

    Attributes:
        extractor: of the images
        scratch: for the observations; None: they stay with the stills
    """

    extractor: Extractor
    scratch: ColumnScratch | None

    def __call__(self, task: tuple[int, list[int]]) -> tuple[list[ExtractedStill], list[int]]:
        """Extract an image.

        Args:
            task: number of the image, and slots in the scratch for its stills, none without scratch

        Returns:
            the stills, and the slots that were not used
        """
        number, slots = task
        stills, unused = self.extractor.extract_block(number), []
        for still, slot in zip(stills, slots):
            if still.observations is None:
                unused.append(slot)
                continue
            observations = still.observations
            n_rows = self.scratch.store(slot, observations.columns, observations.repeated)
            still.observations = StoredObservations(slot, n_rows, observations.repeated)
        return stills, unused


def observation_scratch(experiments, folder: str | os.PathLike) -> ColumnScratch:
    """Room for the observations of stills, which have no more rows than pixels, until they are written.

    Args:
        experiments: all that will be extracted
        folder: for the files
    """
    most = max(
        sum(int(np.prod(panel.get_image_size())) for panel in detector)
        for detector in experiments.detectors()
    )
    return ColumnScratch(folder, COLUMNS, most)


def extract_pair(
    pair: DataPair,
    settings: ExtractionSettings,
    masker: Masker,
    background: Background | None = None,
    nproc: int = 1,
    scratch: ColumnScratch | None = None,
    keep_pixels: bool = False,
    setting: LatticeSetting | None = None,
) -> Iterator[tuple[object, ExtractedStill]]:
    """Extract the stills of a pair of files.

    Args:
        pair, settings, masker, background: see Extractor
        nproc: number of processes
        scratch: where the observations are stored; None: every still brings its own along
        keep_pixels, setting: see Extractor

    Yields:
        (experiment, ExtractedStill) in the order of the file, whatever nproc

    Raises:
        ValueError: see Extractor
    """
    with contextlib.ExitStack() as stack:
        folder = None
        if nproc > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="diffuse_extract-"))
        extractor = Extractor(pair, settings, masker, background, folder, keep_pixels, setting)
        nproc = max(1, min(nproc, len(extractor.blocks)))
        if nproc > 1:
            extractor.share_geometries()
        # What each block gives: the lattices of an image, or one still for several images
        units = [
            images[0] if len(images) == 1 else [middle_of([still for (still,) in images])]
            for images in extractor.blocks
        ]
        # Made one by one as they are wanted, when slots may have become free
        tasks = (
            (number, [scratch.reserve() for _ in stills] if scratch is not None else [])
            for number, stills in enumerate(units)
        )
        results = map_in_processes(_ExtractImage(extractor, scratch), tasks, nproc)
        # Lattices of one image come together, but the file may list them apart
        waiting: dict[tuple[int, int], ExtractedStill] = {}
        order = iter(sorted(still.key for stills in units for still in stills))
        expected = next(order, None)
        for stills, unused in results:
            for slot in unused:
                scratch.free(slot)
            waiting.update(((still.index, int(still.image_number)), still) for still in stills)
            while expected in waiting:
                yield extractor.experiments[expected[0]], waiting.pop(expected)
                expected = next(order, None)
