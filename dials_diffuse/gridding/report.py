"""Tables, plots and numbers of dials.diffuse_grid."""

from __future__ import annotations

import logging

import numpy as np

from dials.util import tabulate

from dials_diffuse.gridding.ambiguity import Resolution
from dials_diffuse.gridding.coverage import CoverageRow
from dials_diffuse.gridding.definition import GridDefinition
from dials_diffuse.gridding.result import GriddingResult
from dials_diffuse.report import plotly
from dials_diffuse.report.html import ReportSection
from dials_diffuse.report.sections import section_plots

logger = logging.getLogger("dials.diffuse.gridding.report")

_PARAMETERS = ("a (A)", "b (A)", "c (A)", "alpha (deg)", "beta (deg)", "gamma (deg)")
_MOST_OUTLIERS = 20
# Of plots whose numbers are rounded to decimals
_ALL_DIGITS = 15


def _cell_rows(definition: GridDefinition) -> list[list[str]]:
    cell = definition.cell
    rows = [["", "reference", "robust sigma of the stills"]]
    for name, value, sigma in zip(_PARAMETERS, cell.unit_cell.parameters(), cell.spread):
        rows.append([name, f"{value:.4f}", f"{sigma:.4f}"])
    return rows


def _outlier_rows(definition: GridDefinition) -> list[list[str]]:
    experiments = [e for part in definition.experiments for e in part]
    excluded, start = set(), 0
    for part, numbers in zip(definition.experiments, definition.excluded):
        excluded |= {start + number for number in numbers}
        start += len(part)
    rows = [["still", "unit cell", "deviation", ""]]
    for number in np.flatnonzero(definition.cell.outlier):
        parameters = experiments[number].crystal.get_unit_cell().parameters()
        rows.append(
            [
                str(number),
                ", ".join(f"{p:.2f}" for p in parameters),
                f"{100 * definition.cell.deviation[number]:.2f} %",
                "left out" if number in excluded else "kept",
            ]
        )
    return rows


def log_cells(definition: GridDefinition) -> None:
    """Reference cell, its spread, and the outliers."""
    grid = definition.grid
    logger.info(
        "Laue group %s, %d x %d x %d voxels a reciprocal cell",
        grid.laue_group.info(),
        *grid.subdivide,
    )
    logger.info("\n%s", tabulate(_cell_rows(definition), headers="firstrow"))
    rows = _outlier_rows(definition)
    if len(rows) > 1:
        logger.warning(
            "%d stills have an outlying unit cell (grid.max_cell_deviation=0.01 leaves out those beyond 1 %%)",
            len(rows) - 1,
        )
        logger.info("%s", tabulate(rows[: _MOST_OUTLIERS + 1], headers="firstrow"))
        if len(rows) - 1 > _MOST_OUTLIERS:
            logger.info("... and %d more", len(rows) - 1 - _MOST_OUTLIERS)


def _coverage_table(rows: list[CoverageRow]) -> list[list]:
    table: list[list] = [
        [
            "d (A)",
            "voxels",
            "seen",
            "complete",
            "observations",
            "multiplicity",
            "stills",
            "3 or more",
        ]
    ]
    for row in rows:
        table.append(
            [
                row.label,
                row.possible,
                row.seen,
                f"{row.completeness:.3f}",
                row.n_obs,
                f"{row.multiplicity:.2f}",
                f"{row.mean_stills:.2f}",
                f"{row.three_stills / row.seen if row.seen else 0:.3f}",
            ]
        )
    return table


def log_coverage(rows: list[CoverageRow]) -> None:
    """Log the coverage by shell."""
    logger.info(
        "\nVoxels of the asymmetric unit, the observations of each (multiplicity), the stills that saw it, "
        "and the fraction seen by three or more stills\n%s\n",
        tabulate(_coverage_table(rows), headers="firstrow"),
    )


def _coverage_numbers(rows: list[CoverageRow]) -> list[dict]:
    return [
        {
            "shell": row.label,
            "possible": row.possible,
            "seen": row.seen,
            "completeness": row.completeness,
            "observations": row.n_obs,
            "multiplicity": row.multiplicity,
            "stills": row.mean_stills,
            "three_stills": row.three_stills,
        }
        for row in rows
    ]


def _cell_numbers(definition: GridDefinition) -> dict:
    return {
        "reference": list(definition.cell.unit_cell.parameters()),
        "spread": definition.cell.spread.tolist(),
        "outliers": np.flatnonzero(definition.cell.outlier).tolist(),
        "excluded": definition.excluded,
    }


def _cell_plot(definition: GridDefinition) -> dict:
    cells = np.array(
        [e.crystal.get_unit_cell().parameters() for part in definition.experiments for e in part]
    )
    reference = np.array(definition.cell.unit_cell.parameters())
    relative = 100 * (cells[:, :3] / reference[:3] - 1)
    limit = max(float(np.abs(relative).max()), 1e-3) * 1.05
    edges = np.linspace(-limit, limit, 61)
    centres = 0.5 * (edges[1:] + edges[:-1])
    traces = [
        plotly.line(
            "abc"[i],
            centres.round(5),
            np.histogram(relative[:, i], edges)[0],
            digits=_ALL_DIGITS,
            line={"shape": "hvh"},
        )
        for i in range(3)
    ]
    return plotly.plot(
        traces,
        plotly.axes(
            "Cell lengths of the stills", "deviation from the reference cell (%)", "stills"
        ),
        "Two or more peaks mean that the stills are of different crystal forms. Do not merge them.",
    )


def _coverage_plot(rows: list[CoverageRow]) -> dict:
    shells = rows[:-1]
    labels = [row.label for row in shells]
    three = [row.three_stills / row.seen if row.seen else 0 for row in shells]
    curves = (
        ("completeness", np.round([row.completeness for row in shells], 4), {}),
        ("seen by 3 or more stills", np.round(three, 4), {}),
        ("multiplicity", np.round([row.multiplicity for row in shells], 3), {"yaxis": "y2"}),
    )
    layout = plotly.axes(
        "Coverage of the grid",
        "d (A)",
        "fraction of the voxels",
        yaxis={"range": [0, 1.05]},
        yaxis2={
            "title": {"text": "observations a voxel"},
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
            "showgrid": False,
        },
        legend={"orientation": "h", "y": 1.12},
    )
    return plotly.plot(
        [plotly.line(name, labels, y, digits=_ALL_DIGITS, **more) for name, y, more in curves],
        layout,
        "Voxels of the asymmetric unit that were seen outside the Bragg mask.",
    )


def _ambiguity_numbers(resolution: Resolution) -> dict:
    return {
        "settings": [setting.name for setting in resolution.settings],
        "chosen": resolution.chosen.tolist(),
        "gain": [round(float(gain), 3) for gain in resolution.gain],
        "significance": None if np.isnan(resolution.significance) else resolution.significance,
    }


def _ambiguity_section(resolution: Resolution) -> ReportSection:
    rows: list[list] = [["setting", "stills"]]
    for number, setting in enumerate(resolution.settings):
        rows.append([setting.name, int((resolution.chosen == number).sum())])
    counts, edges = np.histogram(resolution.gain, 50)
    bars = {
        "type": "bar",
        "x": (0.5 * (edges[1:] + edges[:-1])).round(4).tolist(),
        "y": counts.tolist(),
    }
    plot = plotly.plot(
        [bars],
        plotly.axes("Certainty of the settings", "best less next best setting (sigma)", "stills"),
        "The setting of stills near 0 is uncertain.",
    )
    return ReportSection(
        "Indexing ambiguity",
        "The lattice is more symmetric than the Laue group: settings were chosen by correlation.",
        tables=[rows],
        plots={"ambiguity": plot},
    )


def sections(result: GriddingResult) -> list[ReportSection]:
    """The parts of the HTML report."""
    definition, rows, sums = result.definition, result.coverage, result.sums
    cells = ReportSection(
        "Unit cells", tables=[_cell_rows(definition)], plots={"cells": _cell_plot(definition)}
    )
    outliers = _outlier_rows(definition)
    if len(outliers) > 1:
        cells.tables.append(outliers)
    parts = [
        cells,
        ReportSection(
            "Coverage", tables=[_coverage_table(rows)], plots={"coverage": _coverage_plot(rows)}
        ),
        ReportSection(
            "Preview of the map",
            "Unscaled: photons over exposure of all stills together.",
            plots=section_plots(sums.voxel, {"intensity": sums.intensity}, result.grid),
        ),
    ]
    if result.resolution is not None:
        parts.insert(1, _ambiguity_section(result.resolution))
    return parts


def numbers(result: GriddingResult) -> dict:
    """The content of output.json besides the plots."""
    return {
        "models": result.models,
        "coverage": _coverage_numbers(result.coverage),
        "cells": _cell_numbers(result.definition),
        "ambiguity": result.resolution and _ambiguity_numbers(result.resolution),
    }
