# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_absolute
"""Bring a merged diffuse map to electrons squared per unit cell, and subtract incoherent scattering.

The scale comes from total scattering: the mean intensity of all pixels at one |q|, Bragg peaks
included, is decided by the atoms of the unit cell alone. So the composition is needed: an atomic
model, a sequence, or a formula. Several estimates are made and compared, and what they disagree about is
the error.

The map becomes scale * intensity - incoherent. The scaling models in diffuse_absolute.expt give scale * intensity from the
same observations; the incoherent scattering, which is not a part of them, is kept beside them.

Usage:
    dials.diffuse_absolute diffuse_scaled.expt diffuse_scaled.refl diffuse_merged.refl \\
        composition.sequence=protein.fasta composition.copies=8
    dials.diffuse_absolute diffuse_scaled.expt diffuse_scaled.refl diffuse_merged.refl \\
        composition.model=model.pdb composition.solvent_content=0.45
    dials.diffuse_absolute diffuse_scaled.* diffuse_merged.refl \\
        composition.formula="C 613 H 959 N 193 O 185 S 10" composition.copies=8
    dials.diffuse_absolute diffuse_scaled.* diffuse_merged.refl composition.model=model.pdb scale=12.5
"""

from __future__ import annotations

import logging

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json
from dials_diffuse.phil.absolute import phil_scope

logger = logging.getLogger("dials.diffuse.command_line.diffuse_absolute")


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_absolute."""
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
    params = command.params
    command.start_log()

    # After the arguments are read: these import scipy and xraylib
    from dials_diffuse.absolute import workflow
    from dials_diffuse.absolute.apply import absolute_map, fold_into_models

    inputs = workflow.sort_inputs(
        [pair.experiments for pair in command.inputs.pairs],
        [path for path in command.inputs.others if path.suffix == ".refl"],
    )
    result = workflow.run(inputs, command.inputs.model_copies(), params)
    result.log()

    table = absolute_map(inputs.merged, result.data.grid, result.absolute)
    experiments = result.data.experiments
    fold_into_models(experiments, result.absolute)

    logger.info("Saving experiments to %s", params.output.experiments)
    with replacing(params.output.experiments) as name:
        experiments.as_file(name)
    logger.info("Saving the absolute map to %s", params.output.reflections)
    with replacing(params.output.reflections) as name:
        table.as_file(name)
    if params.output.map:
        logger.info("Saving the map's volume to %s", params.output.map)
        workflow.write_volume(params.output.map, table, result.data.grid)
    sections = result.report(table)
    if params.output.html:
        from dials_diffuse.report.html import write_report

        logger.info("Saving the report to %s", params.output.html)
        write_report(params.output.html, "dials.diffuse_absolute", sections)
    if params.output.json:
        logger.info("Saving the numbers to %s", params.output.json)
        write_json(params.output.json, result.to_dict(sections))


if __name__ == "__main__":
    run()
