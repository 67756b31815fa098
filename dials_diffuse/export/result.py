"""The result of dials.diffuse_export."""

from __future__ import annotations

from dataclasses import dataclass, field

from dials_diffuse.io.maps.merged_map import MergedMap


@dataclass
class ExportResult:
    """An exported map.

    Attributes:
        merged: the map, within the limits
        files: format -> name of the file written
        plots: sections through the map, plotly JSON by name
    """

    merged: MergedMap
    files: dict[str, str] = field(default_factory=dict)
    plots: dict[str, dict] = field(default_factory=dict)
