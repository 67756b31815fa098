# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_scale
"""Scale stills against each other and merge them into one map of diffuse scattering.

Each observation is modelled as exposure * a(x,y) d(panel) (b_i I_v + c_i(|q|)), with one scale b
a still. The scales are refined so that all stills agree on the intensity I_v of the voxels that
they share; then everything is merged, one intensity a voxel of the asymmetric unit, with the intensities
of two halves of the stills beside it.

Usage:

  dials.diffuse_scale diffuse_gridded.expt diffuse_gridded.refl

  dials.diffuse_scale diffuse_gridded_*.expt diffuse_gridded_*.refl
"""

from __future__ import annotations

import logging

from libtbx import Auto

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.scale import phil_scope

logger = logging.getLogger("dials.diffuse.scale")


def values_of(scope) -> dict:
    """The parameters of a PHIL scope by name, None for Auto"""
    return {
        name: None if value is Auto else value
        for name, value in vars(scope).items()
        if not name.startswith("__")
    }


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_scale."""
    command = parse_command(
        args,
        phil=phil,
        usage="dials.diffuse_scale [options] diffuse_gridded.expt diffuse_gridded.refl [...]",
        epilog=__doc__,
    )
    if command is None:
        return
    command.start_log()

    # they bring numba along, which -h need not wait for
    from dials_diffuse.adapters.system import resolve_nproc
    from dials_diffuse.extraction.observations import write_derived_columns
    from dials_diffuse.io.atomic import replacing
    from dials_diffuse.io.batches import batch_name
    from dials_diffuse.io.maps.map_file import write_map
    from dials_diffuse.report.html import plots_of
    from dials_diffuse.scaling.observations.source import ObservationSource
    from dials_diffuse.scaling.refinement.bragg import BraggSettings
    from dials_diffuse.scaling.refinement.order import SeriesSettings
    from dials_diffuse.scaling.refinement.restraints import RestraintSettings
    from dials_diffuse.scaling.refinement.scaler import MOST_PARTS
    from dials_diffuse.scaling.refinement.settings import FitSettings, ModelSettings
    from dials_diffuse.scaling.report import report_sections, write_html
    from dials_diffuse.scaling.scale import (
        StillSettings,
        map_columns,
        merged_table,
        scale,
        scale_columns,
        scaled_experiments,
    )
    from dials_diffuse.scaling.summary import log_summary, write_numbers

    params = command.params
    source = ObservationSource(
        command.inputs.pairs, command.inputs.model_copies(), params.memory.keep_observations
    )
    settings = FitSettings(
        model=ModelSettings(**values_of(params.model)),
        bragg=BraggSettings(
            weight=params.bragg.weight,
            min_partiality=params.bragg.min_partiality,
            partiality_error=params.bragg.partiality_error,
        ),
        bragg_files=tuple(path for path in params.bragg.reflections if path),
        restraints=RestraintSettings(**values_of(params.restraints)),
        series=SeriesSettings(**values_of(params.series)),
        engine=params.fit.engine,
        max_iterations=params.fit.max_iterations,
        n_cycles=params.fit.n_cycles,
        free_percentage=params.fit.free_percentage,
        min_observations_per_parameter=params.fit.min_observations_per_parameter,
        max_observations=params.fit.max_observations,
        outlier_cutoff=params.outliers.cutoff,
        patch_cutoff=params.outliers.patch_cutoff,
        prior_strength=params.weighting.prior_strength,
        readout_noise=params.weighting.readout_noise,
        seed=params.seed,
        n_threads=min(resolve_nproc(params.nproc), MOST_PARTS),
    )
    # with commas between them, as DIALS takes numbers, or with spaces
    names = ",".join(params.stills.exclude or ()).split(",")
    stills = StillSettings(**{**values_of(params.stills), "exclude": tuple(filter(None, names))})
    scaled = scale(source, settings, params.error_model.refine, stills)
    log_summary(scaled)

    n_pairs = len(command.inputs.pairs)
    for number in range(n_pairs):
        experiments = scaled_experiments(scaled, number)
        name = batch_name(params.output.reflections, number, n_pairs)
        logger.info("Saving scaled observations to %s", name)
        with replacing(name) as temporary:
            identifiers = {i: experiment.identifier for i, experiment in enumerate(experiments)}
            source.table(number).write(temporary, identifiers, scale_columns(scaled, number))
            if params.output.derived:
                write_derived_columns(temporary, experiments, source.grid)
        name = batch_name(params.output.experiments, number, n_pairs)
        logger.info("Saving experiments with scaling models to %s", name)
        with replacing(name) as temporary:
            experiments.as_file(temporary)
    merged = merged_table(scaled.merged, source.grid)
    logger.info("Saving merged intensities to %s", params.output.merged)
    with replacing(params.output.merged) as temporary:
        merged.as_file(temporary)
    if params.output.map:
        logger.info("Saving the map to %s", params.output.map)
        voxel, columns = map_columns(scaled.merged)
        write_map(
            params.output.map,
            voxel,
            columns,
            source.grid,
            "Merged diffuse scattering",
            n_threads=settings.n_threads,
        )
    if params.output.html or params.output.json:
        sections = report_sections(scaled)
        if params.output.html:
            logger.info("Saving the report to %s", params.output.html)
            write_html(params.output.html, sections)
        if params.output.json:
            logger.info("Saving numbers and model copies to %s", params.output.json)
            write_numbers(params.output.json, scaled, plots_of(sections))


if __name__ == "__main__":
    run()
