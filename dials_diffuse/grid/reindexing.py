"""The change of basis by which dials.diffuse_grid reindexed a still after it was integrated.

dials.diffuse_grid changes the crystals and voxels of stills to one setting, but not the user's integrated
reflections. The operator is kept in the scaling model of each still, so that later steps can apply it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cctbx import sgtbx

from dials_diffuse.adapters.tables import as_numpy, miller_index_column

_KEY = "reindexed"


def _operator(experiment) -> str | None:
    """The operator, such as "k,h,-l"; None for a still that was not reindexed"""
    model = experiment.scaling_model
    return None if model is None else getattr(model, "configdict", {}).get(_KEY)


def note_reindexing(experiment, operator: sgtbx.change_of_basis_op) -> None:
    """Store an operator in the scaling model of an experiment, multiplied by those stored before."""
    # From text: cctbx cannot multiply operators with different denominators
    operator = sgtbx.change_of_basis_op(operator.as_hkl())
    before = _operator(experiment)
    if before is not None:
        operator = operator * sgtbx.change_of_basis_op(before)
    experiment.scaling_model.configdict[_KEY] = operator.as_hkl()


def hand_on_reindexing(experiments, models) -> None:
    """Copy the operators of experiments to the models that will replace their scaling models."""
    for experiment, model in zip(experiments, models):
        operator = _operator(experiment)
        if operator is not None:
            model.configdict[_KEY] = operator


def as_gridded(miller_index: np.ndarray, still: np.ndarray, experiments: Sequence) -> np.ndarray:
    """Change Miller indices from the setting of integration to that of the grid.

    Args:
        miller_index: (N, 3)
        still: (N,) index of the experiment, all >= 0
        experiments: written by dials.diffuse_grid or a later step

    Returns:
        (N, 3) int32
    """
    names = [_operator(experiment) for experiment in experiments]
    result = np.array(miller_index, dtype=np.int32)
    for name in {name for name in names if name is not None}:
        rows = np.array([other == name for other in names])[still]
        operator = sgtbx.change_of_basis_op(name)
        result[rows] = as_numpy(operator.apply(miller_index_column(result[rows])))
    return result
