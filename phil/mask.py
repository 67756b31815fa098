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
  n_sigma = Auto
    .type = float(value_min=0.5)
    .help = "How far spots are masked: to this many standard deviations of a node's"
            "distribution in reciprocal space. 3 to 5 are usual; larger numbers mask more pixels"
            "and leave less Bragg scattering. Auto: by residual, each resolution for itself, where"
            "the images show the height of the spots; else 4. Give a number to mask all"
            "resolutions alike, or if the report shows bright groups that are left at nodes."
  residual = 0.01
    .type = float(value_min=1e-6, value_max=1)
    .help = "For n_sigma=Auto: mask until the mean spot has fallen to this part of the"
            "scattering around it, and spots that were integrated with more counts than"
            "the mean until they have. 0.01 leaves less than counting noise shows; 0.001 to 0.003 for"
            "many stills and small voxels, if the map has peaks at the nodes that its"
            "surroundings do not explain; 0.03 to 0.1 for large cells, whose spots would take"
            "too many of the pixels (see max_loss)."
  max_loss = 0.14
    .type = float(value_min=0, value_max=1)
    .help = "For n_sigma=Auto: if more than this part of the good pixels would be masked,"
            "residual is raised until it is not, as long as 99.7 % of the Bragg photons go."
            "1: never."
    .expert_level = 1
  padding = 0.5
    .type = float(value_min=0)
    .help = "Pixels added to the semi-axes of every spot."
  halo_radius = 0.002
    .type = float(value_min=0)
    .help = "For method=halo: pixels closer to a node than this are masked (1/Angstrom),"
            "besides what mosaicity and bandwidth add."
  size = *auto images model
    .type = choice
    .help = "Where the size of the spots is from. images: measured on them. model: the"
            "crystal's mosaicity and domain size, or its ellipsoid profile. auto: the"
            "images if they have enough strong spots, else the model. (Profiles describe what was"
            "integrated; far from the beam spots were seen to reach further.)"
  mosaicity = None
    .type = float(value_min=0)
    .help = "Spread of orientations within a crystal, full width at half maximum in degrees."
            "If given, it takes the place of what size says."
    .expert_level = 1
  domain_size = None
    .type = float(value_min=1)
    .help = "Size of the mosaic domains in Angstrom. If given, it takes the place of what"
            "size says."
    .expert_level = 1
  bandwidth = None
    .type = float(value_min=0, value_max=0.2)
    .help = "Relative standard deviation of the wavelength (0.004 for 1 % full width at"
            "half maximum). None: part of the size measured on the images, else 0."
  other_spots = True
    .type = bool
    .help = "Read every image and mask groups of pixels more than 9 standard deviations"
            "above their resolution ring, and twice as bright as what is around them, that"
            "no indexed lattice explains: spots of split crystals, salt or ice."
  multi_lattice = *mask exclude
    .type = choice
    .help = "Images with several lattices. mask: the spots of all lattices are masked on"
            "every still of the image. exclude: such images are left out."
}

dynamic
  .help = "Faulty pixels and shadows, found on a subset of the images."
{
  enable = True
    .type = bool
    .help = "Find hot, cold, negative, overloaded and stuck pixels. Needs 3 images."
  shadow = True
    .type = bool
    .help = "Find the beam stop and other shadows on the mean image."
  n_images = 30
    .type = int(value_min=1)
    .help = "Number of images to look at, spread over all of them; also for the size of"
            "the spots."
  fraction = 0.5
    .type = float(value_min=0, value_max=1)
    .help = "A pixel is faulty if it is odd (negative, overloaded, far above its resolution ring) in"
            "more than this part of the images that were looked at. 0.5 keeps what spots or sample"
            "do now and then; 0.1 to 0.3 to find pixels that flicker; 0.9 for series of nearly"
            "the same image, in which true features stay in place too."
    .expert_level = 1
}

survey = None
  .type = path
  .help = "A file that output.survey wrote for other stills of the same detector: the mask of all"
          "images and the size of the spots are taken from it, and these images are not"
          "looked at."
  .expert_level = 1
report
  .help = "Contents of the HTML report."
{
  n_images = 3
    .type = int(value_min=0)
    .help = "Number of images to check and show with their masks. None is looked at without a report"
            "or its numbers (output.html, output.json), which saves a second an image."
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
  survey = None
    .type = path
    .help = "Name of a file for what was learnt on these stills, to mask others in the same"
            "way (survey)."
    .expert_level = 1
  bragg_mask = None
    .type = path
    .help = "Name of an HDF5 file for the Bragg mask of every image, one bit a pixel."
            "Not needed by the next steps."
""",
    )
)

phil_scope = parse(phil_str, process_includes=True)
