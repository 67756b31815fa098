"""Report and numbers of dials.diffuse_export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dials_diffuse.report.html import ReportSection

if TYPE_CHECKING:
    from dials_diffuse.export.workflow import ExportResult


def sections(result: ExportResult) -> list[ReportSection]:
    """The parts of the HTML report."""
    return [ReportSection("Sections", "; ".join(result.merged.describe()), plots=result.plots)]


def numbers(result: ExportResult) -> dict:
    """The content of output.json besides the plots."""
    return {
        "files": result.files,
        "voxels": len(result.merged.voxel),
        "units": result.merged.units,
        "grid": result.merged.grid.to_dict(),
    }
