"""HTML reports: one page a command, which opens from disk without a network."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

import dials_diffuse
from dials_diffuse.io.atomic import replacing
from dials_diffuse.io.json_file import write_json

logger = logging.getLogger("dials.diffuse.report")

# Colour-blind safe (viridis family) colour scales of all maps
INTENSITY_COLOURS = "Viridis"
DIFFERENCE_COLOURS = "RdBu"


@dataclass
class ReportSection:
    """A part of a report.

    Attributes:
        title: heading
        text: a paragraph below it
        tables: each a list of rows, the first one the column names
        plots: id -> plotly JSON {"data": [...], "layout": {...}, "help": "..."}; the same
            dictionary goes into output.json
        images: caption -> PNG bytes
    """

    title: str
    text: str = ""
    tables: list[list[list]] = field(default_factory=list)
    plots: dict[str, dict] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)


def _plotly_script() -> str:
    """Script tag with plotly.js: the copy in python's plotly, else the network's.

    DIALS packages differ in whether and where they ship plotly.js.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return '<script src="https://cdn.plot.ly/plotly-2.35.2.min.js"></script>'
    return f"<script>{get_plotlyjs()}</script>"


def write_report(path: str | os.PathLike, title: str, sections: list[ReportSection]) -> None:
    """Write the sections as one self-contained HTML page.

    Raises:
        ValueError: the folder of path can't be written to.
    """
    import base64

    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("dials_diffuse.report", "templates"), autoescape=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    html = environment.get_template("report.html").render(
        title=title, sections=sections, plotly=_plotly_script(), version=dials_diffuse.__version__
    )
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        handle.write(html.encode("utf-8", "xmlcharrefreplace"))


def plots_of(sections: list[ReportSection]) -> dict[str, dict]:
    """All plots of a report in one dictionary, for output.json."""
    return {name: plot for section in sections for name, plot in section.plots.items()}


def write_outputs(output, command: str, sections: list[ReportSection], numbers: dict) -> None:
    """Write the report of a step and its numbers, where they are wanted.

    Args:
        output: extracted output scope; its html and json name the files, None for none
        command: name of the command, the title of the report
        sections: of the report
        numbers: content of the JSON file; the plots of the report are added to it
    """
    if output.html:
        logger.info("Saving the report to %s", output.html)
        write_report(output.html, command, sections)
    if output.json:
        logger.info("Saving the numbers to %s", output.json)
        write_json(output.json, {**numbers, "plots": plots_of(sections)})
