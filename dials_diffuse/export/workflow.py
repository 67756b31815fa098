"""Run dials.diffuse_export: write a merged map in the formats that other programs open."""

from __future__ import annotations

import logging
from pathlib import Path

from dials_diffuse.adapters.inputs import Inputs
from dials_diffuse.export import report
from dials_diffuse.export.formats import stem_of_content, write_format
from dials_diffuse.export.result import ExportResult
from dials_diffuse.io.maps.merged_map import MergedMap, read_merged_map
from dials_diffuse.report.html import write_outputs
from dials_diffuse.report.sections import (
    content_label,
    map_sections,
    parse_section,
    section_plots,
    write_section_pngs,
)

logger = logging.getLogger("dials.diffuse.export")


def run(inputs: Inputs, params) -> ExportResult:
    """Write the map in all formats asked for, and a report with sections.

    Args:
        inputs: .expt files, which carry the grid; a .refl file of merged intensities; copies of models
        params: extract of dials_diffuse.phil.export

    Raises:
        ValueError: no format, an unknown section or column, or input that can't be used.
    """
    for name in params.section:
        parse_section(name)
    if not params.format:
        raise ValueError("Nothing to write: give format=mtz, ccp4, h5, npz or hkl")
    merged, source = read_merged_map(
        [pair.experiments for pair in inputs.pairs], inputs.of_type(".refl"), inputs.model_copies()
    )
    merged = merged.within(params.d_min, params.d_max).masked_up_to(params.max_masked_fraction)
    if params.column not in merged.columns:
        raise ValueError(
            f"The map has no column={params.column}; there are {', '.join(merged.columns)}"
        )
    for line in merged.describe():
        logger.info(line)
    logger.info("%d voxels of the asymmetric unit", len(merged.voxel))

    result = ExportResult(merged)
    content = merged.anisotropic() if params.remove_isotropic else merged
    for kind in params.format:
        result.files[kind] = f"{_stem(kind, source, params)}.{kind}"
        logger.info("Saving %s", result.files[kind])
        write_format(kind, result.files[kind], content, params.extent, params.column)
    for remove_isotropic in (False, True) if params.column == "intensity" else (False,):
        result.plots |= section_plots(
            merged.voxel,
            merged.columns,
            merged.grid,
            params.section,
            remove_isotropic=remove_isotropic,
            column=params.column,
            units=merged.units_of(params.column),
        )
    if params.output.png:
        _write_pngs(merged, source, params)
    write_outputs(
        params.output, "dials.diffuse_export", report.sections(result), report.numbers(result)
    )
    return result


def _stem(kind: str, source: Path, params) -> str:
    """Name without suffix of the file of one format: the user's, or that of the source and content."""
    limits = params.d_min, params.d_max, params.max_masked_fraction
    limited = any(limit is not None for limit in limits)
    return params.output.prefix or stem_of_content(
        source.stem, kind, params.remove_isotropic, limited, params.extent
    )


def _write_pngs(merged: MergedMap, source: Path, params) -> None:
    """Write the sections as pictures."""
    path = Path(_stem("png", source, params))
    anisotropic = params.remove_isotropic and params.column == "intensity"
    sections = map_sections(
        merged.voxel, merged.columns[params.column], merged.grid, params.section, anisotropic
    )
    units = merged.units_of(params.column)
    label = ", ".join(filter(None, (content_label(params.column, anisotropic), units)))
    for name in write_section_pngs(path.parent, sections, label, anisotropic, path.name):
        logger.info("Saved %s", name)
