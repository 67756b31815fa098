"""What was simulated, in a table, plots and numbers."""

from __future__ import annotations

import logging

import numpy as np

from dials.util import tabulate

from dials_diffuse.io.json_file import write_json
from dials_diffuse.report.html import ReportSection, plots_of, write_report
from dials_diffuse.simulation.forward import COMPONENTS
from dials_diffuse.simulation.simulate import SimulatedSet

logger = logging.getLogger("dials.diffuse.simulation")


def _rows(result: SimulatedSet) -> list[list]:
    settings, simulator = result.settings, result.simulator
    scales = [lattice.scale for still in simulator.stills for lattice in still.lattices]
    flags = result.reflections.flags
    table = result.reflections
    strong = table.get_flags(flags.strong).count(True) if len(table) else 0
    return [
        ["images", len(simulator.stills)],
        ["experiments", len(result.experiments)],
        ["empty shots", len(simulator.empties)],
        ["panels", len(simulator.detector)],
        ["resolution at the corners", f"{simulator.d_min / 0.97:.2f} A"],
        ["photons a pixel, mean", f"{np.mean(result.mean_photons):.3f}"],
        ["photons/(s sr) of one electron^2", f"{simulator.photons_per_electron2:.6g}"],
        ["scales b, lowest to highest", f"{min(scales):.3f} to {max(scales):.3f}"],
        ["reflections (strong)", f"{len(table)} ({strong})"],
        ["seed", settings.seed],
    ]


def overview(result: SimulatedSet) -> str:
    """The main numbers as a table for the log."""
    return tabulate(_rows(result))


def _profiles(result: SimulatedSet) -> dict:
    """Expected photons of the first still by cause, against |q|."""
    simulator = result.simulator
    still = simulator.stills[0]
    expected = simulator.expected(still)
    q = np.concatenate([values.ravel() for values in simulator.q_lengths(still)])
    bins = np.linspace(0, q.max(), 61)
    number = np.maximum(np.histogram(q, bins)[0], 1)
    centres = (bins[1:] + bins[:-1]) / 2
    data = []
    for name in COMPONENTS:
        photons = np.concatenate([panel.ravel() for panel in expected[name]])
        if photons.any():
            profile = np.histogram(q, bins, weights=photons)[0] / number
            data.append(
                {
                    "x": np.round(centres, 4).tolist(),
                    "y": [float(f"{value:.4g}") for value in profile],
                    "name": name,
                    "type": "scatter",
                }
            )
    return {
        "data": data,
        "layout": {
            "title": "Expected photons of the first still",
            "xaxis": {"title": "|q| (1/A)"},
            "yaxis": {"title": "photons a pixel"},
        },
        "help": "Mean over rings of the photons expected from each cause, before noise.",
    }


def _section(result: SimulatedSet) -> ReportSection:
    simulator = result.simulator
    image = simulator.image(simulator.stills[0])[0]
    top = float(np.percentile(image, 99)) or 1.0
    step = max(1, max(image.shape) // 400)
    scales = [lattice.scale for still in simulator.stills for lattice in still.lattices]
    plots = {
        "simulated_image": {
            "data": [
                {
                    "z": image[::step, ::step].tolist(),
                    "type": "heatmap",
                    "zmin": float(image.min()),
                    "zmax": top,
                    "colorscale": "Viridis",
                }
            ],
            "layout": {
                "title": "First panel of the first still",
                "xaxis": {"title": "fast (px)"},
                "yaxis": {"title": "slow (px)", "autorange": "reversed"},
            },
            "help": "Counts; the colours end at the brightest hundredth of the pixels.",
        },
        "simulated_profiles": _profiles(result),
        "simulated_scales": {
            "data": [{"x": list(range(len(scales))), "y": scales, "type": "scatter"}],
            "layout": {
                "title": "Scale b of every experiment",
                "xaxis": {"title": "experiment"},
                "yaxis": {"title": "b"},
            },
            "help": "The scale factors that a reduction should find; their mean is 1.",
        },
    }
    rows = [["", ""], *[[str(cell) for cell in row] for row in _rows(result)]]
    return ReportSection(title="Simulated stills", tables=[rows], plots=plots)


def write(result: SimulatedSet, html: str | None, json_file: str | None) -> None:
    """Write the report and its numbers; None for not."""
    sections = [_section(result)]
    if html:
        logger.info("Saving the report to %s", html)
        write_report(html, "Simulated stills", sections)
    if json_file:
        logger.info("Saving its numbers to %s", json_file)
        numbers = {str(name): value for name, value in _rows(result)}
        write_json(json_file, {"summary": numbers, "plots": plots_of(sections)})
