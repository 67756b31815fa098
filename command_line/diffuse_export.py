# LIBTBX_SET_DISPATCHER_NAME dials.diffuse_export
"""Write a merged map of diffuse scattering in the formats that other programs open.

Takes the map as dials.diffuse_scale or dials.diffuse_absolute wrote it, and an .expt file of the same
run, which carries the grid (all of them, where there are several batches). Voxels that were not measured are NaN (or absent from lists).

Usage:

  dials.diffuse_export diffuse_scaled.expt diffuse_merged.refl

  dials.diffuse_export diffuse_absolute.expt diffuse_absolute.refl format=ccp4+h5

  dials.diffuse_export diffuse_scaled.expt diffuse_merged.refl format=ccp4 remove_isotropic=True

  dials.diffuse_export diffuse_scaled.expt diffuse_merged.refl section="hk0 hk0.333" output.png=True
"""

from __future__ import annotations

import logging
from pathlib import Path

from dials_diffuse.adapters.command import handle_errors, parse_command
from dials_diffuse.phil.export import phil_scope

logger = logging.getLogger("dials.diffuse.export")

USAGE = "dials.diffuse_export [options] diffuse_scaled.expt diffuse_merged.refl"


@handle_errors()
def run(args: list[str] | None = None, phil=phil_scope) -> None:
    """Run dials.diffuse_export."""
    command = parse_command(args, phil, USAGE, __doc__, extra_reflections=True)
    if command is None:
        return
    params = command.params
    command.start_log()

    from dials_diffuse.io.json_file import write_json
    from dials_diffuse.io.maps.export import stem_of_content, write_format
    from dials_diffuse.io.maps.merged_map import read_merged_map
    from dials_diffuse.report.html import ReportSection, plots_of, write_report
    from dials_diffuse.report.sections import (
        content_label,
        map_sections,
        parse_section,
        section_plots,
        write_section_pngs,
    )

    for name in params.section:
        parse_section(name)
    if not params.format:
        raise ValueError("Nothing to write: give format=mtz, ccp4, h5, npz or hkl")
    merged, source = read_merged_map(
        [pair.experiments for pair in command.inputs.pairs],
        [path for path in command.inputs.others if path.suffix == ".refl"],
        command.inputs.model_copies(),
    )
    merged = merged.within(params.d_min, params.d_max)
    if params.column not in merged.columns:
        raise ValueError(
            f"The map has no column={params.column}; there are {', '.join(merged.columns)}"
        )
    for line in merged.describe():
        logger.info(line)
    logger.info("%d voxels of the asymmetric unit", len(merged.voxel))
    content = merged.anisotropic() if params.remove_isotropic else merged

    def prefix_of(kind: str) -> str:
        limited = params.d_min is not None or params.d_max is not None
        return params.output.prefix or stem_of_content(
            source.stem, kind, params.remove_isotropic, limited, params.extent
        )

    written = {}
    for kind in params.format:
        written[kind] = f"{prefix_of(kind)}.{kind}"
        logger.info("Saving %s", written[kind])
        write_format(kind, written[kind], content, params.extent, params.column)
    plots = {}
    units = merged.units_of(params.column)
    for remove in (False, True) if params.column == "intensity" else (False,):
        plots |= section_plots(
            merged.voxel,
            merged.columns,
            merged.grid,
            params.section,
            remove_isotropic=remove,
            column=params.column,
            units=units,
        )
    if params.output.png:
        path = Path(prefix_of("png"))
        difference = params.remove_isotropic and params.column == "intensity"
        sections = map_sections(
            merged.voxel, merged.columns[params.column], merged.grid, params.section, difference
        )
        label = ", ".join(filter(None, (content_label(params.column, difference), units)))
        for name in write_section_pngs(path.parent, sections, label, difference, path.name):
            logger.info("Saved %s", name)
    report = [ReportSection("Sections", "; ".join(merged.describe()), plots=plots)]
    if params.output.html:
        logger.info("Saving the report to %s", params.output.html)
        write_report(params.output.html, "dials.diffuse_export", report)
    if params.output.json:
        numbers = {
            "files": written,
            "voxels": len(merged.voxel),
            "units": merged.units,
            "grid": merged.grid.to_dict(),
            "plots": plots_of(report),
        }
        write_json(params.output.json, numbers)


if __name__ == "__main__":
    run()
