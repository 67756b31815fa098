# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_extract
"""Sum the pixels of stills by voxel, and correct them to one physical scale.

Every usable pixel's photons and its exposure (exposure time x solid angle x polarisation x
quantum efficiency x transmission of the air) are added up by still, panel and voxel of a fine grid
in each crystal's own reciprocal lattice. Nothing is divided or fitted yet. Pixels under
the Bragg mask are kept in rows of their own.

Examples:

  dials.diffuse_extract diffuse_masked.expt diffuse_masked.refl

  dials.diffuse_extract diffuse_masked.expt diffuse_masked.refl background=background.expt

  dials.diffuse_extract diffuse_masked.expt diffuse_masked.refl d_min=2 subdivide=2,2,2

  dials.diffuse_extract diffuse_masked.* exposure_time=1 output.batch_size=200

  dials.diffuse_extract integrated.expt integrated.refl survey=survey.pickle
"""

from __future__ import annotations

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.extract import phil_scope

USAGE = "dials.diffuse_extract [options] diffuse_masked.expt diffuse_masked.refl"


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Extract stills from the command line."""
    command = parse_command(args, phil, USAGE, __doc__, other_suffixes=())
    if command is None:
        return
    command.start_log()
    from dials_diffuse.extraction import workflow

    workflow.run(command.inputs, command.params)


if __name__ == "__main__":
    run()
