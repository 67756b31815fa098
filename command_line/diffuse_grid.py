# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_grid
"""Put the observations of all stills on one grid of voxels.

Finds the reference cell of the stills, maps the voxels to the asymmetric unit of the Laue group, and
leaves out what lies beyond the resolution limits. A table tells how often, and by how many stills, the
voxels were seen. Where the lattice is more symmetric than the Laue group (P4, P3, ...), stills
may have been indexed in different settings: their diffuse intensities tell the setting of each,
and they are reindexed to one setting (ambiguity.resolve=False leaves them as they are).
Files are read one after the other, so any number of stills fits in memory.

Usage:

  dials.diffuse_grid diffuse_extracted.expt diffuse_extracted.refl

  dials.diffuse_grid diffuse_extracted_*.expt diffuse_extracted_*.refl

  dials.diffuse_grid diffuse_extracted.expt diffuse_extracted.refl subdivide=1,1,1 d_min=2.5

  dials.diffuse_grid diffuse_extracted.expt diffuse_extracted.refl grid.laue_group=P1
"""

from __future__ import annotations

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.grid import phil_scope

USAGE = "dials.diffuse_grid [options] diffuse_extracted.expt diffuse_extracted.refl [...]"


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_grid."""
    command = parse_command(args, phil, USAGE, __doc__)
    if command is None:
        return
    command.start_log()
    # It imports numba, which -h must not wait for
    from dials_diffuse.gridding import workflow

    workflow.run(command.inputs, command.params)


if __name__ == "__main__":
    run()
