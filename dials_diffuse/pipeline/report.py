"""The summary of a run: table of steps, failed stills, citations, HTML page and JSON file."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from dials.util import tabulate

import dials_diffuse
from dials_diffuse.io.json_file import write_json
from dials_diffuse.pipeline.result import PipelineResult, StepSummary
from dials_diffuse.report.citations import citations_of_run

logger = logging.getLogger("dials.diffuse.pipeline.report")

_MOST_CURVES = 12
_MOST_FAILURES = 200  # rows in log and page; the JSON has all


@dataclass
class FailedStill:
    """A still that is not in the map, or not as it should be.

    Attributes:
        step: where it failed
        image: its file
        reason: why
    """

    step: str
    image: str
    reason: str


def _contents(path: Path) -> dict:
    """A JSON that a step wrote, {} where it wrote none"""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def failed_stills(result: PipelineResult) -> list[FailedStill]:
    """All stills that a step could not use, or left out, each with the first step that did."""
    found: dict[str, FailedStill] = {}
    for summary in result.steps:
        for path in summary.jsons:
            for name, reason in _reasons(_contents(path)):
                found.setdefault(name, FailedStill(summary.step, name, reason))
    return list(found.values())


def _reasons(contents: dict) -> list[tuple[str, str]]:
    """(image or experiment identifier, reason) from the JSON of a step"""
    found = list(contents.get("failures", {}).items())
    for still in contents.get("stills", []):
        if isinstance(still, dict):
            reason = still.get("error") or still.get("excluded")
            if reason:
                found.append((still.get("image") or still.get("identifier", "?"), reason))
    return found


def citations(result: PipelineResult) -> list[str]:
    """What to cite for the steps that ran"""
    return citations_of_run(result.absolute is not None)


def _size(folder: Path, names: list[str]) -> str:
    total = sum(path.stat().st_size for path in (folder / name for name in names) if path.is_file())
    return f"{total / 1e6:.1f}"


def summary_rows(result: PipelineResult, folder: Path) -> list[list[str]]:
    """A row a step, column names first."""
    rows = [
        ["step", "stills", "tasks", "from earlier runs", "time (s)", "memory (MB)", "output", "MB"]
    ]
    for summary in result.steps:
        names = summary.outputs
        shown = names[0] if names else ""
        if len(names) > 2:
            shown = f"{len(names) // 2} pairs of files"
        rows.append(
            [
                summary.step,
                str(summary.stills) if summary.stills else "-",
                str(len(summary.tasks)),
                str(summary.skipped),
                f"{summary.seconds:.1f}",
                f"{summary.memory:.0f}",
                shown,
                _size(folder, names),
            ]
        )
    for name, path in maps_of(result).items():
        rows.append([name, *"-----", path.name, _size(folder, [path.name])])
    return rows


def maps_of(result: PipelineResult) -> dict[str, Path]:
    """The maps that are there, by what they are"""
    maps = {
        "merged": result.merged,
        "map": result.map,
        "absolute": result.absolute,
        "absolute map": result.absolute_map,
    }
    return {name: path for name, path in maps.items() if path is not None}


def _plots_of_step(summary: StepSummary) -> dict[str, dict]:
    """The plots of a step's tasks: curves of batches together, a few of all."""
    together: dict[str, dict] = {}
    for path in summary.jsons:
        for name, plot in _contents(path).get("plots", {}).items():
            if name in together:
                together[name]["data"] += plot["data"]
            else:
                together[name] = plot
    if len(summary.jsons) > 1:
        for plot in together.values():
            n = len(plot["data"])
            plot["data"] = (
                [plot["data"][i * n // _MOST_CURVES] for i in range(_MOST_CURVES)]
                if n > _MOST_CURVES
                else plot["data"]
            )
    return together


def write_summary(
    result: PipelineResult,
    folder: str | os.PathLike,
    html: str | os.PathLike | None = None,
    json_file: str | os.PathLike | None = None,
    error: str | None = None,
) -> None:
    """Summary and citations into the log, and the page and the numbers of the whole run.

    Args:
        result: of Pipeline
        folder: where it ran
        html, json_file: files to write, None for none
        error: why the run failed, where it did
    """
    from dials_diffuse.report.html import ReportSection, plots_of, write_report

    folder = Path(folder)
    rows = summary_rows(result, folder)
    failures = failed_stills(result)
    failure_rows = [["step", "image", "reason"]]
    failure_rows += [
        [f.step, os.path.basename(f.image), f.reason] for f in failures[:_MOST_FAILURES]
    ]
    if failures:
        logger.warning(
            "Warning: %d still(s) could not be used:\n%s",
            len(failures),
            tabulate(failure_rows, headers="firstrow", tablefmt="psql"),
        )
    logger.info("\n%s", tabulate(rows, headers="firstrow", tablefmt="psql"))
    if error is None:
        logger.info("\nPlease cite:\n%s\n", "\n".join(f"  {line}" for line in citations(result)))

    sections = [ReportSection("Summary", text=error or "", tables=[rows])]
    if failures:
        sections.append(
            ReportSection(
                "Stills that could not be used",
                text=f"{len(failures)} in all.",
                tables=[failure_rows],
            )
        )
    for summary in result.steps:
        plots = _plots_of_step(summary)
        if plots:
            sections.append(ReportSection(f"dials.diffuse_{summary.step}", plots=plots))
    sections.append(
        ReportSection("Citations", tables=[[["Please cite"], *([c] for c in citations(result))]])
    )
    if html:
        logger.info("Saving the report to %s", html)
        write_report(html, "dials.diffuse_process", sections)
    if json_file:
        logger.info("Saving the numbers to %s", json_file)
        contents = {
            "program": f"dials_diffuse {dials_diffuse.__version__}",
            "success": error is None,
            "error": error,
            "steps": [
                {
                    "step": summary.step,
                    "stills": summary.stills,
                    "seconds": round(summary.seconds, 3),
                    "outputs": summary.outputs,
                    "tasks": [vars(task) for task in summary.tasks],
                    "numbers": _numbers(summary),
                }
                for summary in result.steps
            ],
            "maps": {name: str(path) for name, path in maps_of(result).items()},
            "failed_stills": [vars(failure) for failure in failures],
            "empty_batches": result.empty,
            "citations": citations(result),
            "plots": plots_of(sections),
        }
        write_json(json_file, contents)


def _numbers(summary: StepSummary) -> dict:
    """What a step's JSON holds besides plots, models and stills: its results"""
    if len(summary.jsons) != 1:
        return {}
    return {
        name: value
        for name, value in _contents(summary.jsons[0]).items()
        if name not in ("plots", "models", "stills")
    }
