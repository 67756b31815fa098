"""Sweeps in scaling: a row of parts, each of which has a scale and an offset of its own, as a still has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dxtbx.model import Crystal, Experiment

from dials_diffuse.adapters.sweeps import beam_at, is_sweep, lab_matrix, n_images
from dials_diffuse.model.scaling_model import DiffuseScalingModel


@dataclass
class Parts:
    """The experiments of a file as what scaling takes for stills: stills, and parts of sweeps.

    Attributes:
        experiments: one a still or part
        first: (E + 1,) number of the first still or part of each experiment, and of all
        start, width: (E,) array index at which the first part begins, and images of a part; 0 and infinity for stills
    """

    experiments: list
    first: np.ndarray
    start: np.ndarray
    width: np.ndarray

    def number(self, ids: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Number of the still or part (N,) of rows.

        Args:
            ids: (N,) experiment; z: (N,) array index of the image, a fraction at its middle
        """
        within = np.floor((z - self.start[ids]) / self.width[ids]).astype(np.int64)
        most = self.first[ids + 1] - self.first[ids] - 1
        return self.first[ids] + np.clip(within, 0, most)

    def models(self, models: list) -> list:
        """A scaling model for each experiment (E,), of those of all stills and parts."""
        out = []
        for first, last, start, width in zip(
            self.first[:-1], self.first[1:], self.start, self.width
        ):
            own = models[first:last]
            if np.isfinite(width):
                edges = start + width * np.arange(len(own) + 1)
                out.append(DiffuseScalingModel.of_sweep(own, edges))
            else:
                out.append(own[0])
        return out


def parts_of(experiments, degrees: float) -> Parts:
    """Divide the sweeps among some experiments into equal parts.

    Args:
        experiments: of one file
        degrees: by which the crystal turns during a part, at most; there are two parts at least
    """
    made, first, start, width = [], [0], [], []
    for experiment in experiments:
        if not is_sweep(experiment):
            made.append(experiment)
            start.append(0.0)
            width.append(np.inf)
        else:
            begin, end = experiment.scan.get_array_range()
            turned = abs(experiment.scan.get_oscillation()[1]) * n_images(experiment)
            # a short sweep alone can be scaled too
            edges = np.linspace(begin, end, max(int(np.ceil(turned / degrees - 1e-6)), 2) + 1)
            made += [_part(experiment, a, b) for a, b in zip(edges[:-1], edges[1:])]
            start.append(float(begin))
            width.append(edges[1] - edges[0])
        first.append(len(made))
    return Parts(made, np.array(first), np.array(start), np.array(width))


def _part(experiment, begin: float, end: float) -> Experiment:
    """A still in place of the part of a sweep between two array indices, orientation of the middle."""
    middle = 0.5 * (begin + end)
    vectors = np.linalg.inv(lab_matrix(experiment, middle))
    crystal = Crystal(*map(tuple, vectors.tolist()), experiment.crystal.get_space_group())
    return Experiment(
        beam=beam_at(experiment, middle),
        detector=experiment.detector,
        crystal=crystal,
        scaling_model=experiment.scaling_model,
        identifier=f"{experiment.identifier}:{round(begin) + 1}-{round(end)}",
    )
