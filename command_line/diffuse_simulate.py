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

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.simulate import phil_scope


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_simulate."""
    command = parse_command(
        args, phil=phil, usage="dials.diffuse_simulate [options]", epilog=__doc__, needs_input=False
    )
    command.start_log()

    # After the arguments are read: this imports numba
    from dials_diffuse.simulation import workflow

    workflow.run(command.inputs, command.params)


if __name__ == "__main__":
    run()
