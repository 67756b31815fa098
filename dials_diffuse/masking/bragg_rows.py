"""Make the table of Bragg rows: the spots of all stills, from which their masks are painted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials.array_family import flex

from dials_diffuse.adapters.stills import Still, group_by_image, stills_of
from dials_diffuse.adapters.system import map_in_processes, resolve_nproc
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking.bright.features import CrystalFeatures, RegionCounts
from dials_diffuse.masking.bright.other_spots import OtherSpots
from dials_diffuse.masking.lattices import leave_out_unmasked
from dials_diffuse.masking.spot_predictor import SpotPredictor
from dials_diffuse.masking.spots.rows import CollectedSpots, SpotRows

logger = logging.getLogger("dials.diffuse.masking")

# Raised where the spots of a still can't be predicted
UNPREDICTABLE = (ValueError, RuntimeError, np.linalg.LinAlgError)


def integrated_spots(reflections, stills: Sequence[Still]) -> dict:
    """Integrated reflections: key of a still -> (miller_index (N, 3), counts (N,)), or None where
    the table does not hold them. An image of a sweep has those whose bbox it cuts."""
    columns = {"id", "miller_index", "intensity.sum.value"}
    if reflections is None or not columns <= set(reflections.keys()):
        return {still.key: None for still in stills}
    done = as_numpy(reflections.get_flags(reflections.flags.integrated_sum))
    ids = as_numpy(reflections["id"])[done]
    order = np.argsort(ids, kind="stable")
    indices = as_numpy(reflections["miller_index"])[done][order]
    counts = as_numpy(reflections["intensity.sum.value"])[done][order]
    numbers = [still.index for still in stills]
    first, last = (np.searchsorted(ids[order], numbers, side) for side in ("left", "right"))
    bbox = as_numpy(reflections["bbox"])[done][order] if "bbox" in reflections else None
    found = {}
    for still, a, b in zip(stills, first, last):
        rows = slice(a, b)
        if still.of_sweep and bbox is not None:
            image = still.key[1]
            rows = a + np.flatnonzero((bbox[a:b, 4] <= image) & (image < bbox[a:b, 5]))
        found[still.key] = indices[rows], counts[rows]
    return found


@dataclass(frozen=True)
class _SpotsOfImage:
    """Predicts the spots of the stills on one image, and finds other bright ones on it.

    Attributes:
        predictor: of spots
        other_spots: None where they are not looked for
    """

    predictor: SpotPredictor
    other_spots: OtherSpots | None

    def __call__(self, task):
        """Find the spots of an image.

        Args:
            task: (stills, integrated spots of each)

        Returns:
            rows of each still, reasons of failures (or None) of each still, rows of the other spots,
            numbers of bright regions, why the image could not be read (or None)
        """
        stills, integrated = task
        rows, reasons = [], []
        for still, spots in zip(stills, integrated):
            try:
                rows.append(self.predictor.predict(still, spots))
                reasons.append(None)
            except UNPREDICTABLE as error:
                rows.append(SpotRows.none())
                reasons.append(str(error))
        others, counts, unread = SpotRows.none(), RegionCounts(), None
        if self.other_spots is not None:
            try:
                others, counts = self.other_spots.find(stills, rows)
            except ValueError as error:
                unread = str(error)
        return [part.for_table() for part in rows], reasons, others.for_table(), counts, unread


def predicted_table(
    stills: list[Still],
    reflections,
    predictor: SpotPredictor,
    good,
    nproc: int | None,
    features: CrystalFeatures | None = None,
):
    """The table of predicted and of other bright spots, the failures and counts; as bragg_rows does."""
    failures: dict[str, str] = {}
    counted: dict[str, RegionCounts] = {}
    integrated = integrated_spots(reflections, stills)
    groups = group_by_image(stills)
    settings = predictor.settings
    other_spots = OtherSpots(good, settings.padding, features) if settings.other_spots else None
    spots_of_images = map_in_processes(
        _SpotsOfImage(predictor, other_spots),
        ((group, [integrated[still.key] for still in group]) for group in groups),
        resolve_nproc(nproc, len(groups)),
    )
    collected = CollectedSpots()
    for group, (rows, reasons, others, counts, unread) in zip(groups, spots_of_images):
        for still, rows_of_still, reason in zip(group, rows, reasons):
            if reason is not None:
                failures[still.name] = reason
            else:
                collected.add(rows_of_still, still.index, still.image_number)
        if unread is not None:
            failures[group[0].path] = unread
            logger.warning("This image is not searched for other spots: %s", unread)
        else:
            collected.add(others, group[0].index, group[0].image_number, other=True)
            counted[group[0].path] = counted.get(group[0].path, RegionCounts()) + counts
    return collected.into_table(), failures, counted


def shoebox_table(reflections):
    """The rows of a table with shoeboxes, with the columns that masks need.

    Raises:
        ValueError: there are no shoeboxes.
    """
    if reflections is None or "shoebox" not in reflections:
        raise ValueError(
            "bragg.method=shoebox needs a .refl file with shoeboxes "
            "(keep them when integrating, or use bragg.method=predicted)"
        )
    table = flex.reflection_table()
    for name in ("id", "panel", "miller_index", "xyzcal.px", "bbox", "flags", "shoebox"):
        if name in reflections:
            table[name] = reflections[name]
    return table


def bragg_rows(
    experiments,
    reflections,
    method: str,
    predictor: SpotPredictor | None,
    good,
    nproc: int | None,
    features: CrystalFeatures | None = None,
):
    """The Bragg rows of stills; stills whose spots are unknown are left out.

    Args:
        experiments: ExperimentList
        reflections: its table, or None; integrated spots that are bright are masked further out
        method: the parameter bragg.method
        predictor: for the methods predicted and halo
        good: pixels good in every image, a (n_slow, n_fast) bool array a panel
        nproc: number of processes, None for as many as there are processors
        features: tells which bright groups are the crystal's; None: all are masked

    Returns:
        (ExperimentList that is left, its table, identifier of a still or path of an image -> why
        it can't be masked or read, path of an image -> numbers of its bright regions)

    Raises:
        ValueError: there are no shoeboxes for the method shoebox.
        NothingLeft: no still could be masked.
    """
    stills = stills_of(experiments)
    failures: dict[str, str] = {}
    counts: dict[str, RegionCounts] = {}
    if method == "shoebox":
        table = shoebox_table(reflections)
    elif method == "none":
        table = CollectedSpots().into_table()
    else:
        table, failures, counts = predicted_table(
            stills, reflections, predictor, good, nproc, features
        )
    for still in stills:
        table.experiment_identifiers()[still.index] = still.experiment.identifier
    return *leave_out_unmasked(experiments, table, failures), failures, counts
