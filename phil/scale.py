"""Parameters of dials.diffuse_scale."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import nproc_str, output_str

scope_str = (
    """
fit
  .help = "Refinement of the scaling model."
{
  engine = *SimpleLBFGS
    .type = choice
    .help = "Minimiser (one of DIALS's refineries)."
    .expert_level = 1
  n_cycles = 3
    .type = int(value_min=1)
    .help = "Cycles of refinement, each with new weights (expected variances) from"
            "the result of the one before."
    .expert_level = 1
  max_iterations = None
    .type = int(value_min=1)
    .help = "Most iterations of the minimiser in a cycle. None: until it converges."
    .expert_level = 2
  max_observations = 2000000
    .type = int(value_min=1)
    .help = "Refine on a quasi-random subset of voxels with about this many observations;"
            "the result is applied to all."
    .expert_level = 1
}
weighting
  .help = "Weights: one over the variance that the merged intensity leads to expect."
{
  prior_strength = 2.0
    .type = float(value_min=0.01)
    .help = "Photons by which the intensity that a weight is calculated from is drawn"
            "towards the mean of its resolution shell."
    .expert_level = 2
  readout_noise = 0.0
    .type = float(value_min=0)
    .help = "Noise of a pixel besides counting noise, in photons (0 for photon counters)."
    .expert_level = 1
}
memory
  .help = "Use of memory."
{
  keep_observations = 15000000
    .type = int(value_min=0)
    .help = "Observations to keep in memory, some 100 bytes each; what is more is read"
            "from the files again whenever it is needed."
    .expert_level = 2
}
seed = 42
  .type = int(value_min=0)
  .help = "Seed of the random choice of half sets."
  .expert_level = 2
"""
    + nproc_str
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
""",
    )
)

phil_scope = parse(scope_str)
