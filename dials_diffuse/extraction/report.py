"""The report of an extraction: radial profiles and a table of the stills."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dials_diffuse.extraction.result import ExtractionResult, StillSummary
from dials_diffuse.report import plotly
from dials_diffuse.report.html import ReportSection

_MOST_CURVES = 12
# Stills of a setting that are listed
_MOST_NUMBERS = 12


def _selection(stills: Sequence[StillSummary]) -> list[tuple[int, StillSummary]]:
    """At most _MOST_CURVES stills, evenly spaced."""
    good = [(number, still) for number, still in enumerate(stills) if not still.error]
    chosen = np.unique(np.linspace(0, len(good) - 1, min(len(good), _MOST_CURVES)).astype(int))
    return [good[i] for i in chosen]


def _profile_plot(stills: Sequence[StillSummary], kind: str, title: str, help_text: str) -> dict:
    """Radial profiles of some stills: kind is an attribute of Profile."""
    traces = [
        plotly.line(f"still {number}", still.profile.q, getattr(still.profile, kind), digits=4)
        for number, still in _selection(stills)
    ]
    return plotly.plot(traces, plotly.axes(title, "|q| (1/Angstrom)", "photons/(s sr)"), help_text)


def sections(result: ExtractionResult) -> list[ReportSection]:
    """The sections of the report."""
    stills, grid = result.stills, result.grid
    profiles = {
        "extract_diffuse": _profile_plot(
            stills,
            "diffuse",
            "Pixels outside the Bragg mask, background subtracted",
            "Mean corrected intensity of each still against |q|. The curves of good stills "
            "differ by a factor; one that lies far below the others missed the crystal.",
        ),
        "extract_total": _profile_plot(
            stills,
            "total",
            "All pixels, background subtracted",
            "The same with the pixels under Bragg spots: total scattering, which the absolute scale needs.",
        ),
    }
    if result.settings.background is not None:
        profiles["extract_unsubtracted"] = _profile_plot(
            stills,
            "unsubtracted",
            "Pixels outside the Bragg mask, before subtraction",
            "The first figure with the background still in it: what the subtraction has taken away.",
        )
        profiles["extract_background"] = _profile_plot(
            stills,
            "background",
            "Background that was subtracted",
            "Mean background of all pixels, divided by the same corrections.",
        )
    text = (
        f"Grid: {'x'.join(map(str, grid.subdivide))} voxels a reciprocal cell, Laue group "
        f"{grid.laue_group.info()}. Intensities are photons per second and steradian, at unit "
        "polarisation and efficiency."
    )
    parts = [
        ReportSection("Radial profiles", text=text, plots=profiles),
        ReportSection("Stills", tables=[table(stills)]),
    ]
    settings = settings_table(result)
    if len(settings) > 2:
        parts.append(
            ReportSection(
                "Settings of the lattice",
                "The stills were indexed in several settings of one lattice. All were brought to the most frequent "
                f"one, {result.setting.space_group.info()} with the cell {result.setting.unit_cell}, before their "
                "pixels were summed.",
                tables=[settings],
            )
        )
    return parts


def settings_table(result: ExtractionResult) -> list[list[str]]:
    """Rows of a table of the settings that stills had, column names first."""
    members: dict[str, list[int]] = {"": []}
    for number, still in enumerate(result.stills):
        if not still.error:
            members.setdefault(still.reindexed, []).append(number)
    rows = [["change of basis", "stills", "numbers"]]
    for operator, numbers in members.items():
        listed = ", ".join(map(str, numbers[:_MOST_NUMBERS]))
        more = ", ..." if len(numbers) > _MOST_NUMBERS else ""
        rows.append([operator or "none", str(len(numbers)), listed + more])
    return rows


def table(stills: Sequence[StillSummary]) -> list[list[str]]:
    """Rows of a table of the stills, column names first; "-" for those that failed."""
    rows = [
        [
            "still",
            "image",
            "pixels",
            "photons",
            "photons/pixel",
            "exposure time (s)",
            "observations",
        ]
    ]
    for number, still in enumerate(stills):
        name = Path(still.path).name
        if still.error:
            rows.append([str(number), name, "-", "-", "-", "-", "-"])
            continue
        rows.append(
            [
                str(number),
                name,
                f"{still.num_pixels}",
                f"{still.photons:.0f}",
                f"{still.photons / still.num_pixels:.3f}" if still.num_pixels else "-",
                f"{still.exposure_time:g}",
                f"{still.num_observations}",
            ]
        )
    return rows


def numbers(result: ExtractionResult) -> dict:
    """Copies of the models, the numbers of each still and those left out, for output.json."""
    rows = []
    for still in result.stills:
        row = {"image": still.path, "error": still.error or None}
        if not still.error:
            row |= {
                "reindexed": still.reindexed or None,
                "num_pixels": still.num_pixels,
                "photons": still.photons,
                "exposure_time": still.exposure_time,
                "num_observations": still.num_observations,
                "profile": {
                    name: plotly.rounded(getattr(still.profile, name), 4)
                    for name in ("q", "diffuse", "total", "background", "photons", "exposure")
                },
            }
        rows.append(row)
    return {"models": result.models, "stills": rows, **result.failures}
