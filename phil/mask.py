"""Parameters of dials.diffuse_mask."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import nproc_str, output_str, sweeps_str

phil_str = (
    """
include scope dials.util.masking.phil_scope

bragg
  .help = "Masks of the pixels under Bragg spots, for each still."
{
  method = *predicted shoebox halo none
    .type = choice
    .help = "predicted: mask every reflection that may be on the still, also weak ones. shoebox:"
            "mask the foreground of the shoeboxes in the reflection file. halo: as predicted, and"
            "all pixels closer to a node than halo_radius. none: mask no Bragg spots."
  d_min = None
    .type = float(value_min=0)
    .help = "Mask spots to this resolution (Angstrom). None: to the corners of the detector."
  n_sigma = Auto
    .type = float(value_min=0.5)
    .help = "Mask spots to this many standard deviations of a node's distribution in reciprocal"
            "space. 3 to 5 are usual. Larger numbers mask more pixels and leave less Bragg"
            "scattering. Auto: chosen for each resolution by residual, where the height of the"
            "spots can be measured on the images; else 4. Give a number to mask all resolutions"
            "alike, or if the report shows bright groups that are left at nodes."
  residual = 0.01
    .type = float(value_min=1e-6, value_max=1)
    .help = "For n_sigma=Auto: mask until the mean spot has fallen to this part of the scattering"
            "around it. Spots that were integrated with more counts than the mean are masked"
            "further out, until they have fallen as far. 0.01 leaves less than counting noise."
            "Use 0.001 to 0.003 for many stills and small voxels, if the map has peaks at the"
            "nodes that do not belong to their surroundings. Use 0.03 to 0.1 for large cells,"
            "whose spots would take too many of the pixels (see max_loss)."
  max_loss = 0.14
    .type = float(value_min=0, value_max=1)
    .help = "For n_sigma=Auto: if more than this part of the good pixels would be masked,"
            "residual is raised until it is not, as long as 99.7 % of the Bragg photons are"
            "masked. 1: residual is never raised."
    .expert_level = 1
  padding = 0.5
    .type = float(value_min=0)
    .help = "Pixels added to the semi-axes of every spot."
  halo_radius = 0.002
    .type = float(value_min=0)
    .help = "For method=halo: pixels closer to a node than this (1/Angstrom) are masked."
            "Mosaicity and bandwidth widen the mask further."
  size = *auto images model
    .type = choice
    .help = "Source of the size of the spots. images: measured on the images. model: the"
            "crystal's mosaicity and domain size, or its ellipsoid profile. auto: the images if"
            "they have enough strong spots, else the model. (Profiles describe the part of a spot"
            "that was integrated. Far from the beam, spots were seen to reach further.)"
  mosaicity = None
    .type = float(value_min=0)
    .help = "Spread of orientations within a crystal, full width at half maximum in degrees. If"
            "given, it replaces the value that size selects."
    .expert_level = 1
  domain_size = None
    .type = float(value_min=1)
    .help = "Size of the mosaic domains in Angstrom. If given, it replaces the value that size"
            "selects."
    .expert_level = 1
  bandwidth = None
    .type = float(value_min=0, value_max=0.2)
    .help = "Relative standard deviation of the wavelength (0.004 for 1 % full width at half"
            "maximum). None: included in the size measured on the images, else 0."
  other_spots = True
    .type = bool
    .help = "Read every image and mask bright groups of pixels that no indexed lattice explains:"
            "spots of split crystals, salt or ice. Such groups are more than 9 standard"
            "deviations above their resolution ring, and twice as bright as the pixels around"
            "them. Groups that follow h on the surveyed images are sharp features of the crystal"
            "(satellites, rods) and are kept."
  multi_lattice = *exclude keep
    .type = choice
    .help = "Images with several lattices, which hold the photons of all. exclude: they are left out"
            "of the map. keep: they are taken as if each lattice had all of the diffuse photons, which"
            "halves the contrast of the map for two lattices; the spots of all lattices are masked. (They"
            "are not modelled as the sum over their lattices.)"
}

dynamic
  .help = "Faulty pixels and shadows, found by a survey of some of the images."
{
  enable = True
    .type = bool
    .help = "Find hot, cold, negative, overloaded and stuck pixels. Needs 3 images."
  shadow = True
    .type = bool
    .help = "Find the beam stop, its arm and other shadows on the mean image. Dark layers of the"
            "crystal, which follow h, are kept."
  n_images = 30
    .type = int(value_min=1)
    .help = "Number of images to survey, evenly spread over all images. The size of the spots is"
            "measured on the same images."
  fraction = 0.5
    .type = float(value_min=0, value_max=1)
    .help = "A pixel is faulty if it is negative, overloaded or far above its resolution ring in"
            "more than this part of the surveyed images. 0.5 keeps pixels that spots or the"
            "sample brighten now and then. Use 0.1 to 0.3 to find pixels that flicker, and 0.9"
            "for series of nearly the same image, in which true features stay in place too."
    .expert_level = 1
}

survey = None
  .type = path
  .help = "Name of a file that output.survey wrote for other stills of the same detector. The"
          "mask of all images and the size of the spots are read from it, and no images are"
          "surveyed."
  .expert_level = 1
report
  .help = "Contents of the HTML report."
{
  n_images = 3
    .type = int(value_min=0)
    .help = "Number of images to compare with their masks, and to show. No image is compared"
            "without a report or its numbers (output.html, output.json), which saves about a"
            "second for each."
}
"""
    + sweeps_str
    + nproc_str
    + output_str(
        "diffuse_mask",
        "diffuse_masked.expt",
        "diffuse_masked.refl",
        """
  mask = pixels.mask
    .type = path
    .help = "Name of the mask file for the pixels that are bad in every image. It becomes the"
            "lookup mask of the experiments."
  survey = None
    .type = path
    .help = "Name of a file for the survey: the parameter survey reads it to mask other stills in"
            "the same way."
    .expert_level = 1
  bragg_mask = None
    .type = path
    .help = "Name of an HDF5 file for the Bragg mask of every image, one bit for each pixel. The"
            "next steps do not need it."
""",
    )
)

phil_scope = parse(phil_str, process_includes=True)
