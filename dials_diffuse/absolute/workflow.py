"""Run dials.diffuse_absolute: from the files of dials.diffuse_scale to the absolute map."""

from __future__ import annotations

import logging

import numpy as np

from dials.array_family import flex

from dials_diffuse.absolute import report
from dials_diffuse.absolute.apply import AbsoluteScale, absolute_map, fold_into_models
from dials_diffuse.absolute.contents.composition import CompositionSettings, unit_cell_inventory
from dials_diffuse.absolute.contents.form_factors import AtomicTables, TableSettings
from dials_diffuse.absolute.contents.inventory import UnitCellInventory
from dials_diffuse.absolute.data import ScaledData, read_data, separate_tables, symmetry_of
from dials_diffuse.absolute.integrated import Comparison, compare_with_grid, merge_integrated
from dials_diffuse.absolute.result import AbsoluteResult
from dials_diffuse.absolute.settings import TotalScatteringSettings
from dials_diffuse.absolute.total_scattering import find_scale
from dials_diffuse.absolute.wilson import WilsonSettings, wilson_scale
from dials_diffuse.adapters.experiments import load_reflections
from dials_diffuse.adapters.inputs import Inputs
from dials_diffuse.adapters.parameters import settings_from
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.maps.map_file import write_map
from dials_diffuse.report.html import write_outputs

logger = logging.getLogger("dials.diffuse.absolute.workflow")


def run(inputs: Inputs, params) -> AbsoluteResult:
    """Find the absolute scale, apply it, and write the files of the command.

    Args:
        inputs: scaled experiments and observations, the merged map, copies of models
        params: extract of dials_diffuse.phil.absolute

    Raises:
        ValueError: bad composition, missing models or columns, data that do not reach far enough.
    """
    pairs, merged = separate_tables(inputs)
    model_copies = inputs.model_copies()
    # a wrong composition or name is reported before the data are read
    composition = settings_from(CompositionSettings, params.composition)
    inventory = unit_cell_inventory(composition, symmetry_of(pairs[0], model_copies))
    integrated = load_reflections(params.wilson.reflections) if params.wilson.reflections else None
    shell_width = params.total_scattering.shell_width
    data = read_data(pairs, merged, model_copies, shell_width)
    result = find_absolute_scale(data, merged, inventory, integrated, params)
    fold_into_models(data.experiments, result.absolute)
    report.log_result(result)
    _write(result, params.output)
    return result


def find_absolute_scale(
    data: ScaledData,
    merged: flex.reflection_table,
    inventory: UnitCellInventory,
    integrated: flex.reflection_table | None,
    params,
) -> AbsoluteResult:
    """Make all estimates, choose one, and apply it to the merged map.

    Args:
        merged: the merged table
        integrated: reflections integrated by DIALS, None for none
        params: extract of dials_diffuse.phil.absolute

    Raises:
        ValueError: the estimate of params.method can't be made.
    """
    tables = AtomicTables(settings_from(TableSettings, params.tables), data.wavelength)
    needed = params.method if params.scale is None else None
    warnings = list(inventory.warnings)
    total = wilson = plot = None
    try:
        settings = settings_from(TotalScatteringSettings, params.total_scattering)
        total = find_scale(data.profile, inventory, tables, settings)
        warnings += total.warnings
    except ValueError as error:
        if needed == "total_scattering":
            raise
        warnings.append(str(error))
    wilson_settings = settings_from(WilsonSettings, params.wilson)
    try:
        wilson, plot = wilson_scale(data.nodes, inventory, tables, wilson_settings)
    except ValueError as error:
        if needed == "wilson":
            raise
        warnings.append(str(error))
    comparison = integrated_wilson = None
    if integrated is not None:
        try:
            comparison = _compare_integrated(integrated, wilson_settings, data, warnings)
            integrated_wilson, _ = wilson_scale(
                comparison.nodes, inventory, tables, wilson_settings
            )
        except ValueError as error:
            warnings.append(f"Integrated reflections: {error}")
    if total is not None and wilson is not None and wilson.disagrees_with(total.used):
        difference = abs(wilson.scale - total.used.scale)
        warnings.append(
            f"wilson gives {wilson.scale:.5g} and total scattering {total.used.scale:.5g}: they disagree by "
            f"{100 * difference / total.used.scale:.0f} %, beyond their errors"
        )
    if needed is None:
        scale, error, method = params.scale, float("nan"), "by hand"
    else:
        used = wilson if needed == "wilson" else total.used
        scale, error, method = used.scale, used.error, used.name
    q = np.linalg.norm(data.grid.q_of_voxel(as_numpy(merged["voxel"])), axis=1)
    q_max = max(float(q.max()), data.profile.edges[-1])
    absolute = AbsoluteScale.from_inventory(scale, error, method, inventory, tables, q_max)
    return AbsoluteResult(
        data,
        inventory,
        absolute,
        total,
        wilson,
        plot,
        comparison,
        integrated_wilson,
        absolute_map(merged, data.grid, absolute),
        warnings,
    )


def _compare_integrated(
    reflections: flex.reflection_table,
    settings: WilsonSettings,
    data: ScaledData,
    warnings: list[str],
) -> Comparison:
    """Compare integrated reflections with the grid; warnings are added to the list.

    Raises:
        ValueError: they are of other stills, or there is too little to compare.
    """
    nodes, partiality = merge_integrated(
        reflections,
        str(settings.reflections),
        data.experiments,
        data.grid,
        data.times.relative(data.experiments),
        settings.min_partiality,
    )
    comparison = compare_with_grid(nodes, data.nodes, partiality, settings.q_min)
    if partiality != "used":
        warnings.append(
            f"Partiality of the integrated reflections is {partiality}: their fall with resolution is that of the "
            "recorded fraction as well as that of |F|^2, so that no scale should be taken from them"
        )
    return comparison


def _write(result: AbsoluteResult, output) -> None:
    """Write experiments, map, report and numbers."""
    logger.info("Saving experiments to %s", output.experiments)
    with replacing(output.experiments) as name:
        result.data.experiments.as_file(name)
    logger.info("Saving the absolute map to %s", output.reflections)
    with replacing(output.reflections) as name:
        result.table.as_file(name)
    if output.map:
        logger.info("Saving the volume of the map to %s", output.map)
        _write_volume(output.map, result.table, result.data.grid)
    write_outputs(output, "dials.diffuse_absolute", report.sections(result), report.numbers(result))


def _write_volume(path: str, table: flex.reflection_table, grid: VoxelGrid) -> None:
    """Write the absolute map as an HDF5 volume."""
    names = "intensity variance half_1 half_2 n_obs n_stills exposure masked_fraction incoherent".split()
    write_map(
        path,
        as_numpy(table["voxel"]),
        {name: as_numpy(table[name]) for name in names if name in table},
        grid,
        "Diffuse scattering on the absolute scale",
        "electrons^2 per unit cell",
    )
