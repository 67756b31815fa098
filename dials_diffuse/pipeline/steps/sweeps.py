"""Plan the conversion of sweeps to stills with dials.sequence_to_stills."""

from __future__ import annotations

import logging
from pathlib import Path

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.io.batches import batch_name
from dials_diffuse.pipeline.contents import has_sweeps, read_contents
from dials_diffuse.pipeline.run import Run
from dials_diffuse.pipeline.step_parameters import Files
from dials_diffuse.pipeline.tasks import Task

logger = logging.getLogger("dials.diffuse.pipeline")


def convert_sweeps(run: Run, pairs: list[Files]) -> list[Files]:
    """The pairs, those with sweeps replaced by files of their stills.

    Raises:
        ValueError: a sweep that can't be converted.
    """
    tasks, converted = [], []
    for number, pair in enumerate(pairs):
        if not _is_sweep(run.folder, pair[0]):
            converted.append(pair)
            continue
        files = tuple(
            batch_name(name, number, len(pairs)) for name in ("stills.expt", "stills.refl")
        )
        converted.append(files)
        tasks.append(
            Task(
                name=batch_name("stills", number, len(pairs)),
                step="stills",
                module="dials.command_line.sequence_to_stills",
                folder=str(run.folder),
                inputs=pair,
                outputs=files,
                arguments=(f"output.experiments={files[0]}", f"output.reflections={files[1]}"),
            )
        )
    if tasks:
        logger.info(
            "%d of %d inputs are sweeps, which are converted to stills", len(tasks), len(pairs)
        )
        run.execute("stills", tasks)
    return converted


def _is_sweep(folder: Path, name: str) -> bool:
    """True if a .expt file holds a scan of several images, which are checked then."""
    if not has_sweeps(read_contents(Path(folder, name))):
        return False
    experiments = load_experiments(Path(folder, name), check_format=False)
    if not any(e.scan is not None and e.scan.get_num_images() > 1 for e in experiments):
        return False
    _check_sweep(experiments, name)
    return True


def _check_sweep(experiments, name: str) -> None:
    """Raises ValueError where dials.sequence_to_stills could not convert the experiments."""
    for index, experiment in enumerate(experiments):
        n_images = experiment.scan.get_num_images() if experiment.scan is not None else 0
        if experiment.crystal is None:
            raise ValueError(
                f"Experiment {index} of {name} has no crystal: index and integrate it first"
            )
        if experiment.crystal.num_scan_points != n_images + 1:
            raise ValueError(
                f"Experiment {index} of {name} is a sweep without a scan-varying crystal, which "
                "dials.sequence_to_stills needs: refine it with dials.refine scan_varying=True"
            )
