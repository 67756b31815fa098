# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_mask
"""
Mask the pixels of stills that do not measure diffuse scattering: shadows, bad pixels and
the Bragg spots of every lattice.

Usage: dials.diffuse_mask integrated.expt integrated.refl [options]

Examples:

  dials.diffuse_mask integrated.expt integrated.refl

  dials.diffuse_mask integrated.expt integrated.refl d_min=1.8 border=2 \\
    untrusted.circle=1230,1263,40 ice_rings.filter=True

  dials.diffuse_mask integrated.expt integrated.refl bragg.n_sigma=5

The pixels that are bad in every image are written to pixels.mask. It becomes the lookup
mask of diffuse_masked.expt, which all DIALS programs obey. The spots are written to
diffuse_masked.refl. The next steps paint the Bragg mask of each still from its rows.
"""

from __future__ import annotations

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.mask import phil_scope


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Mask stills from the command line."""
    command = parse_command(
        args,
        phil=phil,
        usage="dials.diffuse_mask [options] integrated.expt integrated.refl",
        epilog=__doc__,
        other_suffixes=(),
    )
    if command is None:
        return
    command.start_log()
    from dials_diffuse.masking import workflow

    workflow.run(command.inputs, command.params)


if __name__ == "__main__":
    run()
