"""The numbers of a scaling run in the log and as JSON."""

from __future__ import annotations

import json
import logging
import os

import numpy as np

from dials.util import tabulate

from dials_diffuse.io.atomic import replacing

logger = logging.getLogger("dials.diffuse.scaling.summary")


def log_summary(scaled) -> None:
    """Write what a user wants to know about a scaling run to the log"""
    rows = [
        [c["cycle"], c["parameters"], c["steps"], f"{c['rmsd_start']:.5f}", f"{c['rmsd_end']:.5f}"]
        for c in scaled.fit.cycles
    ]
    logger.info(
        "\nConvergence:\n%s",
        tabulate(rows, ["Cycle", "Parameters", "Steps", "RMSD before", "RMSD after"]),
    )
    b = scaled.merger.tables.b[~scaled.merger.tables.excluded]
    logger.info("Scales b from %.3f to %.3f, mean %.3f", b.min(), b.max(), b.mean())
    keep = scaled.merged.n_obs > 0
    logger.info(
        "%d observations merged into %d voxels", scaled.merged.n_obs.sum(), np.count_nonzero(keep)
    )


def write_json(path: str | os.PathLike, scaled) -> None:
    """Numbers, plots and a copy of the models"""
    contents = {
        "models": {
            experiment.identifier: model.to_dict()
            for experiment, model in zip(scaled.source.experiments, scaled.fit.models)
        },
        "convergence": scaled.fit.cycles,
    }
    with replacing(path) as temporary, open(temporary, "w") as handle:
        json.dump(contents, handle)
