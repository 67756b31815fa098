# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_export
"""Write a merged map of diffuse scattering in the formats that other programs open.

Reads the map that dials.diffuse_scale or dials.diffuse_absolute wrote, and the .expt file of the same
run, which carries the grid (with several batches: all of them). Voxels that were not measured are NaN,
or absent from lists.

Usage:

  dials.diffuse_export diffuse_scaled.expt diffuse_merged.refl

  dials.diffuse_export diffuse_absolute.expt diffuse_absolute.refl format=ccp4+h5

  dials.diffuse_export diffuse_scaled.expt diffuse_merged.refl format=ccp4 remove_isotropic=True

  dials.diffuse_export diffuse_scaled.expt diffuse_merged.refl section="hk0 hk0.333" output.png=True
"""

from __future__ import annotations

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.export import phil_scope

USAGE = "dials.diffuse_export [options] diffuse_scaled.expt diffuse_merged.refl"


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_export."""
    command = parse_command(args, phil, USAGE, __doc__, extra_reflections=True)
    if command is None:
        return
    command.start_log()
    # It imports h5py, which -h must not wait for
    from dials_diffuse.export import workflow

    workflow.run(command.inputs, command.params)


if __name__ == "__main__":
    run()
