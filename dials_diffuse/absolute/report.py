"""Tables and plots of dials.diffuse_absolute."""

from __future__ import annotations

import numpy as np

from dials_diffuse.absolute.apply import AbsoluteScale
from dials_diffuse.absolute.composition import UnitCellInventory
from dials_diffuse.absolute.profile import RadialProfile
from dials_diffuse.absolute.total_scattering import Estimate, TotalScattering
from dials_diffuse.absolute.wilson import WilsonPlot
from dials_diffuse.report.html import ReportSection

# Pairs are tapered: below this |q| (1/A) the taper shows in the theory, not the crystal
THEORY_FROM = 0.25

_NAMES = {
    "high_q": "high q (Norman)",
    "krogh_moe": "Krogh-Moe",
    "fit": "fit of the profile",
    "wilson": "Wilson",
}


def estimate_rows(estimates: list[Estimate], chosen: str) -> list[list[str]]:
    """A row an estimate: scale, error and what the error is made of."""
    rows = [["estimate", "|q| (1/A)", "scale", "error", "error (%)", "error parts (%)", "used"]]
    for e in estimates:
        parts = ", ".join(f"{name} {100 * abs(v / e.scale):.2f}" for name, v in e.parts.items())
        rows.append(
            [
                _NAMES[e.name],
                f"{e.q_range[0]:.2f}-{e.q_range[1]:.2f}",
                f"{e.scale:.6g}",
                f"{e.error:.2g}",
                f"{100 * e.relative_error:.2f}",
                parts,
                "*" if e.name == chosen else "",
            ]
        )
    return rows


def scan_rows(estimates: list[Estimate]) -> list[list[str]]:
    """How each estimate depends on the range of |q|."""
    rows = [["estimate", "from (1/A)", "to (1/A)", "scale"]]
    for e in estimates:
        rows += [[_NAMES[e.name], f"{a:.2f}", f"{b:.2f}", f"{s:.6g}"] for a, b, s in e.scan]
    return rows


def _line(name: str, x, y, **more) -> dict:
    return {
        "x": [round(float(v), 5) for v in x],
        "y": [None if not np.isfinite(v) else float(f"{v:.6g}") for v in y],
        "name": name,
        "type": "scatter",
        "mode": "lines",
        **more,
    }


def _axes(title: str, x: str, y: str, **more) -> dict:
    return {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **more},
    }


def profile_plot(profile: RadialProfile, total: TotalScattering, absolute: AbsoluteScale) -> dict:
    """All radial profiles on one absolute scale."""
    s = absolute.scale
    theory = total.theory
    shown = np.where(profile.q >= THEORY_FROM, theory["total"], np.nan)
    lines = [
        _line("total, measured", profile.q, s * profile.total, line={"color": "#000000"}),
        _line(
            "diffuse + incoherent, measured",
            profile.q,
            s * profile.diffuse,
            line={"color": "#0072b2"},
        ),
        _line(
            "Bragg, measured",
            profile.q,
            s * (profile.total - profile.diffuse),
            line={"color": "#d55e00"},
        ),
        _line(
            "sum f^2", profile.q, theory["sum_f_squared"], line={"color": "#009e73", "dash": "dash"}
        ),
        _line(
            "incoherent", profile.q, theory["incoherent"], line={"color": "#cc79a7", "dash": "dash"}
        ),
        _line(
            "sum f^2 + pairs + incoherent",
            profile.q,
            shown,
            line={"color": "#999999", "dash": "dot"},
        ),
    ]
    return {
        "data": lines,
        "layout": _axes(
            "Radial profiles on the absolute scale",
            "|q| (1/A)",
            "electrons^2 per unit cell",
            rangemode="tozero",
        ),
        "help": "Total scattering (Bragg peaks included) should follow the grey line at high |q|; at low |q| interference "
        "of longer distances makes it wave about it. A measured total that stays above at high |q| is "
        "background that was not subtracted.",
    }


def ratio_plot(profile: RadialProfile, total: TotalScattering, absolute: AbsoluteScale) -> dict:
    """Measured over expected total scattering."""
    expected = np.where(profile.q >= THEORY_FROM, total.theory["total"], np.nan)
    ratio = absolute.scale * profile.total / expected
    error = absolute.scale * np.sqrt(profile.variance) / expected
    line = _line("total over theory", profile.q, ratio)
    line["error_y"] = {
        "type": "data",
        "array": [float(f"{e:.4g}") if np.isfinite(e) else 0 for e in error],
    }
    return {
        "data": [line],
        "layout": _axes(
            "Measured over expected total scattering", "|q| (1/A)", "ratio", range=[0.5, 1.5]
        ),
        "help": "1 where the composition and the scale explain the data. A slope at the right is background left in.",
    }


def scan_plot(estimates: list[Estimate]) -> dict:
    """Scale against the moving end of the range."""
    data = []
    for e in estimates:
        if not e.scan:
            continue
        moving_low = len({row[0] for row in e.scan}) > 1
        full_end = max(row[1] for row in e.scan)
        rows = [row for row in e.scan if not moving_low or row[1] == full_end]
        x = [row[0] if moving_low else row[1] for row in rows]
        label = "from" if moving_low else "to"
        data.append(
            _line(f"{_NAMES[e.name]} ({label})", x, [row[2] for row in rows], mode="lines+markers")
        )
    return {
        "data": data,
        "layout": _axes(
            "Scale against the range of |q|", "begin or end of the range (1/A)", "scale"
        ),
        "help": "An estimate that can be trusted does not depend on the range that it is made from.",
    }


def wilson_plot(plot: WilsonPlot) -> dict:
    """ln of mean |F|^2 over expectation against q^2, and the line through it."""
    good = (plot.mean > 0) & (plot.expected > 0)
    x = plot.q[good] ** 2
    y = np.log(plot.mean[good] / plot.expected[good])
    points = _line("mean |F|^2 / sum f^2", x, y, mode="markers")
    points["error_y"] = {
        "type": "data",
        "array": [float(f"{e:.4g}") for e in plot.error[good] / plot.mean[good]],
    }
    line = _line(
        f"scale {plot.scale:.4g}, B {plot.b_factor:.1f} A^2",
        x,
        -np.log(plot.scale) - plot.b_factor * x / 2,
    )
    return {
        "data": [points, line],
        "layout": _axes("Wilson plot", "|q|^2 (1/A^2)", "ln(mean |F|^2 / sum f^2)"),
        "help": "Bragg intensities integrated over the reciprocal cell of each node, in the unit of the map.",
    }


def report_sections(
    inventory: UnitCellInventory,
    profile: RadialProfile,
    total: TotalScattering | None,
    estimates: list[Estimate],
    wilson: WilsonPlot | None,
    absolute: AbsoluteScale,
    summary: list[list[str]],
    warnings: list[str],
) -> list[ReportSection]:
    """The sections of the HTML report."""
    text = f"From {inventory.source}. Matthews coefficient {inventory.matthews:.2f} A^3/Da, solvent {100 * inventory.solvent_content:.0f} %."
    sections = [
        ReportSection("Summary", " ".join(warnings), tables=[summary]),
        ReportSection("Contents of the unit cell", text, tables=[inventory.as_rows()]),
    ]
    plots = {}
    if total is not None:
        plots["absolute_profiles"] = profile_plot(profile, total, absolute)
        plots["absolute_ratio"] = ratio_plot(profile, total, absolute)
    if estimates:
        plots["absolute_scan"] = scan_plot(estimates)
    if wilson is not None:
        plots["wilson"] = wilson_plot(wilson)
    if plots:
        tables = [estimate_rows(estimates, absolute.method), scan_rows(estimates)]
        sections.append(ReportSection("Absolute scale", tables=tables, plots=plots))
    return sections
