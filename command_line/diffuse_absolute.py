# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_absolute
"""
Put a merged diffuse map on the absolute scale, electrons squared per unit cell, and subtract incoherent
scattering.

Usage: dials.diffuse_absolute diffuse_scaled.expt diffuse_scaled.refl diffuse_merged.refl \\
  composition.model|sequence|formula=... [options]

Examples:

  dials.diffuse_absolute diffuse_scaled.expt diffuse_scaled.refl diffuse_merged.refl \\
    composition.sequence=protein.fasta composition.copies=8

  dials.diffuse_absolute diffuse_scaled.expt diffuse_scaled.refl diffuse_merged.refl \\
    composition.model=model.pdb composition.solvent_content=0.45

  dials.diffuse_absolute diffuse_scaled.* diffuse_merged.refl \\
    composition.formula="C 613 H 959 N 193 O 185 S 10" composition.copies=8

  dials.diffuse_absolute diffuse_scaled.* diffuse_merged.refl \\
    composition.model=model.pdb scale=12.5

The scale is found from total scattering. The mean intensity of all pixels at one |q|, Bragg
peaks included, depends on the atoms of the unit cell only, so their number is needed: from an
atomic model, a sequence, or a formula. Several estimates of the scale are made and compared.
Their disagreement is a part of the error.

The map becomes scale * intensity - incoherent. With the scaling models in
diffuse_absolute.expt the same observations give scale * intensity. The incoherent
scattering is kept beside the models.
"""

from __future__ import annotations

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.absolute import phil_scope


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Find the absolute scale from the command line."""
    command = parse_command(
        args,
        phil=phil,
        usage="dials.diffuse_absolute diffuse_scaled.expt diffuse_scaled.refl diffuse_merged.refl "
        "composition.model|sequence|formula=... [options]",
        epilog=__doc__,
        extra_reflections=True,
    )
    if command is None:
        return
    command.start_log()
    from dials_diffuse.absolute import workflow

    workflow.run(command.inputs, command.params)


if __name__ == "__main__":
    run()
