# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_process
"""From images, integrated stills, or a sweep, to a map of diffuse scattering: all steps in one go.

Runs dials.diffuse_mask, diffuse_extract, diffuse_grid, diffuse_scale and, where the contents of the unit cell
are given, diffuse_absolute, each in a process of its own: their files, logs and reports are
the same as by hand. Many stills are worked through in batches, several at a time: some of all are surveyed, and
each batch is masked while it is extracted, so that every image is read once. Stills that fail are
listed with the reason, and the run goes on.

A run that was ended in whatever way is taken up again by resume=True: what is finished is
recognised by its inputs, parameters and outputs.

Parameters of a step are in the scope of its name (mask.bragg.n_sigma=5), or in a PHIL file
for the step's own command (step_phil.mask=mask.phil).

Usage:

  dials.diffuse_process image*.cbf unit_cell=58,58,150,90,90,90 space_group=P41212

  dials.diffuse_process integrated.expt integrated.refl background=background.expt

  dials.diffuse_process integrated.expt integrated.refl composition.sequence=protein.fasta \\
    composition.copies=8 d_min=1.8 mp.nproc=8

  dials.diffuse_process integrated_*.expt integrated_*.refl batch_size=100 resume=True

  dials.diffuse_process integrated.expt integrated.refl steps=scale+absolute scale.model.offset=True

  dials.diffuse_process sweep.expt sweep.refl mp.method=dask mp.scheduler=tcp://head:8786
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.process import phil_scope

logger = logging.getLogger("dials.diffuse.process")


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_process."""
    command = parse_command(
        args,
        phil=phil,
        usage="dials.diffuse_process [options] integrated.expt integrated.refl [...] | image*.cbf",
        epilog=__doc__,
        other_suffixes=None,
    )
    if command is None:
        return
    from dials_diffuse.pipeline import Pipeline, folder_lock, write_summary

    params = command.params
    # Before the log is started: it may be that of a run that is going on
    with folder_lock(Path.cwd()) as lock:
        command.start_log()
        pipeline = Pipeline(command.inputs.pairs, params, images=command.inputs.others)
        try:
            result = pipeline.run(lock)
        except (ValueError, OSError) as error:
            logger.info("What is finished is kept: resume=True goes on from there")
            # Where the disk is full the summary can't be written either; the error matters more
            with contextlib.suppress(ValueError, OSError):
                write_summary(
                    pipeline.result, ".", params.output.html, params.output.json, str(error)
                )
            raise
        write_summary(result, ".", params.output.html, params.output.json)


if __name__ == "__main__":
    run()
