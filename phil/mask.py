"""Parameters of dials.diffuse_mask."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import nproc_str, output_str

phil_str = (
    """
include scope dials.util.masking.phil_scope

bragg
  .help = "Pixels under Bragg spots, masked still by still."
{
  method = *predicted shoebox halo none
    .type = choice
    .help = "predicted: every reflection that the crystal can give in its orientation, weak"
            "ones too. shoebox: the foreground of the shoeboxes saved in the reflection"
            "file. halo: predicted, and all pixels closer to a node than halo_radius."
            "none: no Bragg mask."
  d_min = None
    .type = float(value_min=0)
    .help = "Mask spots to this resolution (Angstrom). None: to the corners of the detector."
  n_sigma = 4
    .type = float(value_min=0.5)
    .help = "How many standard deviations of a node's distribution in reciprocal space"
            "are masked."
  padding = 1
    .type = float(value_min=0)
    .help = "Pixels added to the semi-axes of every spot."
  halo_radius = 0.002
    .type = float(value_min=0)
    .help = "For method=halo: pixels closer to a node than this are masked (1/Angstrom),"
            "besides what mosaicity and bandwidth add."
  mosaicity = None
    .type = float(value_min=0)
    .help = "Spread of orientations within a crystal, full width at half maximum in degrees."
            "None: of the crystal model or the profile model."
    .expert_level = 1
  domain_size = None
    .type = float(value_min=1)
    .help = "Size of the mosaic domains in Angstrom. None: of the crystal model."
    .expert_level = 1
  bandwidth = 0
    .type = float(value_min=0, value_max=0.2)
    .help = "Relative standard deviation of the wavelength (0.004 for 1 % full width at"
            "half maximum)."
  multi_lattice = *mask exclude
    .type = choice
    .help = "Images with several lattices. mask: the spots of all lattices are masked on"
            "every still of the image. exclude: such images are left out."
}
"""
    + nproc_str
    + output_str(
        "diffuse_mask",
        "diffuse_masked.expt",
        "diffuse_masked.refl",
        """
  mask = pixels.mask
    .type = path
    .help = "Name of the mask file for the pixels that are bad in every image; it is set"
            "as the lookup mask of the experiments."
""",
    )
)

phil_scope = parse(phil_str, process_includes=True)
