# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_scale
"""Scale stills against each other and merge them into one map of diffuse scattering.

Each observation is modelled as exposure * a(x,y) d(panel) (b_i I_v + c_i(|q|)), with one scale b
for each still. The scales are refined so that all stills agree on the intensities I_v of the voxels
that they share. Then all observations are merged, to one intensity for each voxel of the asymmetric
unit and one for each half set of the stills.

Usage:

  dials.diffuse_scale diffuse_gridded.expt diffuse_gridded.refl

  dials.diffuse_scale diffuse_gridded_*.expt diffuse_gridded_*.refl
"""

from __future__ import annotations

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.scale import phil_scope


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_scale."""
    command = parse_command(
        args,
        phil=phil,
        usage="dials.diffuse_scale [options] diffuse_gridded.expt diffuse_gridded.refl [...]",
        epilog=__doc__,
    )
    if command is None:
        return
    command.start_log()
    # imports numba, which -h need not wait for
    from dials_diffuse.scaling import workflow

    workflow.run(command.inputs, command.params)


if __name__ == "__main__":
    run()
