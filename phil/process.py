"""Parameters of dials.diffuse_process: its own, and those of every step in a scope of the step's name."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil import absolute, extract, grid, mask, scale
from dials_diffuse.phil.common import output_str

# What the pipeline decides for each step, and no user
_NOT_FOR_STEPS = ("output", "nproc", "extract.survey")

STEP_SCOPES = {
    "mask": mask.phil_scope,
    "extract": extract.phil_scope,
    "grid": grid.phil_scope,
    "scale": scale.phil_scope,
    "absolute": absolute.phil_scope,
}


phil_str = (
    """
steps = *index *mask *extract *grid *scale *absolute
  .type = choice(multi=True)
  .help = "Steps to run, for instance steps=scale+absolute. Steps before them must have been run in this"
          "folder. index (dials.stills_process) is for images only; absolute is left out where no composition"
          "is given."
resume = False
  .type = bool
  .help = "Leave out what is finished: steps and batches whose inputs, parameters and outputs are"
          "those of an earlier run in this folder."
batch_size = Auto
  .type = int(value_min=1)
  .help = "Number of stills that are processed as one batch. Auto: one batch as long as a process stays below"
          "some hundred megabytes."
unit_cell = None
  .type = unit_cell
  .help = "Unit cell, to index images with."
space_group = None
  .type = space_group
  .help = "Space group, to index images with."
reference_geometry = None
  .type = path
  .help = "An .expt whose detector and beam take the place of those of the images."
background = None
  .type = str
  .help = "Empty shots (.expt), a map or a number of photons: see extract.background, which it sets."
subdivide = None
  .type = ints(size=3, value_min=1)
  .help = "Voxels per reciprocal cell edge: sets extract.subdivide."
d_min = None
  .type = float(value_min=0)
  .help = "Highest resolution of the map in Angstrom: sets extract.d_min."
d_max = None
  .type = float(value_min=0)
  .help = "Lowest resolution of the map in Angstrom: sets extract.d_max."
composition
  .help = "Contents of the unit cell, for the absolute scale: set absolute.composition."
{
  model = None
    .type = path
    .help = "PDB or mmCIF file: see absolute.composition.model."
  sequence = None
    .type = str
    .help = "Protein sequence or FASTA file: see absolute.composition.sequence."
  formula = None
    .type = str
    .help = "Formula of one copy: see absolute.composition.formula."
  copies = None
    .type = float(value_min=0)
    .help = "Copies in the unit cell: see absolute.composition.copies."
  solvent_content = None
    .type = float(value_min=0, value_max=1)
    .help = "Fraction of the cell that is bulk solvent: see absolute.composition.solvent_content."
}
mp
  .help = "Where the work is done. The results do not depend on it."
{
  method = *multiprocessing dask
    .type = choice
    .help = "multiprocessing: on this machine. dask: on the workers of a dask cluster (needs the package"
            "distributed), a batch each; all must see this folder."
  nproc = Auto
    .type = int(value_min=1)
    .help = "Number of processes. Auto: as many as there are processors. For dask without scheduler: workers"
            "to start on this machine."
  scheduler = None
    .type = str
    .help = "Address of the dask scheduler, tcp://host:port, or a scheduler file."
  retries = 1
    .type = int(value_min=0)
    .help = "How often a batch is tried again whose process was killed."
    .expert_level = 1
}
step_phil
  .help = "A file of parameters for each step, as that step's own command takes it. What is given in the"
          "scope of the step goes before it."
  .expert_level = 1
{
  index = None
    .type = path
    .help = "Parameters of dials.stills_process."
"""
    + "".join(
        f"""
  {step} = None
    .type = path
    .help = "Parameters of dials.diffuse_{step}."
"""
        for step in STEP_SCOPES
    )
    + "}\n"
    + "".join(
        f"""
{step}
  .help = "Parameters of dials.diffuse_{step}."
{{
  include scope dials_diffuse.phil.{step}.phil_scope
}}
"""
        for step in STEP_SCOPES
    )
    + output_str(
        "diffuse_process",
        None,
        None,
        """
  batches = batches
    .type = path
    .help = "Folder for the files of batches, where there are several."
""",
    )
)

phil_scope = parse(phil_str, process_includes=True)
for _scope in phil_scope.objects:
    if _scope.name in STEP_SCOPES:
        _scope.objects = [
            item
            for item in _scope.objects
            if item.name not in _NOT_FOR_STEPS
            and f"{_scope.name}.{item.name}" not in _NOT_FOR_STEPS
        ]
