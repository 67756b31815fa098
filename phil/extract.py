"""Parameters of dials.diffuse_extract."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import MODELS, derived_str, nproc_str, output_str

_output = """
  batch_size = None
    .type = int(value_min=1)
    .help = "Write the stills in batches of this many, into files that end in _0001, _0002 ..."
            "None: all in one file, unless that would have more than some 40 million observations (300 stills"
            "of 6 million pixels): then batches of half as many."
  masked_experiments = diffuse_masked.expt
    .type = path
    .help = "With survey: name of the experiments file with the masks."
    .expert_level = 1
  masked_reflections = diffuse_masked.refl
    .type = path
    .help = "With survey: name of the reflection file of Bragg spots."
    .expert_level = 1
  pixels = None
    .type = path
    .help = "Name of an HDF5 file for the corrected pixels themselves (q, intensity, sigma, panel,"
            "fast, slow), one group a still: some 100 Mbyte for 6 million pixels. None: no such file."
    .expert_level = 1
"""

phil_str = (
    """
subdivide = 3,3,3
  .type = ints(size=3, value_min=1)
  .help = "Voxels per reciprocal cell edge along a*, b*, c*. Pixels are summed by voxel while the"
          "image is read. Axes that the symmetry relates must have the same number."
d_min = None
  .type = float(value_min=0)
  .help = "Leave out pixels beyond this resolution, in Angstrom."
d_max = None
  .type = float(value_min=0)
  .help = "Leave out pixels below this resolution, in Angstrom."
block = Auto
  .type = int(value_min=1)
  .help = "Consecutive images of a sweep that are added pixel by pixel before their pixels are summed by"
          "voxel, in the orientation of their middle. Auto: as many as keep the voxel of every pixel"
          "right to half a voxel. Each image's own mask and trusted range are kept to."
pixel_step = 1
  .type = int(value_min=1)
  .help = "Take every n-th pixel only, along fast and slow."
  .expert_level = 1
min_intensity = None
  .type = float
  .help = "Leave out pixels with a corrected intensity below this, in photons/(s sr). Choosing"
          "pixels by their counts biases every mean: do not use it for counting detectors."
  .expert_level = 2
max_intensity = None
  .type = float
  .help = "Leave out pixels with a corrected intensity above this, in photons/(s sr). Choosing"
          "pixels by their counts biases every mean: keep it far above the diffuse intensity."
  .expert_level = 2
background = None
  .type = str
  .help = "Background to subtract: an .expt of empty shots (stills or a sweep; averaged,"
          "scaled by exposure time and transmission), a map (.npy, .npz, .h5 with an array a panel"
          "in the panels' order, photons a pixel and image) or a number of photons a pixel and image."
background_smoothing = none radial *adaptive
  .type = choice
  .help = "How the average of empty shots is smoothed. radial: corrected for solid angle,"
          "polarisation and quantum efficiency it is a function of |q| on each panel. adaptive: that, corrected in"
          "blocks of pixels that significantly differ from it, as in a shadow. none: each pixel"
          "by itself, good only if every pixel counted many photons."
  .expert_level = 1
background_exposure_time = None
  .type = float(value_min=0)
  .help = "Exposure time of the empty shots in s, where it is not in their image headers."
  .expert_level = 1
survey = None
  .type = path
  .help = "File that dials.diffuse_mask wrote as output.survey, for some of these stills or others with the same"
          "detector and symmetry. The input is then integrated stills, which are masked while they are"
          "read, so that every image is read once instead of twice. The masked files are written too."
  .expert_level = 1
exposure_time = None
  .type = float(value_min=0)
  .help = "Exposure time of a still in s, where it is neither in the scan nor in the image header."
          "1 gives intensities on a relative scale."
gain = None
  .type = float(value_min=0)
  .help = "Detector gain, ADU per photon. None: that of the panels or of the imageset's gain map."
pedestal = None
  .type = float
  .help = "Detector pedestal in ADU. None: that of the panels or of the imageset's pedestal map."
probe = *auto xray electron neutron
  .type = choice
  .help = "What the beam consists of. auto: as the beam model says; wavelengths below 0.06 Angstrom are electrons."
          "For electrons and neutrons no polarisation factor and no absorption in the gas apply, and the quantum"
          "efficiency is 1 unless sensor.mu is given."
  .expert_level = 1
corrections
  .help = "Factors of the acceptance (photons per cross-section) that apply."
{
  solid_angle = True
    .type = bool
    .help = "Solid angle of the pixel."
  polarization = True
    .type = bool
    .help = "Polarisation of the beam, as in the beam model."
  efficiency = True
    .type = bool
    .help = "Quantum efficiency: absorption of the photons in the sensor, along their slanted path."
  air = True
    .type = bool
    .help = "Absorption of the photons by the gas between sample and detector (see flight_path)."
  lorentz = *none inverse_q sin_two_theta
    .type = choice
    .help = "Lorentz factor to divide by: 1/|q| or 1/sin(2 theta). Diffuse scattering is a continuous"
            "function of q that a still samples on the Ewald sphere, so that none applies. The option"
            "is for comparison with programs that use one."
    .expert_level = 2
}
sensor
  .help = "Sensor of the detector, where the detector model is incomplete or wrong."
{
  material = None
    .type = str
    .help = "Element or compound, as Si, CdTe, GaAs. None: that of the panel."
  thickness = None
    .type = float(value_min=0)
    .help = "In mm. None: that of the panel."
  mu = None
    .type = float(value_min=0)
    .help = "Attenuation coefficient in 1/mm. None: that of the panel or of the material."
    .expert_level = 1
}
flight_path
  .help = "Gas between sample and detector."
{
  medium = *air helium vacuum
    .type = choice
    .help = "Gas in the flight path."
  length = None
    .type = float(value_min=0)
    .help = "Length of the flight path in mm; the rest of the way is air. None: all of the way."
  pressure = 1013.25
    .type = float(value_min=0)
    .help = "Pressure of the gas in hPa."
    .expert_level = 1
  temperature = 293.15
    .type = float(value_min=1)
    .help = "Temperature of the gas in K."
    .expert_level = 1
}
"""
    + nproc_str
    + output_str(
        "diffuse_extract",
        "diffuse_extracted.expt",
        "diffuse_extracted.refl",
        _output + derived_str.format(more=""),
        besides=MODELS,
    )
)

phil_scope = parse(phil_str)
