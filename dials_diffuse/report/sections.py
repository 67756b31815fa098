"""Sections through a map, as plotly heatmaps for reports and as PNG."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dials_diffuse.grid.shells import isotropic_part
from dials_diffuse.grid.symmetry import reciprocal_operators
from dials_diffuse.grid.voxel_grid import VoxelGrid
from dials_diffuse.io.atomic import replacing
from dials_diffuse.report import plotly
from dials_diffuse.report.html import DIFFERENCE_COLOURS, INTENSITY_COLOURS

_NUMBER = r"-?\d+(?:\.\d+)?"
_SECTION = re.compile(rf"(h|{_NUMBER})(k|{_NUMBER})(l|{_NUMBER})")

# A browser draws no more than this many elements a side; finer sections are averaged down
_MAX_SIDE = 400


@dataclass
class MapSection:
    """A plane of a map.

    Attributes:
        name: such as hk0
        x_name, y_name: the axes that vary: h, k or l
        x, y: their values in r.l.u.
        image: (len(y), len(x)), NaN where unmeasured
        level: the r.l.u. of the axis that is fixed (centre of the voxels)
        aspect: length of the y axis' reciprocal cell edge over that of the x axis
        angle: angle between the two, degrees
    """

    name: str
    x_name: str
    y_name: str
    x: np.ndarray
    y: np.ndarray
    image: np.ndarray
    level: float
    aspect: float
    angle: float


def parse_section(name: str) -> tuple[int, float]:
    """A section's fixed axis (0, 1 or 2) and its level in r.l.u.

    "hk0" is (2, 0.0), "h1.5l" is (1, 1.5).

    Raises:
        ValueError: not two of h, k, l in their places and a number in the third.
    """
    match = _SECTION.fullmatch(name.strip())
    fixed = [i for i in range(3) if match and match.group(i + 1) != "hkl"[i]]
    if len(fixed) != 1:
        raise ValueError(f"Unknown section {name!r}: give such as hk0, h0l, 0kl or hk1.333")
    return fixed[0], float(match.group(fixed[0] + 1))


def map_section(
    voxel: np.ndarray, values: np.ndarray, grid: VoxelGrid, name: str
) -> MapSection | None:
    """The plane of the expanded map that is nearest to a section.

    Args:
        voxel: (N, 3) voxels of the asymmetric unit
        values: (N,)
        grid: their grid
        name: hk0, h0l, 0kl or any other level, as in parse_section

    Returns:
        None where the map has no voxel on that plane
    """
    fixed, level = parse_section(name)
    layer = int(np.floor(level * grid.subdivide[fixed] + 0.5))
    x_axis, y_axis = (i for i in range(3) if i != fixed)
    voxel = np.asarray(voxel, dtype=np.int64)
    places, found = [], []
    for operator in reciprocal_operators(grid.laue_group):
        on_layer = np.flatnonzero(voxel @ operator[fixed] == layer)
        places.append(voxel[on_layer] @ operator[[x_axis, y_axis]].T)
        found.append(values[on_layer])
    place, value = np.concatenate(places), np.concatenate(found)
    if len(place) == 0:
        return None
    reach = abs(place).max(axis=0)
    image = np.full((2 * reach[1] + 1, 2 * reach[0] + 1), np.nan)
    image[place[:, 1] + reach[1], place[:, 0] + reach[0]] = value
    edges = grid.unit_cell.reciprocal_parameters()
    return MapSection(
        name=name,
        x_name="hkl"[x_axis],
        y_name="hkl"[y_axis],
        x=np.arange(-reach[0], reach[0] + 1) / grid.subdivide[x_axis],
        y=np.arange(-reach[1], reach[1] + 1) / grid.subdivide[y_axis],
        image=image,
        level=layer / grid.subdivide[fixed],
        aspect=edges[y_axis] / edges[x_axis],
        angle=edges[3 + fixed],
    )


def map_sections(
    voxel: np.ndarray,
    values: np.ndarray,
    grid: VoxelGrid,
    which: Sequence[str],
    remove_isotropic: bool = False,
) -> list[MapSection]:
    """Several sections, those without a voxel left out; arguments as of section_plots."""
    values = np.asarray(values, dtype=float)
    if remove_isotropic and len(values):
        values = values - isotropic_part(voxel, values, grid)
    sections = (map_section(voxel, values, grid, name) for name in which)
    return [section for section in sections if section is not None]


def colour_range(image: np.ndarray, difference: bool = False) -> tuple[float, float]:
    """Limits that keep a few bright or noisy voxels from taking all the colours.

    The 1st and 99th percentile; for differences symmetric about 0.
    """
    finite = image[np.isfinite(image)]
    if not finite.size:
        return 0.0, 1.0
    if difference:
        limit = float(np.percentile(abs(finite), 98))
        low, high = -limit, limit
    else:
        low, high = (float(p) for p in np.percentile(finite, (1, 99)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def section_plots(
    voxel: np.ndarray,
    columns: dict[str, np.ndarray],
    grid: VoxelGrid,
    which: Sequence[str] = ("hk0", "h0l", "0kl"),
    remove_isotropic: bool = False,
    column: str = "intensity",
    units: str = "photons/(s sr)",
    prefix: str = "section",
) -> dict[str, dict]:
    """Sections of a merged table for ReportSection.plots.

    Args:
        voxel: (N, 3) voxels of the asymmetric unit
        columns: name -> (N,)
        grid: their grid
        which: sections, as in parse_section
        remove_isotropic: subtract the mean at each |q|, so that the rest shows
        column: which of the columns
        units: for the colour bar
        prefix: of the plots' ids

    Returns:
        id -> plotly JSON; sections without a voxel are left out

    Raises:
        ValueError: unknown section.
    """
    kind = "_anisotropic" if remove_isotropic else ""
    return {
        f"{prefix}_{column}_{section.name}{kind}": _heatmap(
            section, column, units, remove_isotropic
        )
        for section in map_sections(voxel, columns[column], grid, which, remove_isotropic)
        if np.isfinite(section.image).any()
    }


def _heatmap(section: MapSection, column: str, units: str, difference: bool) -> dict:
    x, y, values = _averaged_down(section)
    low, high = colour_range(section.image, difference)
    oblique = (
        f" The axes are drawn at right angles; they are {section.angle:.1f} degrees apart."
        if abs(section.angle - 90) > 0.05
        else ""
    )
    colours = plotly.image(
        x,
        y,
        values,
        digits=4,
        colorscale=DIFFERENCE_COLOURS if difference else INTENSITY_COLOURS,
        zmin=low,
        zmax=high,
        colorbar={"title": {"text": units, "side": "right"}},
    )
    layout = plotly.axes(
        f"{section.name}: {content_label(column, difference)}",
        f"{section.x_name} (r.l.u.)",
        f"{section.y_name} (r.l.u.)",
        xaxis={"constrain": "domain"},
        yaxis={"scaleanchor": "x", "scaleratio": section.aspect, "constrain": "domain"},
        plot_bgcolor="#dddddd",
    )
    subtracted = " The mean over all voxels of the same |q| is subtracted." if difference else ""
    help_text = (
        "Grey: not measured. The colours run from the 1st to the 99th percentile."
        + subtracted
        + oblique
    )
    return plotly.plot([colours], layout, help_text, square=True)


def _averaged_down(section: MapSection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and image, averaged over blocks where there is more than can be drawn."""
    ny, nx = section.image.shape
    by, bx = -(-ny // _MAX_SIDE), -(-nx // _MAX_SIDE)
    if by == bx == 1:
        return section.x, section.y, section.image
    shape = (-(-ny // by), by, -(-nx // bx), bx)
    padded = np.full((shape[0] * by, shape[2] * bx), np.nan)
    padded[:ny, :nx] = section.image
    blocks = padded.reshape(shape)
    seen = np.isfinite(blocks).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        image = np.nansum(blocks, axis=(1, 3)) / np.where(seen, seen, np.nan)
    x = section.x[0] + (np.arange(shape[2]) * bx + (bx - 1) / 2) * (section.x[1] - section.x[0])
    y = section.y[0] + (np.arange(shape[0]) * by + (by - 1) / 2) * (section.y[1] - section.y[0])
    return x, y, image


def content_label(column: str, difference: bool) -> str:
    """What a section shows of a column"""
    return f"{column} less its mean at |q|" if difference else column


def section_png(
    section: MapSection, label: str = "photons/(s sr)", difference: bool = False
) -> bytes:
    """A section as a PNG image, its axes at their true angle.

    Args:
        section: from map_section
        label: of the colour bar
        difference: colours symmetric about 0
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    low, high = colour_range(section.image, difference)
    step_x = section.x[1] - section.x[0] if len(section.x) > 1 else 1.0
    step_y = section.y[1] - section.y[0] if len(section.y) > 1 else 1.0
    x, y = np.meshgrid(
        np.append(section.x, section.x[-1] + step_x) - step_x / 2,
        np.append(section.y, section.y[-1] + step_y) - step_y / 2,
    )
    angle = np.radians(section.angle)
    y = y * section.aspect
    figure = Figure(figsize=(8, 7), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("#dddddd")
    image = axes.pcolormesh(
        x + y * np.cos(angle),
        y * np.sin(angle),
        np.ma.masked_invalid(section.image),
        cmap="RdBu_r" if difference else "viridis",
        vmin=low,
        vmax=high,
        rasterized=True,
    )
    axes.set_aspect("equal")
    _show_measured(axes, section, step_x, step_y * section.aspect)
    axes.set_title(f"{section.name}, level {section.level:g}")
    if abs(section.angle - 90) < 0.05:
        axes.set_yticks(*_ticks(axes, section.aspect))
        axes.set_xlabel(f"{section.x_name} (r.l.u.)")
        axes.set_ylabel(f"{section.y_name} (r.l.u.)")
    else:
        axes.set_yticks([])
        axes.set_xlabel(
            f"{section.x_name} (r.l.u.) where {section.y_name} is 0; {section.y_name} grows upwards, "
            f"at {section.angle:.1f} degrees"
        )
    figure.colorbar(image, ax=axes, label=label)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _show_measured(axes, section: MapSection, margin_x: float, margin_y: float) -> None:
    """Limits around the measured elements: oblique axes leave much of the picture empty."""
    row, column = np.nonzero(np.isfinite(section.image))
    if not len(row):
        return
    angle = np.radians(section.angle)
    y = section.y[row] * section.aspect
    x = section.x[column] + y * np.cos(angle)
    y = y * np.sin(angle)
    axes.set_xlim(x.min() - margin_x, x.max() + margin_x)
    axes.set_ylim(y.min() - margin_y, y.max() + margin_y)


def _ticks(axes, aspect: float) -> tuple[list[float], list[str]]:
    """The y axis is drawn in units of the x axis: label it in its own."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_ylim()
    values = MaxNLocator(9).tick_values(low / aspect, high / aspect)
    values = [v for v in values if low / aspect <= v <= high / aspect]
    return [v * aspect for v in values], [f"{v:g}" for v in values]


def write_section_pngs(
    folder: str | os.PathLike,
    sections: Sequence[MapSection],
    label: str = "photons/(s sr)",
    difference: bool = False,
    prefix: str = "section",
) -> list[str]:
    """Write sections as PREFIX_hk0.png ... into a folder and return their paths.

    Args:
        sections: from map_sections
        label, difference: as of section_png
    """
    paths = []
    for section in sections:
        path = os.path.join(folder, f"{prefix}_{section.name}.png")
        with replacing(path) as temporary, open(temporary, "wb") as handle:
            handle.write(section_png(section, label, difference))
        paths.append(path)
    return paths
