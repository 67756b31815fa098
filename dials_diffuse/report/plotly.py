"""Plots of reports as plotly JSON: traces, layouts, and numbers rounded for JSON.

Titles are {"text": ...} objects, because plotly 6 ignores titles that are strings.
"""

from __future__ import annotations

import numpy as np


def rounded(values, digits: int = 5) -> list:
    """Numbers rounded to significant digits, as nested lists of the shape of the values.

    Args:
        values: (...) numbers
        digits: number of significant digits

    Returns:
        floats; None for NaN and infinity, which JSON does not have
    """
    values = np.asarray(values, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.floor(np.log10(np.abs(values)))
    # Powers of ten that are whole numbers: the quotient is then the nearest to the decimal number
    places = np.where(np.isfinite(size), digits - 1 - size, 0.0)
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    with np.errstate(invalid="ignore"):
        result = np.array(np.round(values * up / down) * down / up, dtype=object)
    result[~np.isfinite(values)] = None
    return result.tolist()


def line(name: str, x, y, mode: str = "lines", digits: int = 5, errors=None, **options) -> dict:
    """Trace of a curve or of points.

    Args:
        name: for the legend
        x: (N,) numbers or names
        y: (N,) numbers
        mode: lines, markers or lines+markers
        digits: significant digits of the numbers
        errors: (N,) standard deviations of y, drawn as error bars
        options: further entries of the trace, such as line={"dash": "dot"}
    """
    x = np.asarray(x)
    trace = {
        "type": "scatter",
        "x": x.tolist() if x.dtype.kind in "US" else rounded(x, digits),
        "y": rounded(y, digits),
        "mode": mode,
        "name": name,
        **options,
    }
    if errors is not None:
        trace["error_y"] = {"type": "data", "array": rounded(errors, digits), "visible": True}
    return trace


def image(x, y, values, digits: int = 5, colorscale: str = "Viridis", **options) -> dict:
    """Trace of an image in false colours.

    Args:
        x: (nx,) positions of the columns
        y: (ny,) positions of the rows
        values: (ny, nx), NaN where there is none
        digits: significant digits of the values
        colorscale: name of plotly's
        options: further entries of the trace, such as zmin=0
    """
    return {
        "type": "heatmap",
        "x": rounded(x, 6),
        "y": rounded(y, 6),
        "z": rounded(values, digits),
        "colorscale": colorscale,
        **options,
    }


def axes(title: str, x: str, y: str, xaxis=None, yaxis=None, **options) -> dict:
    """Layout of a plot with two axes.

    Args:
        title: of the plot
        x: title of the x axis
        y: title of the y axis
        xaxis: further entries of the x axis, such as {"type": "log"}
        yaxis: further entries of the y axis
        options: further entries of the layout
    """
    return {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}, **(xaxis or {})},
        "yaxis": {"title": {"text": y}, **(yaxis or {})},
        **options,
    }


def plot(traces: list[dict], layout: dict, help_text: str, **options) -> dict:
    """A plot for ReportSection.plots and for output.json.

    Args:
        traces: of `line` and `image`
        layout: of `axes`
        help_text: a sentence or two below the plot: what it shows and what to look for
        options: square=True gives the plot a square area on the page
    """
    return {"data": traces, "layout": layout, "help": help_text, **options}
