"""Parameters of dials.diffuse_absolute."""

from __future__ import annotations

from iotbx.phil import parse

from dials_diffuse.phil.common import MODELS, one_process_str, output_str

phil_str = (
    """
method = *total_scattering wilson
  .type = choice
  .help = "total_scattering: from the mean intensity of all pixels, Bragg peaks included, against |q|, which"
          "depends on the composition only. wilson: from the Bragg intensities, integrated in the unmasked"
          "grid, by Wilson statistics. Both are reported in any case."
scale = None
  .type = float(value_min=0)
  .help = "Absolute scale by hand: electrons^2 per unit cell for one unit of the merged map. The composition"
          "is still needed, for the incoherent scattering."
composition
  .help = "Contents of the unit cell: one of model, sequence or formula."
{
  model = None
    .type = path
    .help = "PDB or mmCIF file in the cell of the data. Its symmetry copies, occupancies and waters are counted, and"
            "bulk solvent is added. Parts of the molecule that were not modelled count as solvent."
  sequence = None
    .type = str
    .help = "Protein sequence in one-letter code (capitals), or a file of such (FASTA; several chains are one copy)."
  formula = None
    .type = str
    .help = "Formula of one copy, for instance \\"C 613 H 959 N 193 O 185 S 10\\"."
  copies = None
    .type = float(value_min=0)
    .help = "Copies of the sequence, formula or model in the unit cell. None: one for each operation of the space"
            "group (for a model: of the model's space group)."
  ligands = None
    .type = str
    .help = "Formula of the ligands of each copy."
  solvent_content = None
    .type = float(value_min=0, value_max=1)
    .help = "Fraction of the cell's volume that is bulk solvent, added as water. None: the volume outside the"
            "macromolecule, from its mass, for a sequence or a model; 0 for a formula."
  solvent_density = 0.334
    .type = float(value_min=0)
    .help = "Electrons per cubic Angstrom of the bulk solvent: 0.334 for water, more with salt or cryoprotectant."
    .expert_level = 1
  hydrogens = *add as_is
    .type = choice
    .help = "Hydrogens that a model lacks: add them, or take the model as it is."
    .expert_level = 1
  cell_tolerance = 0.03
    .type = float(value_min=0)
    .help = "Largest relative difference between the cell of the model and that of the data."
    .expert_level = 2
}
tables
  .help = "Scattering factors."
  .expert_level = 1
{
  form_factor = *it1992 wk1995
    .type = choice
    .help = "International Tables (to |q| = 4/A) or Waasmaier and Kirfel (to 12/A)."
  anomalous = *none sasaki henke
    .type = choice
    .help = "Source of f' and f'' at the wavelength of the data."
  recoil = 0
    .type = int(value_min=0, value_max=3)
    .help = "Exponent of the Breit-Dirac factor of Compton scattering: 0 for none, 2 for a detector that counts"
            "photons, 3 for one that integrates energy."
  threshold = 0
    .type = float(value_min=0)
    .help = "Energy threshold of the detector in keV: Compton photons below it are not counted."
}
total_scattering
  .help = "The scale from the radial profile of total scattering."
{
  estimate = *auto high_q krogh_moe fit
    .type = choice
    .help = "Estimate that is applied. auto: high_q where the data extend to it, else fit."
  q_min = None
    .type = float(value_min=0)
    .help = "Shells below this |q| = 1/d (1/A) are left out."
  q_max = None
    .type = float(value_min=0)
    .help = "Shells beyond this |q| (1/A) are left out."
  shell_width = 0.01
    .type = float(value_min=0.001)
    .help = "Width of the shells, 1/A."
    .expert_level = 1
  high_q = 0.7
    .type = float(value_min=0)
    .help = "Begin of the high-q estimate, 1/A."
    .expert_level = 1
  fit_from = 0.32
    .type = float(value_min=0)
    .help = "Begin of the fit of the profile, 1/A. Below it, longer distances than those of neighbours"
            "(up to 8 A) interfere."
    .expert_level = 1
  pairs = *auto none
    .type = choice
    .help = "Interference of neighbouring atoms (up to 8 A). auto: it is included where the composition gives"
            "the distances (model, sequence, bulk solvent). none: it is left out."
    .expert_level = 1
  b_relative = None
    .type = float(value_min=0)
    .help = "B factor of the motion of neighbours against each other, A^2, which damps their interference."
            "It is nearly 0 in a crystal, and the atoms' B where they move independently. None: it is refined."
    .expert_level = 1
  background = *none constant air
    .type = choice
    .help = "Background that is fitted with the profile. It is not subtracted from the map: give background= to"
            "dials.diffuse_extract for that."
    .expert_level = 1
}
wilson
  .help = "The scale from Bragg intensities."
{
  q_min = 0.3
    .type = float(value_min=0)
    .help = "Begin of the straight part of the Wilson plot, 1/A."
  q_max = None
    .type = float(value_min=0)
    .help = "End of the straight part, 1/A. None: the end of the data."
  reflections = None
    .type = path
    .help = "Integrated reflections of the same stills (the .refl that dials.diffuse_mask was given). Their merged"
            "intensity/partiality is compared with the nodes integrated in the grid; it is reported only."
  min_partiality = 0.1
    .type = float(value_min=0, value_max=1)
    .help = "Integrated reflections of lower partiality are left out."
    .expert_level = 1
}
"""
    + one_process_str
    + output_str(
        "diffuse_absolute",
        "diffuse_absolute.expt",
        "diffuse_absolute.refl",
        """
  map = diffuse_absolute.h5
    .type = path
    .help = "Name of the HDF5 map (NeXus). None: no such file."
""",
        besides=MODELS,
    )
)

phil_scope = parse(phil_str)
