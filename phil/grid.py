"""Parameters of dials.diffuse_grid."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import MODELS, derived_str, output_str, threads_str

phil_str = (
    """
subdivide = None
  .type = ints(size=3, value_min=1)
  .help = "Voxels per reciprocal cell edge along a*, b*, c*. The extracted number divided by this one must be"
          "odd (9 to 3 or 1, 3 to 1), so that fine voxels lie within coarse ones. None: as extracted."
d_min = None
  .type = float(value_min=0)
  .help = "Leave out voxels beyond this resolution, in Angstrom. None: as extracted."
d_max = None
  .type = float(value_min=0)
  .help = "Leave out voxels below this resolution, in Angstrom. None: as extracted."
grid
  .help = "The grid that all stills share."
{
  laue_group = None
    .type = str
    .help = "Laue group under which voxels are merged, as a symbol of it or of a space group in the"
            "setting of the data (P1: Friedel's law alone). None: that of the crystals."
  friedel = True
    .type = bool
    .help = "Merge h with -h. Diffuse scattering obeys Friedel's law, except for anomalous scattering."
  reference_cell = None
    .type = unit_cell
    .help = "Cell that gives voxels their |q| and d. None: the median of the stills, made to obey the"
            "lattice symmetry."
  max_cell_deviation = None
    .type = float(value_min=0)
    .help = "Leave out stills with a cell length or angle further than this from the reference"
            "(relative; angles in radian). None: cells beyond 6 robust standard deviations"
            "are reported and kept."
}
ambiguity
  .help = "Lattices more symmetric than the Laue group (P4, P3, I23 ...) can be indexed in several settings."
{
  resolve = True
    .type = bool
    .help = "Find the setting of each still by the correlation of its intensities with those of the others,"
            "and reindex. All stills stay as they are where the Laue group leaves no ambiguity, or where no"
            "setting is significantly better."
  max_delta = 2
    .type = float(value_min=0)
    .help = "Tolerance of the lattice symmetry, in degrees."
    .expert_level = 1
  n_reference = 200
    .type = int(value_min=2)
    .help = "Number of stills that are compared with each other; all others are compared with these."
    .expert_level = 2
  seed = 0
    .type = int
    .help = "Seed of the random starts."
    .expert_level = 2
}
"""
    + threads_str
    + output_str(
        "diffuse_grid",
        "diffuse_gridded.expt",
        "diffuse_gridded.refl",
        more=derived_str.format(more=""),
        besides=MODELS,
    )
)

phil_scope = parse(phil_str)
