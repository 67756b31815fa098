"""How stills were reindexed after they were integrated, and where that is kept.

dials.diffuse_grid brings stills that were indexed in different settings to one. Their crystals and
voxels are in it from then on, but the integrated reflections that the user has are not: the operator
travels in the scaling model, beside the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cctbx import sgtbx

from dials_diffuse.adapters.tables import as_numpy, miller_index_column

_KEY = "reindexed"


def _operator(experiment) -> str | None:
    """Such as k,h,-l; None for a still that is indexed as it was integrated"""
    model = experiment.scaling_model
    return None if model is None else getattr(model, "configdict", {}).get(_KEY)


def note_reindexing(experiment, operator: sgtbx.change_of_basis_op) -> None:
    """Keep with an experiment by what it was reindexed, after what it was reindexed by before."""
    # by its name: operators made in different ways have denominators that don't multiply
    operator = sgtbx.change_of_basis_op(operator.as_hkl())
    before = _operator(experiment)
    if before is not None:
        operator = operator * sgtbx.change_of_basis_op(before)
    experiment.scaling_model.configdict[_KEY] = operator.as_hkl()


def hand_on_reindexing(experiments, models) -> None:
    """Give the models that are to replace those of experiments what these keep."""
    for experiment, model in zip(experiments, models):
        operator = _operator(experiment)
        if operator is not None:
            model.configdict[_KEY] = operator


def as_gridded(miller_index: np.ndarray, still: np.ndarray, experiments: Sequence) -> np.ndarray:
    """Miller indices as they were integrated, in the setting that the grid has.

    Args:
        miller_index: (N, 3)
        still: (N,) index of the experiment, all >= 0
        experiments: of dials.diffuse_grid or later

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
