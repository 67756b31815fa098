"""Half sets of the stills, and groups for the jackknife."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_diffuse.adapters.stills import Still

# Groups of the jackknife
N_GROUPS = 10
# Stills of one crystal that follow each other turn by less than this (degrees)
LARGEST_TURN = 5.0
# Stills in a run that is taken for one crystal
LEAST_RUN = 5


@dataclass(frozen=True)
class Halves:
    """How the stills are dealt.

    Attributes:
        half: (S,) int64, 0 or 1
        group: (S,) int64, group of the jackknife
        unit: "image" or "crystal": what is dealt as a whole
        n_units: number of these
    """

    half: np.ndarray
    group: np.ndarray
    unit: str
    n_units: int


def image_of(experiments) -> np.ndarray:
    """(S,) number of the image of each experiment: lattices of one image share it."""
    numbers: dict = {}
    out = np.empty(len(experiments), dtype=np.int64)
    for index, experiment in enumerate(experiments):
        imageset = experiment.imageset
        key: tuple = (index,)
        if imageset is not None and len(imageset):
            key = (imageset.get_path(0), imageset.indices()[0])
        out[index] = numbers.setdefault(key, len(numbers))
    return out


def crystal_of(experiments) -> np.ndarray | None:
    """(S,) number of the crystal of each experiment, where the stills are runs of a few crystals; else None.

    Stills that follow each other and turn by a few degrees at most are of one crystal. Where such runs do not make up
    nearly all stills (serial data), or there is one run only, nothing is known.
    """
    orientation = np.array(
        [
            Still(number, experiment).setting_matrix()
            @ np.linalg.inv(np.reshape(experiment.crystal.get_B(), (3, 3)))
            for number, experiment in enumerate(experiments)
        ]
    )
    between = np.einsum("sij,skj->sik", orientation[1:], orientation[:-1])
    cosine = (np.trace(between, axis1=1, axis2=2) - 1) / 2
    turn = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    run = np.concatenate(([0], np.cumsum(turn > LARGEST_TURN)))
    in_long_runs = np.bincount(run)[run] >= LEAST_RUN
    if run[-1] == 0 or np.mean(in_long_runs) < 0.9:
        return None
    return run


def deal(experiments, used: np.ndarray, seed: int) -> Halves:
    """Deal the stills to halves and groups: by crystal where there are several, else by image.

    Args:
        experiments: of all stills
        used: (S,) bool: stills that take part
        seed: of the random choice
    """
    unit, number = "crystal", crystal_of(experiments)
    if number is None or len(np.unique(number[used])) < 2:
        unit, number = "image", image_of(experiments)
    units, index, size = np.unique(number[used], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(units))
    # the largest first, so that the halves hold about as many stills
    order = order[np.argsort(-size[order], kind="stable")]
    half_of_unit, group_of_unit = (np.zeros(len(units), dtype=np.int64) for _ in range(2))
    half_of_unit[order] = np.arange(len(units)) % 2
    group_of_unit[order] = np.arange(len(units)) % N_GROUPS
    half, group = (np.zeros(len(used), dtype=np.int64) for _ in range(2))
    half[used], group[used] = half_of_unit[index.ravel()], group_of_unit[index.ravel()]
    return Halves(half, group, unit, len(units))
