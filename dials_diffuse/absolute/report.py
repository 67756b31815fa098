"""The log, the report and the numbers of dials.diffuse_absolute."""

from __future__ import annotations

import logging

import numpy as np

from dials.util import tabulate

from dials_diffuse.absolute.contents.form_factors import atomic_number
from dials_diffuse.absolute.contents.inventory import UnitCellInventory
from dials_diffuse.absolute.estimate import Estimate
from dials_diffuse.absolute.profile import RadialProfile
from dials_diffuse.absolute.result import AbsoluteResult
from dials_diffuse.absolute.wilson import WilsonPlot
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.io.model_copy import models_to_json
from dials_diffuse.report.citations import ABSOLUTE_SCALE
from dials_diffuse.report.html import ReportSection
from dials_diffuse.report.plotly import axes, line, plot, rounded

logger = logging.getLogger("dials.diffuse.absolute.report")

# Below this |q| (1/A) the taper of the pairs shows in the theory
THEORY_FROM = 0.25

_NAMES = {
    "high_q": "high q (Norman)",
    "krogh_moe": "Krogh-Moe",
    "fit": "fit of the profile",
    "wilson": "Wilson",
}


def inventory_rows(inventory: UnitCellInventory) -> list[list[str]]:
    """A row for each part of the contents of the unit cell, and their sum."""
    elements = sorted(inventory.atoms, key=atomic_number)
    rows = [["", "atoms", "electrons", "mass (kDa)", *elements]]
    contents = [(part.name, part.atoms, part.electrons, part.mass) for part in inventory.parts]
    contents.append(("unit cell", inventory.atoms, inventory.electrons, inventory.mass))
    for name, atoms, electrons, mass in contents:
        numbers = [f"{atoms.get(element, 0):.0f}" for element in elements]
        total = f"{sum(atoms.values()):.0f}"
        rows.append([name, total, f"{electrons:.0f}", f"{mass / 1000:.2f}", *numbers])
    return rows


def estimate_rows(estimates: list[Estimate], chosen: str) -> list[list[str]]:
    """A row for each estimate: scale, error and the parts of the error."""
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
    """Dependence of each estimate on the range of |q|."""
    rows = [["estimate", "from (1/A)", "to (1/A)", "scale"]]
    for e in estimates:
        rows += [[_NAMES[e.name], f"{a:.2f}", f"{b:.2f}", f"{s:.6g}"] for a, b, s in e.scan]
    return rows


def summary_rows(result: AbsoluteResult) -> list[list[str]]:
    """Scale and error, name and value."""
    a, edges = result.absolute, result.data.profile.edges
    percent = f" ({100 * a.error / a.scale:.2f} %)" if np.isfinite(a.error) else ""
    return [
        ["quantity", "value"],
        ["absolute scale (e^2 per unit cell / unit of the map)", f"{a.scale:.6g}"],
        ["its standard error", f"{a.error:.2g}{percent}"],
        ["from", a.method],
        ["Z, electrons per unit cell", f"{result.inventory.electrons:.0f}"],
        ["range of |q| of the profile (1/A)", f"{edges[0]:.3f}-{edges[-1]:.3f}"],
    ]


def negative_voxels(table) -> tuple[int, int, int]:
    """Voxels of the absolute map, its negative ones, and those below -3 sigma."""
    intensity = as_numpy(table["intensity"])
    sigma = np.sqrt(as_numpy(table["variance"]))
    return len(intensity), int((intensity < 0).sum()), int((intensity < -3 * sigma).sum())


def integrated_rows(result: AbsoluteResult) -> list[list[str]]:
    """Integrated reflections compared with the nodes of the grid, name and value."""
    comparison, wilson = result.integrated, result.integrated_wilson
    rows = [
        ["quantity", "value"],
        ["nodes in common", f"{comparison.common}"],
        ["partiality", comparison.partiality],
        ["correlation of merged I/partiality with the grid", f"{comparison.correlation:.3f}"],
    ]
    if wilson is not None:
        rows += [
            ["scale by Wilson's statistics", f"{wilson.scale:.6g} +- {wilson.error:.2g}"],
            ["B (A^2)", f"{wilson.details['b_factor']:.1f}"],
        ]
    return rows


def _table(rows: list[list]) -> str:
    return tabulate(rows, headers="firstrow")


def log_result(result: AbsoluteResult) -> None:
    """Log tables and warnings."""
    inventory = result.inventory
    logger.info(
        "Contents of the unit cell, from %s:\n%s",
        inventory.source,
        _table(inventory_rows(inventory)),
    )
    logger.info(
        "Matthews coefficient %.2f A^3/Da, solvent content %.2f\n",
        inventory.matthews,
        inventory.solvent_content,
    )
    if result.estimates:
        estimates = _table(estimate_rows(result.estimates, result.absolute.method))
        logger.info("Estimates of the absolute scale:\n%s\n", estimates)
        scan = _table(scan_rows(result.estimates))
        logger.info("Dependence on the range of |q|:\n%s\n", scan)
    if result.total is not None:
        logger.info("B factor of bonded atoms' relative motion: %.1f A^2", result.total.b_relative)
    if result.wilson is not None:
        logger.info(
            "Wilson plot: B = %.1f A^2 from %d nodes\n",
            result.wilson.details["b_factor"],
            result.wilson.details["nodes"],
        )
    if result.integrated is not None:
        logger.info("Integrated reflections:\n%s\n", _table(integrated_rows(result)))
    for warning in result.warnings:
        logger.warning("Warning: %s", warning)
    logger.info("%s\n", _table(summary_rows(result)))
    logger.info(
        "Please cite these articles for the absolute scale:\n%s\n",
        "\n".join(f"  {article}" for article in ABSOLUTE_SCALE),
    )
    logger.info(
        "Of %d voxels %d are negative, %d of them by more than 3 sigma",
        *negative_voxels(result.table),
    )


def numbers(result: AbsoluteResult) -> dict:
    """The content of the JSON file."""
    absolute, inventory, profile = result.absolute, result.inventory, result.data.profile
    comparison, wilson = result.integrated, result.integrated_wilson
    return {
        "scale": absolute.scale,
        "error": absolute.to_dict()["error"],
        "method": absolute.method,
        "inventory": {
            name: getattr(inventory, name)
            for name in "source atoms electrons mass volume matthews solvent_content warnings".split()
        },
        "estimates": {
            e.name: {
                "scale": e.scale,
                "error": e.error,
                "q_range": list(e.q_range),
                "scan": [list(row) for row in e.scan],
                "error_parts": e.parts,
                "details": e.details,
            }
            for e in result.estimates
        },
        "integrated": None
        if comparison is None
        else {
            "common": comparison.common,
            "correlation": comparison.correlation,
            "partiality": comparison.partiality,
            "scale": None if wilson is None else wilson.scale,
        },
        "warnings": result.warnings,
        "profile": {
            name: getattr(profile, name).tolist() for name in ("q", "total", "diffuse", "variance")
        },
        "models": models_to_json(result.data.experiments),
    }


def sections(result: AbsoluteResult) -> list[ReportSection]:
    """The sections of the HTML report."""
    inventory = result.inventory
    labels = ("voxels of the map", "negative voxels", "below -3 sigma")
    counts = [[label, f"{n}"] for label, n in zip(labels, negative_voxels(result.table))]
    parts = [
        ReportSection("Summary", " ".join(result.warnings), tables=[summary_rows(result) + counts]),
        ReportSection(
            "Contents of the unit cell",
            f"From {inventory.source}. Matthews coefficient {inventory.matthews:.2f} A^3/Da, "
            f"solvent {100 * inventory.solvent_content:.0f} %.",
            tables=[inventory_rows(inventory)],
        ),
    ]
    plots = {}
    if result.total is not None:
        args = result.data.profile, result.total.theory, result.absolute.scale
        plots["absolute_profiles"] = profile_plot(*args)
        plots["absolute_ratio"] = ratio_plot(*args)
    if result.estimates:
        plots["absolute_scan"] = scan_plot(result.estimates)
    if result.wilson_plot is not None:
        plots["wilson"] = wilson_plot(result.wilson_plot)
    if plots:
        tables = [
            estimate_rows(result.estimates, result.absolute.method),
            scan_rows(result.estimates),
        ]
        parts.append(ReportSection("Absolute scale", tables=tables, plots=plots))
    return parts


def _line(name: str, x, y, **options) -> dict:
    """As plotly.line, with x rounded to five decimals and y to six digits."""
    return line(name, np.round(x, 5), y, digits=6, **options)


def _error_bars(errors: np.ndarray) -> np.ndarray:
    return np.array(rounded(np.where(np.isfinite(errors), errors, 0.0), 4), dtype=float)


def profile_plot(profile: RadialProfile, theory: dict[str, np.ndarray], scale: float) -> dict:
    """All radial profiles on the absolute scale.

    Args:
        theory: of TotalScattering
        scale: electrons^2 per unit cell for one unit of the profile
    """
    q, total, diffuse = profile.q, scale * profile.total, scale * profile.diffuse
    expected = np.where(q >= THEORY_FROM, theory["total"], np.nan)
    bragg = scale * (profile.total - profile.diffuse)
    traces = [
        _line(name, q, y, line={"color": colour, **dash})
        for name, y, colour, dash in (
            ("total, measured", total, "#000000", {}),
            ("diffuse + incoherent, measured", diffuse, "#0072b2", {}),
            ("Bragg, measured", bragg, "#d55e00", {}),
            ("sum f^2", theory["sum_f_squared"], "#009e73", {"dash": "dash"}),
            ("incoherent", theory["incoherent"], "#cc79a7", {"dash": "dash"}),
            ("sum f^2 + pairs + incoherent", expected, "#999999", {"dash": "dot"}),
        )
    ]
    layout = axes(
        "Radial profiles on the absolute scale",
        "|q| (1/A)",
        "electrons^2 per unit cell",
        yaxis={"rangemode": "tozero"},
    )
    return plot(
        traces,
        layout,
        "Total scattering (Bragg peaks included) should follow the grey line at high |q|. At low |q| it "
        "oscillates about the line, because longer distances interfere. A measured total that stays above "
        "the line at high |q| shows background that was not subtracted.",
    )


def ratio_plot(profile: RadialProfile, theory: dict[str, np.ndarray], scale: float) -> dict:
    """Measured over expected total scattering; arguments as of profile_plot."""
    expected = np.where(profile.q >= THEORY_FROM, theory["total"], np.nan)
    errors = _error_bars(scale * np.sqrt(profile.variance) / expected)
    ratio = scale * profile.total / expected
    return plot(
        [_line("total over theory", profile.q, ratio, errors=errors)],
        axes(
            "Measured over expected total scattering",
            "|q| (1/A)",
            "ratio",
            yaxis={"range": [0.5, 1.5]},
        ),
        "The ratio is 1 where the composition and the scale explain the data. A slope at high |q| shows "
        "background that was not subtracted.",
    )


def scan_plot(estimates: list[Estimate]) -> dict:
    """Scale against the end of the range that varies."""
    traces = []
    for e in estimates:
        if not e.scan:
            continue
        low_varies = len({row[0] for row in e.scan}) > 1
        full_end = max(row[1] for row in e.scan)
        rows = [row for row in e.scan if not low_varies or row[1] == full_end]
        x = [row[0] if low_varies else row[1] for row in rows]
        name = f"{_NAMES[e.name]} ({'from' if low_varies else 'to'})"
        traces.append(_line(name, x, [row[2] for row in rows], mode="lines+markers"))
    return plot(
        traces,
        axes("Scale against the range of |q|", "begin or end of the range (1/A)", "scale"),
        "A reliable estimate does not depend on its range of |q|.",
    )


def wilson_plot(wilson: WilsonPlot) -> dict:
    """ln of mean |F|^2 over expectation against q^2, and the line through it."""
    good = (wilson.mean > 0) & (wilson.expected > 0)
    x = wilson.q[good] ** 2
    y = np.log(wilson.mean[good] / wilson.expected[good])
    errors = _error_bars(wilson.error[good] / wilson.mean[good])
    name = f"scale {wilson.scale:.4g}, B {wilson.b_factor:.1f} A^2"
    fitted = -np.log(wilson.scale) - wilson.b_factor * x / 2
    return plot(
        [
            _line("mean |F|^2 / sum f^2", x, y, mode="markers", errors=errors),
            _line(name, x, fitted),
        ],
        axes("Wilson plot", "|q|^2 (1/A^2)", "ln(mean |F|^2 / sum f^2)"),
        "Bragg intensities integrated over the reciprocal cell of each node, in the unit of the map.",
    )
