"""Parameters of dials.diffuse_scale."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import MODELS, derived_str, output_str, threads_str

phil_str = (
    """
model
  .help = "Components of the model: counts - background is expected to be"
          "exposure * a(x,y) d(panel) (b_i I_v + c_i(|q|))."
{
  scale = True
    .type = bool
    .help = "b: a scale factor for each still. False: keep that of its radial profile."
  offset = Auto
    .type = bool
    .help = "c(|q|): an additive smooth function of |q| for each still, for solvent, loop and air."
            "Auto: if it lowers the chi^2 of the free set."
  panel = Auto
    .type = bool
    .help = "d: a factor for each panel of the detector, the same for all stills. Auto: if it"
            "lowers the chi^2 of the free set."
  sensitivity = Auto
    .type = bool
    .help = "a(x,y): a smooth factor over the direction of s1 around the beam, the same"
            "for all stills (absorption, sensitivity of the detector). Auto: if it lowers the chi^2"
            "of the free set."
  offset_parameters = Auto
    .type = int(value_min=5)
    .help = "Number of parameters of c(|q|) between 0 and the largest |q|. Auto: one each 0.05/A,"
            "which can follow a ring of water. If c is too smooth, the difference spoils b."
    .expert_level = 1
  sensitivity_parameters = 13
    .type = int(value_min=5)
    .help = "Number of parameters of a(x,y) along x and along y. Too few are worse than too many:"
            "if a is too smooth, the difference spoils the panel factors."
    .expert_level = 1
}
sweeps
  .help = "Scaling of sweeps."
  .expert_level = 1
{
  degrees = 2.0
    .type = float(value_min=0.01)
    .help = "A sweep is scaled in parts by which the crystal turns by this angle at most: each has"
            "a scale b and an offset c(|q|) of its own. Fewer photons need larger parts."
    .expert_level = 1
}
series
  .help = "Stills that follow each other on one crystal (a rotation series, a scan), with scales,"
          "offsets and absorption that change smoothly: functions of p_order, the number of a still"
          "along the series, with few parameters for all stills instead of some for each."
  .expert_level = 1
{
  intervals = None
    .type = int(value_min=1)
    .help = "Intervals of a smooth function b(p_order) over the whole series. None: a b for"
            "each still."
    .expert_level = 1
  offset_intervals = None
    .type = int(value_min=2)
    .help = "Intervals along p_order of a smooth function c(|q|,p_order). None: a c(|q|) for"
            "each still."
    .expert_level = 1
  sensitivity_intervals = None
    .type = int(value_min=2)
    .help = "Intervals along p_order of a smooth function a(x,y,p_order), since a crystal that turns"
            "absorbs in changing directions. With few stills in an interval it follows the diffuse"
            "scattering itself: check CC1/2 of the anisotropic part. None: the same a(x,y) for"
            "all stills."
    .expert_level = 1
  order = *input image_number angle
    .type = choice
    .help = "Source of p_order. input: number of the still in the input. image_number: number of its"
            "image, in the file or in the file's name. angle: degrees by which the crystal has"
            "turned since the first still, from the orientations; for stills of one rotation scan"
            "(dials.sequence_to_stills), in its order."
    .expert_level = 1
  p_order = None
    .type = floats
    .help = "p_order of each still (time, angle, dose): one number for each still, in the order of"
            "the input. None: by series.order."
    .expert_level = 1
  p_order_file = None
    .type = path
    .help = "Text file with the same numbers, separated by spaces, commas or lines."
    .expert_level = 1
}
stills
  .help = "Stills to exclude. Stills that disagree with the others are reported in any case; if"
          "they are excluded, all others are scaled again without them."
{
  exclude = None
    .type = strings
    .help = "Stills to exclude in any case: their numbers in the order of the input, as in the tables"
            "of the log (exclude=3,7), or their experiment identifiers."
  exclude_misoriented = False
    .type = bool
    .help = "Exclude stills that clearly do not follow the map of all others (misindexed,"
            "misoriented, another crystal), and those whose b is not above 0 by three sigma. Weak"
            "stills that follow the map are kept."
  min_b_over_sigma = 3.0
    .type = float(value_min=0)
    .help = "Stills whose b is not above 0 by this many standard deviations take no part in the"
            "map: the map of all others is not seen in them. None: all take part."
    .expert_level = 1
  min_cc = None
    .type = float(value_min=-1, value_max=1)
    .help = "Exclude stills whose correlation with the map of all others (anisotropic part) is"
            "lower; this excludes weak stills as well. None: keep all."
    .expert_level = 1
}
bragg
  .help = "Integrated Bragg reflections of the same stills as a second reference for b."
{
  reflections = None
    .type = path
    .multiple = True
    .help = "Integrated .refl file of the stills (matched by experiment identifiers)."
            "None: the diffuse scattering alone determines the scales."
  weight = 1.0
    .type = float(value_min=0)
    .help = "Factor on the contribution of the reflections to the functional."
    .expert_level = 1
  min_partiality = 0.3
    .type = float(value_min=0, value_max=1)
    .help = "Reflections of a lower partiality are not used."
    .expert_level = 1
  partiality_error = 0.3
    .type = float(value_min=0)
    .help = "Relative error of the partialities; it adds to the variance of the reflections."
    .expert_level = 1
}
restraints
  .help = "Standard deviations of the restraints. They matter only where the data determine the"
          "parameters poorly."
  .expert_level = 2
{
  scale = Auto
    .type = float(value_min=1e-6)
    .help = "Of b, as a fraction of the scale of the still's radial profile. Auto: learnt from the"
            "stills, by how much the two differ."
  offset = Auto
    .type = float(value_min=1e-6)
    .help = "Of c, as a fraction of the still's mean intensity at that |q|. Auto: learnt from the"
            "stills, by how much their offsets differ."
  offset_smoothness = 0.3
    .type = float(value_min=1e-6)
    .help = "Of the second differences of c, as a fraction of the same."
  panel = 0.05
    .type = float(value_min=1e-6)
    .help = "Of d, around 1."
  sensitivity = 0.2
    .type = float(value_min=1e-6)
    .help = "Of a, around 1."
  sensitivity_smoothness = 0.1
    .type = float(value_min=1e-6)
    .help = "Of the second differences of a."
  sensitivity_rings = 0.001
    .type = float(value_min=1e-6)
    .help = "Of the mean of a over a ring of |q|, around that of all rings, since the data can't"
            "distinguish it from the intensity."
}
fit
  .help = "Refinement of the scaling model."
  .expert_level = 1
{
  engine = *GaussNewton SimpleLBFGS
    .type = choice
    .help = "Minimiser, run as one of DIALS's refineries. GaussNewton: one step a cycle, by conjugate"
            "gradients. SimpleLBFGS: DIALS's own, to convergence in each cycle; ten times slower."
    .expert_level = 1
  n_cycles = 12
    .type = int(value_min=1)
    .help = "Largest number of cycles of refinement, each with new weights (expected variances) and"
            "outliers from the result of the one before."
    .expert_level = 1
  max_iterations = None
    .type = int(value_min=1)
    .help = "Largest number of iterations of the minimiser (of conjugate gradients or L-BFGS) in a"
            "cycle. None: until it converges."
    .expert_level = 2
  free_percentage = 5.0
    .type = float(value_min=0, value_max=50)
    .help = "Percentage of voxels in the free set. They are not fitted, and judge which components"
            "the data support (0: components set to Auto are not used)."
    .expert_level = 1
  min_observations_per_parameter = 5.0
    .type = float(value_min=0)
    .help = "A component is not refined with fewer observations for each parameter."
    .expert_level = 2
  max_observations = 5000000
    .type = int(value_min=1)
    .help = "Refine on a quasi-random subset of voxels with about this many observations; the"
            "result is applied to all."
    .expert_level = 1
}
weighting
  .help = "Weights: one over the variance that is expected from the merged intensity."
  .expert_level = 1
{
  prior_strength = 200.0
    .type = float(value_min=0.01)
    .help = "The intensity for the weights is drawn towards those of the six voxels next to it, and these"
            "towards the mean of the resolution shell, as by this many photons, unless it certainly"
            "differs from them."
    .expert_level = 2
  readout_noise = 0.0
    .type = float(value_min=0)
    .help = "Noise of a pixel in addition to counting noise, in photons (0 for photon counters)."
    .expert_level = 1
}
error_model
  .help = "sigma'^2 = a^2 (sigma^2 + (b I)^2), a and b from the residuals."
  .expert_level = 1
{
  refine = True
    .type = bool
    .help = "Refine a and b. False: counting statistics only (a = 1, b = 0)."
    .expert_level = 1
}
outliers
  .help = "Rejection of outliers. They are flagged in the table, never removed."
  .expert_level = 1
{
  cutoff = 6.0
    .type = float(value_min=3)
    .help = "Deviation from the mean of the other observations of the voxel, in sigma"
            "(upwards or downwards; on a scale on which Poisson counts are nearly"
            "normal). None: no rejection."
    .expert_level = 1
  patch_cutoff = 0.05
    .type = float(value_min=0)
    .help = "Relative deviation of a patch of a still's image (a sector of 18 degrees of a ring of"
            "|q|) from the other stills, beyond which all its observations are outliers if it is"
            "more than 6 sigma as well: arcs of the loop, ice, shadows. None: no test of patches."
    .expert_level = 1
}
memory
  .help = "Use of memory."
  .expert_level = 2
{
  keep_observations = 30000000
    .type = int(value_min=0)
    .help = "Number of observations to keep in memory: 72 bytes each while they are sorted,"
            "36 bytes then. More are sorted in a temporary file in the working folder, of 36 bytes"
            "for each observation."
    .expert_level = 2
}
seed = 42
  .type = int(value_min=0)
  .help = "Seed of the random choice of half sets."
  .expert_level = 2
"""
    + threads_str
    + output_str(
        "diffuse_scale",
        "diffuse_scaled.expt",
        "diffuse_scaled.refl",
        more="""
  merged = diffuse_merged.refl
    .type = path
    .help = "Name of the file with merged intensities, a row a voxel of the asymmetric unit."
  map = diffuse_merged.h5
    .type = path
    .help = "Name of the NeXus file with the map of merged intensities. None: no map."
"""
        + derived_str.format(more=", intensity.scale.value, intensity.scale.variance"),
        besides=MODELS,
    )
)

phil_scope = parse(phil_str)
