"""Parameters of dials.diffuse_export."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import one_process_str, output_str

phil_str = (
    """
format = *mtz ccp4 h5 npz hkl
  .type = choice(multi=True)
  .help = "What to write; several as format=mtz+ccp4. mtz: intensities at Miller indices of the supercell; ccp4: a map"
          "for map viewers; h5: NeXus, with axes (NeXpy, silx); npz: numpy arrays; hkl: text."
extent = *auto full asymmetric
  .type = choice
  .help = "full: all symmetry-equivalent voxels; asymmetric: one of each. auto: full for ccp4, h5 and npz,"
          "asymmetric for mtz and hkl (a full mtz is in P1, with one of each Friedel pair)."
column = intensity
  .type = str
  .help = "What goes into a ccp4 map and the sections: intensity, sigma, n_obs, n_stills, half_1, half_2, ..."
remove_isotropic = False
  .type = bool
  .help = "Subtract the mean at each |q| from the intensities, so that the anisotropic part remains."
d_min = None
  .type = float(value_min=0)
  .help = "Leave out voxels beyond this resolution, in Angstrom."
d_max = None
  .type = float(value_min=0)
  .help = "Leave out voxels below this resolution, in Angstrom."
max_masked_fraction = None
  .type = float(value_min=0, value_max=1)
  .help = "Leave out voxels of which a larger share of the exposure lies under the Bragg mask (column"
          "masked_fraction): what is left of them is their part far from the node. 0 keeps the voxels that no mask touches."
section = hk0 h0l 0kl
  .type = strings
  .help = "Sections through the map for the report and PNG files: two of h, k, l and a number in place"
          "of the third, such as hk0, h1.5l or hk0.333."
"""
    + one_process_str
    + output_str(
        "diffuse_export",
        None,
        None,
        """
  prefix = None
    .type = path
    .help = "Name of the files without their suffixes. None: that of the .refl file, in the current folder, with"
            "_anisotropic where the isotropic part is removed, _limited where d_min, d_max or max_masked_fraction is given, and"
            "_asymmetric for an h5 file with extent=asymmetric: none of these replaces the map of"
            "dials.diffuse_scale or dials.diffuse_absolute."
  png = False
    .type = bool
    .help = "Write the sections as PNG images too, their axes at their true angle."
""",
    )
)

phil_scope = parse(phil_str)
