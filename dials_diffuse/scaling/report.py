"""Plots of a scaling run, as plotly JSON, and its report."""

from __future__ import annotations

import os

import numpy as np

from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.report.html import ReportSection, write_report
from dials_diffuse.report.sections import section_plots
from dials_diffuse.scaling.merging.statistics import Statistics
from dials_diffuse.scaling.summary import (
    BEFORE_IS_NO_MEASURE,
    convergence_table,
    panel_table,
    shell_table,
    still_table,
    trial_table,
)

# A page with more curves than this can't be read
MOST_CURVES = 12
# and an image needs no more rows
MOST_ROWS = 100


def rounded(values) -> list:
    """Numbers with 5 significant digits, None for NaN (JSON has none)"""
    return [
        None if not np.isfinite(v) else float(f"{v:.5g}")
        for v in np.asarray(values, dtype=float).ravel()
    ]


def _plot(traces: list[dict], title: str, x: str, y: str, text: str, **layout) -> dict:
    return {
        "data": traces,
        "layout": {
            "title": {"text": title},
            "xaxis": {"title": {"text": x}, **layout.pop("xaxis", {})},
            "yaxis": {"title": {"text": y}, **layout.pop("yaxis", {})},
            **layout,
        },
        "help": text,
    }


def _lines(x, y, name: str, mode: str = "lines", **more) -> dict:
    return {"type": "scatter", "x": rounded(x), "y": rounded(y), "mode": mode, "name": name, **more}


def still_plots(scaled) -> dict[str, dict]:
    """b, agreement and chi^2 over the stills"""
    found = scaled.statistics
    used = np.flatnonzero(~scaled.merger.tables.excluded)
    components = [scaled.fit.models[i].components["scale"] for i in used]
    sigma = [c.parameter_esds[0] if c.parameter_esds else np.nan for c in components]
    b = _lines(used, [c.parameters[0] for c in components], "b", "markers")
    b["error_y"] = {"type": "data", "array": rounded(sigma), "visible": True}
    return {
        "scale_b": _plot(
            [b],
            "Scale of the stills",
            "still",
            "b",
            "The scale factor b of each still: how much crystal the beam has met, mean 1. Error bars are "
            "one standard deviation. Along a scan over one crystal b should vary smoothly.",
        ),
        "scale_still_cc": _plot(
            [_lines(used, found.still_cc[used], "CC", "markers")],
            "Correlation of each still with the map of all others (anisotropic part)",
            "still",
            "correlation",
            "The shell's mean is taken off before. It is low where a still is weak, and much lower than for "
            "stills of the same b where a still is misindexed or off its orientation.",
        ),
        "scale_still_chi2": _plot(
            [_lines(used, found.still_chi2[used], "chi2", "markers")],
            "chi2 of the stills",
            "still",
            "chi2",
            "Mean square of residuals over their expected standard deviation. 1 is perfect; a still far "
            "above does not follow the model.",
        ),
    }


def offset_plots(scaled) -> dict[str, dict]:
    """c(|q|) of some stills, or nothing"""
    if "offset" not in scaled.fit.components:
        return {}
    used = np.flatnonzero(~scaled.merger.tables.excluded)
    some = used[np.unique(np.linspace(0, len(used) - 1, MOST_CURVES).round().astype(int))]
    offset = scaled.merger.tables.offset
    q = offset.bin_centres()[::8]
    profile = scaled.merger.prior_of_q(q)
    traces = [_lines(q, scaled.merger.tables.c[i][::8], f"still {i}") for i in some]
    traces.append(_lines(q, profile, "mean intensity", line={"color": "black", "dash": "dot"}))
    plots = {
        "scale_offset": _plot(
            traces,
            "Offset c(|q|)",
            "|q| (1/Angstrom)",
            "photons/(s sr)",
            "What a still scatters on top of b times the merged intensity, as a function of |q| only: "
            "solvent, loop, air. The smallest c/b over the stills is 0 by convention, as far as errors can tell: what all "
            "stills have in proportion to b is part of the map. The dotted line is the mean intensity.",
        )
    }
    if "offset_series" in scaled.fit.models[0].configdict:
        plots["scale_offset_series"] = _offsets_over_p_order(scaled, used)
    return plots


def _offsets_over_p_order(scaled, used: np.ndarray) -> dict:
    """c of the stills in the order of the series"""
    places = [scaled.fit.models[i].configdict["offset_series"]["p_order"] for i in used]
    order = np.argsort(places, kind="stable")
    # a page need not hold thousands of rows
    rows = order[np.unique(np.linspace(0, len(order) - 1, MOST_ROWS).round().astype(int))]
    q = scaled.merger.tables.offset.bin_centres()[::8]
    image = {
        "type": "heatmap",
        "x": rounded(q),
        "y": rounded(np.array(places)[rows]),
        "z": [rounded(row) for row in scaled.merger.tables.c[used[rows]][:, ::8]],
        "colorscale": "Viridis",
    }
    return _plot(
        [image],
        "Offset c(|q|, p_order)",
        "|q| (1/Angstrom)",
        "p_order",
        "The offsets of the stills in the order of the series, in photons/(s sr): a smooth function of |q| and of "
        "p_order, less b times what is 0 by convention.",
    )


def _image(values: np.ndarray, extent, title: str, text: str, low: float, high: float) -> dict:
    x0, x1, y0, y1 = extent
    n = len(values)
    steps = (np.arange(n) + 0.5) / n
    return _plot(
        [
            {
                "type": "heatmap",
                "x": rounded(x0 + steps * (x1 - x0)),
                "y": rounded(y0 + steps * (y1 - y0)),
                "z": [rounded(row) for row in values],
                "zmin": low,
                "zmax": high,
                "colorscale": "RdBu",
                "reversescale": True,
            }
        ],
        title,
        "x",
        "y",
        text
        + " x and y are the direction of s1 around the beam, seen along the beam, with 2 sin(theta) as "
        "distance from the centre.",
        yaxis={"scaleanchor": "x", "autorange": "reversed"},
        xaxis={"constrain": "domain"},
    )


def _sensitivity_plot(table: np.ndarray, tables, title: str, text: str) -> dict:
    """Image of one table of a"""
    n = int(np.sqrt(len(table)))
    image = table.reshape(n, n)[::2, ::2].copy()
    reach = np.percentile(abs(image - 1), 98)
    text += " Towards the corners, where there are no observations, it is an extrapolation."
    return _image(image, tables.sensitivity.extent, title, text, 1 - reach, 1 + reach)


def detector_plots(scaled) -> dict[str, dict]:
    """a(x, y) if refined, residuals over direction, and by panel"""
    found = scaled.statistics
    plots = {}
    tables = scaled.merger.tables
    if tables.a is not None and tables.place is None:
        plots["scale_sensitivity"] = _sensitivity_plot(
            tables.a, tables, "Sensitivity a(x, y)", "The factor a that all stills share."
        )
    elif tables.a is not None:
        used = np.flatnonzero(~tables.excluded)
        places = [scaled.fit.models[i].configdict["sensitivity_series"]["p_order"] for i in used]
        order = used[np.argsort(places, kind="stable")]
        every = tables.a.reshape(tables.place.max() + 1, -1)
        for part, i in zip(("first", "middle", "last"), order[[0, len(order) // 2, -1]]):
            plots[f"scale_sensitivity_{part}"] = _sensitivity_plot(
                every[tables.place[i]],
                tables,
                f"Sensitivity a(x, y, p_order), {part} still of the series",
                f"The factor a of still {i}; along the series it changes smoothly.",
            )
    plots["scale_residuals_xy"] = _image(
        found.direction_residual,
        found.extent,
        "Residuals over the detector",
        "Sum of (observed - expected) over sum of expected. Structure that is larger than the grain of "
        "the noise is what the model lacks: try model.sensitivity or model.panel.",
        -0.1,
        0.1,
    )
    if scaled.survey.n_panels > 1:
        plots["scale_residuals_panel"] = _plot(
            [
                _lines(
                    np.arange(scaled.survey.n_panels), found.panel_residual, "residual", "markers"
                )
            ],
            "Residuals by panel",
            "panel",
            "(obs - calc)/calc",
            "Sum of (observed - expected) over sum of expected of each panel.",
        )
    return plots


def shell_plots(found: Statistics, unscaled: Statistics) -> dict[str, dict]:
    """CC1/2, R_meas and chi^2 by resolution shell, before and after scaling"""
    labels = [s.label for s in found.shells]

    def over_shells(statistics: Statistics, name: str, title: str, **more) -> dict:
        trace = _lines(
            range(len(labels)), [getattr(s, name) for s in statistics.shells], title, **more
        )
        trace["x"] = labels
        return trace

    before = {"line": {"dash": "dot"}}
    return {
        "scale_cc_half": _plot(
            [
                over_shells(found, "cc_half", "CC1/2"),
                over_shells(found, "cc_half_anisotropic", "anisotropic part"),
                over_shells(unscaled, "cc_half", "CC1/2 before scaling", **before),
                over_shells(unscaled, "cc_half_anisotropic", "anisotropic part before", **before),
            ],
            "Correlation of two halves of the stills",
            "d (Angstrom)",
            "correlation",
            "CC1/2 of the merged intensities by resolution shell. The isotropic part agrees nearly always: "
            "the curve of the anisotropic part (mean at each |q| taken off) tells how far the map is good. "
            + BEFORE_IS_NO_MEASURE,
        ),
        "scale_r_meas": _plot(
            [
                over_shells(found, "r_meas", "R_meas"),
                over_shells(unscaled, "r_meas", "before scaling", **before),
            ],
            "R_meas",
            "d (Angstrom)",
            "R_meas",
            "Sum of sqrt(n/(n-1)) |observed - expected| over sum of expected photons. At few photons an "
            "observation it is large for counting statistics alone.",
        ),
        "scale_chi2": _plot(
            [over_shells(found, "chi2", "chi2")],
            "chi2",
            "d (Angstrom)",
            "chi2",
            "Mean square of residuals over their expected standard deviation, error model included.",
        ),
    }


def normal_plot(found: Statistics, a: float) -> dict[str, dict]:
    """Distribution of residuals beside the normal one"""
    z = ((np.arange(len(found.histogram)) + 0.5) * 0.1 - 10.0) / a
    total = max(found.histogram.sum(), 1)
    width = 0.1 / a
    shown = abs(z) < 6.5
    return {
        "scale_normal": _plot(
            [
                _lines(z[shown], found.histogram[shown] / total / width, "observed", "markers"),
                _lines(z[shown], np.exp(-(z[shown] ** 2) / 2) / np.sqrt(2 * np.pi), "normal"),
            ],
            "Distribution of residuals over sigma",
            "residual/sigma",
            "density",
            "With few photons an observation the distribution is skewed as Poisson's; long tails on "
            "both sides are outliers, a broader bell is error that the model lacks.",
            yaxis={"type": "log", "range": [-5, 0]},
        )
    }


def map_plots(scaled) -> dict[str, dict]:
    """Sections of the merged map, each followed by the one before scaling"""
    merged = scaled.merged
    # n_obs is the same before scaling
    keep = merged.n_obs > 0
    voxel = unpack_voxels(merged.voxels[keep])
    plots = {}
    for anisotropic, prefix in ((False, "scale_section"), (True, "scale_anisotropic")):
        after, before = (
            section_plots(
                voxel,
                {"intensity": intensity[keep]},
                scaled.source.grid,
                remove_isotropic=anisotropic,
                prefix=prefix,
            )
            for intensity in (merged.intensity, scaled.merged_unscaled.intensity)
        )
        for name, plot in after.items():
            plots[name] = plot
            title = before[name]["layout"]["title"]
            title["text"] += ", before scaling"
            plots[f"{name}_before"] = before[name]
    return plots


def report_sections(scaled) -> list[ReportSection]:
    """Everything about a scaling run, for the HTML report and the JSON file"""
    found = scaled.statistics
    after, before = found.overall, scaled.unscaled.overall
    model = scaled.error_model
    sections = [
        ReportSection(
            "Merged intensities",
            f"{after.n_obs} observations of {np.count_nonzero(~scaled.merger.tables.excluded)} stills merged "
            f"into {after.n_voxels} voxels. CC1/2 {after.cc_half:.4f} ({before.cc_half:.4f} before scaling), of "
            f"the anisotropic part {after.cc_half_anisotropic:.4f} ({before.cc_half_anisotropic:.4f}), R_meas "
            f"{after.r_meas:.4f} ({before.r_meas:.4f}). {scaled.merger.n_outliers()} outliers.",
            tables=[shell_table(found)],
            plots=shell_plots(found, scaled.unscaled),
        ),
        ReportSection(
            "Stills",
            tables=[still_table(scaled)],
            plots={**still_plots(scaled), **offset_plots(scaled)},
        ),
        ReportSection("Detector", tables=[panel_table(scaled)], plots=detector_plots(scaled)),
        ReportSection(
            "Fit",
            f"Error model: sigma'^2 = a^2 (sigma^2 + (b I)^2) with a = {model.a:.3f} and b = {model.b:.4f}; chi2 "
            f"{scaled.chi2_before_error_model:.3f} with counting statistics alone.",
            tables=[convergence_table(scaled.fit.cycles), trial_table(scaled.fit.trials)],
            plots=normal_plot(found, model.a),
        ),
        ReportSection(
            "Map",
            "Sections of the map as scaled, and, below each, as the same observations give it with all "
            "scales 1.",
            plots=map_plots(scaled),
        ),
    ]
    if scaled.excluded:
        rows = [["Still", "Experiment", "Reason"]]
        for still, reason in scaled.excluded.items():
            rows.append([still, scaled.source.experiments[still].identifier, reason])
        sections.insert(1, ReportSection("Excluded stills", tables=[rows]))
    return sections


def write_html(path: str | os.PathLike, sections: list[ReportSection]) -> None:
    """Write the report"""
    write_report(path, "dials.diffuse_scale", sections)
