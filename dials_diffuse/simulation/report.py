"""Report of dials.diffuse_simulate: a table of numbers, the first image, profiles and scales."""

from __future__ import annotations

import numpy as np

from dials_diffuse.report import plotly
from dials_diffuse.report.html import ReportSection
from dials_diffuse.simulation.forward import COMPONENTS
from dials_diffuse.simulation.simulate import SimulatedSet


def _scales(result: SimulatedSet) -> list[float]:
    """Scale b of every experiment."""
    return [lattice.scale for still in result.simulator.stills for lattice in still.lattices]


def rows(result: SimulatedSet) -> list[list]:
    """The main numbers, each with its name."""
    simulator, scales = result.simulator, _scales(result)
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
        ["seed", simulator.settings.seed],
    ]


def _profiles(result: SimulatedSet) -> dict:
    """Plot of the expected photons of the first still by component, against |q|."""
    simulator = result.simulator
    still = simulator.stills[0]
    expected = simulator.expected(still)
    q = np.concatenate([values.ravel() for values in simulator.q_lengths(still)])
    bins = np.linspace(0, q.max(), 61)
    number = np.maximum(np.histogram(q, bins)[0], 1)
    centres = (bins[1:] + bins[:-1]) / 2
    traces = []
    for name in COMPONENTS:
        photons = np.concatenate([panel.ravel() for panel in expected[name]])
        if photons.any():
            profile = np.histogram(q, bins, weights=photons)[0] / number
            traces.append(plotly.line(name, centres, profile, digits=4))
    return plotly.plot(
        traces,
        plotly.axes("Expected photons of the first still", "|q| (1/A)", "photons a pixel"),
        "Mean over rings of the expected photons of each component, before noise.",
    )


def sections(result: SimulatedSet) -> list[ReportSection]:
    """The report: one section with the table and three plots."""
    simulator = result.simulator
    image = simulator.image(simulator.stills[0])[0]
    top = float(np.percentile(image, 99)) or 1.0
    step = max(1, max(image.shape) // 400)
    scales = _scales(result)
    counts = plotly.image(
        step * np.arange(image[::step, ::step].shape[1]),
        step * np.arange(image[::step, ::step].shape[0]),
        image[::step, ::step],
        zmin=float(image.min()),
        zmax=top,
    )
    plots = {
        "simulated_image": plotly.plot(
            [counts],
            plotly.axes(
                "First panel of the first still",
                "fast (px)",
                "slow (px)",
                yaxis={"autorange": "reversed"},
            ),
            "Counts; the colour scale ends at the 99th percentile.",
        ),
        "simulated_profiles": _profiles(result),
        "simulated_scales": plotly.plot(
            [plotly.line("b", np.arange(len(scales)), scales, mode="lines+markers", digits=12)],
            plotly.axes("Scale b of every experiment", "experiment", "b"),
            "The true scale factors; their mean is 1.",
        ),
    }
    table = [["", ""], *[[str(cell) for cell in row] for row in rows(result)]]
    return [ReportSection(title="Simulated stills", tables=[table], plots=plots)]


def numbers(result: SimulatedSet) -> dict:
    """The main numbers by name, for output.json."""
    return {"summary": dict(rows(result))}
