# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_simulate
"""Simulate stills of a crystal whose diffuse scattering is known.

Writes images that DIALS reads like those of a beamline, the experiments and
integrated reflections that dials.stills_process would leave, and the truth:
everything to compare a reduction with. Without any parameter it makes the
demonstration set: 30 stills of random orientation of a crystal of a small
protein, five photons a pixel. The same seed gives the same images.

Diffuse scattering, a ring of solvent, Compton scattering and Bragg peaks are in
electrons^2 per unit cell; the photons of a pixel follow with its solid angle,
polarization, sensor efficiency and absorption by air. Scale factors of stills
and panels, background, bad pixels and much else can be turned on.

Usage:
    dials.diffuse_simulate
    dials.diffuse_simulate stills=100 exposure.mean_photons=1 seed=7
    dials.diffuse_simulate detector.type=tilted scale.panel_spread=0.05
    dials.diffuse_simulate background.air=2 background.empty_shots=10
    dials.diffuse_simulate crystal.lattices=2 crystal.mosaicity=0.3
"""

from __future__ import annotations

import logging

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json
from dials_diffuse.phil.simulate import phil_scope

logger = logging.getLogger("dials.diffuse.command_line.diffuse_simulate")


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_simulate."""
    command = parse_command(
        args, phil=phil, usage="dials.diffuse_simulate [options]", epilog=__doc__, needs_input=False
    )
    params = command.params
    if command.inputs.pairs or command.inputs.others:
        raise ValueError("dials.diffuse_simulate takes parameters only, no files")
    command.start_log()

    # After the arguments are read: these import numba
    from dials_diffuse.simulation import summary
    from dials_diffuse.simulation.settings import settings_from_params
    from dials_diffuse.simulation.simulate import simulate, truth_record

    settings = settings_from_params(params)
    result = simulate(settings, ".", images=params.output.images, save=False)
    logger.info("\n%s\n", summary.overview(result))

    logger.info("Saving experiments to %s", params.output.experiments)
    with replacing(params.output.experiments) as name:
        result.experiments.as_file(name)
    logger.info("Saving reflections to %s", params.output.reflections)
    with replacing(params.output.reflections) as name:
        result.reflections.as_file(name)
    if result.background is not None:
        logger.info("Saving empty shots to %s", params.output.background)
        with replacing(params.output.background) as name:
            result.background.as_file(name)
    if result.sequence is not None:
        logger.info("Saving the rotation series to %s", params.output.sequence)
        with replacing(params.output.sequence) as name:
            result.sequence.as_file(name)
    logger.info("Saving the truth to %s", params.output.truth)
    write_json(params.output.truth, truth_record(result.simulator), indent=1)
    if params.output.html or params.output.json:
        summary.write(result, params.output.html, params.output.json)


if __name__ == "__main__":
    run()
