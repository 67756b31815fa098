"""Report and numbers of dials.diffuse_export."""

from __future__ import annotations

from dials_diffuse.export.result import ExportResult
from dials_diffuse.report.html import ReportSection


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
