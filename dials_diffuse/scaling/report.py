"""Results of scaling in the log, the HTML report and the JSON file."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from dials.util import tabulate

from dials_diffuse.grid.expand import unpack_voxels
from dials_diffuse.model.components import N_RADIAL
from dials_diffuse.report.html import ReportSection
from dials_diffuse.report.plotly import axes, line, plot, rounded
from dials_diffuse.report.sections import section_plots
from dials_diffuse.scaling.merging.statistics import Statistics
from dials_diffuse.scaling.scale import Scaled

logger = logging.getLogger("dials.diffuse.scaling.report")

# Most curves of a plot, and rows of an image, that can be read
MOST_CURVES = 12
MOST_ROWS = 100

HIGHER_BEFORE = (
    "CC1/2 can be higher before scaling than after it although the map is worse: if both half sets hold "
    "stills of the same mix of scales in a voxel, they agree on the effect of the scales."
)

# Column of a table -> (attribute or key, format)
SHELL_COLUMNS = {
    "d (A)": ("label", ""),
    "Observations": ("n_obs", ""),
    "Voxels": ("n_voxels", ""),
    "Complete": ("completeness", ".3f"),
    "Multiplicity": ("multiplicity", ".1f"),
    "I": ("mean_intensity", ".4g"),
    "I/sigma": ("mean_i_over_sigma", ".2f"),
    "R_meas": ("r_meas", ".4f"),
    "CC1/2": ("cc_half", ".4f"),
    "CC1/2 aniso": ("cc_half_anisotropic", ".4f"),
    "chi2": ("chi2", ".3f"),
    "Jackknife/sigma": ("jackknife", ".2f"),
}
CYCLE_COLUMNS = {
    "Components": ("components", ""),
    "Cycle": ("cycle", ""),
    "Parameters": ("parameters", ""),
    "Steps": ("steps", ""),
    "Outliers": ("outliers", ""),
    "RMSD before": ("rmsd_start", ".5f"),
    "after": ("rmsd_end", ".5f"),
    "Shift/sigma": ("shift", ".3f"),
}


def _cell(value, spec: str):
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(value)
    return format(value, spec) if spec else value


def shell_table(result: Statistics) -> list[list]:
    """Table by resolution shell: rows, the column names first."""
    return [list(SHELL_COLUMNS)] + [
        [_cell(getattr(shell, name), spec) for name, spec in SHELL_COLUMNS.values()]
        for shell in [*result.shells, result.overall]
    ]


def convergence_table(cycles: list[dict]) -> list[list]:
    """Table of the cycles of the fit: rows, the column names first."""
    return [list(CYCLE_COLUMNS)] + [
        [_cell(cycle[name], spec) for name, spec in CYCLE_COLUMNS.values()] for cycle in cycles
    ]


def trial_table(trials: list[dict]) -> list[list]:
    """Table of the components that were tried: rows, the column names first."""
    rows: list[list] = [["Components", "chi2 of fit", "chi2 of free set", ""]]
    for trial in trials:
        verdict = trial["reason"]
        if trial["chi2"] is not None:
            verdict = "kept" if trial["kept"] else "dropped"
        chi2 = [_cell(trial[name], ".5f") for name in ("chi2", "free_chi2")]
        rows.append([" ".join(trial["components"]), *chi2, verdict])
    return rows


def still_table(scaled: Scaled) -> list[list]:
    """Table by still: rows, the column names first."""
    rows: list[list] = [
        ["Still", "Experiment", "b", "sigma", "Observations", "chi2", "CC with map", ""]
    ]
    result = scaled.statistics
    misoriented = set(result.misoriented().tolist())
    without_scale = set(scaled.weak.tolist())
    n_patches = scaled.fit.bad_patches.sum(axis=1)
    for number, (experiment, model) in enumerate(zip(scaled.source.experiments, scaled.fit.models)):
        if number in scaled.excluded:
            rows.append([number, experiment.identifier, *5 * "-", "excluded"])
            continue
        remarks = ["does not follow the map"] if number in misoriented else []
        if number in without_scale:
            remarks.append("b not above 0")
        if n_patches[number]:
            remarks.append(f"{n_patches[number]} patches left out")
        scale = model.components["scale"]
        rows.append(
            [
                number,
                experiment.identifier,
                f"{scale.parameters[0]:.4f}",
                f"{scale.parameter_esds[0]:.4f}" if scale.parameter_esds else "-",
                result.still_n[number],
                f"{result.still_chi2[number]:.3f}",
                f"{result.still_cc[number]:.3f}",
                ", ".join(remarks),
            ]
        )
    return rows


def panel_table(scaled: Scaled) -> list[list]:
    """Table by panel: rows, the column names first."""
    result, factors = scaled.statistics, scaled.merger.tables.d
    refined = "panel" in scaled.fit.components
    detector = scaled.source.experiments[0].detector
    rows: list[list] = [["Panel", "Name", "d", "Observations", "chi2", "(obs - calc)/calc"]]
    for number in range(scaled.overview.n_panels):
        rows.append(
            [
                number,
                detector[number].get_name() if number < len(detector) else "-",
                f"{factors[number]:.4f}" if refined else "-",
                result.panel_n[number],
                f"{result.panel_chi2[number]:.3f}",
                f"{result.panel_residual[number]:+.4f}",
            ]
        )
    return rows


def _log_table(title: str, rows: list[list], most: int = 60) -> None:
    shown = rows[1 : most + 1]
    logger.info("\n%s\n%s", title, tabulate(shown, rows[0]))
    if len(rows) - 1 > most:
        logger.info("... and %d more (all are in the JSON and HTML files)", len(rows) - 1 - most)


def _listed(stills: np.ndarray) -> str:
    return ", ".join(map(str, stills[:20])) + (" ..." if len(stills) > 20 else "")


def _log_suspects(scaled: Scaled) -> None:
    """Warn of stills and patches that disagree with the rest."""
    misoriented = scaled.statistics.misoriented()
    if len(misoriented):
        logger.warning(
            "%d stills do not follow the map of all others: they are misindexed, misoriented or not "
            "of this crystal (stills.exclude_misoriented=True excludes them): %s",
            len(misoriented),
            _listed(misoriented),
        )
    without_scale = scaled.weak
    if len(without_scale):
        logger.warning(
            "The scales of %d stills are not above 0 by three standard deviations: the map of all others "
            "is not seen in them (misoriented, or no crystal). They take no part in the map "
            "(stills.min_b_over_sigma); stills.exclude_misoriented=True leaves them out of the fit too: %s",
            len(without_scale),
            _listed(without_scale),
        )
    n_stills = np.count_nonzero(scaled.fit.bad_patches.any(axis=1))
    if n_stills:
        logger.info(
            "Patches of %d stills deviate from all other stills: something besides the crystal in the beam (loop, ice) or "
            "a shadow. Their observations are outliers (outliers.patch_cutoff).",
            n_stills,
        )


def dealt(scaled: Scaled) -> str:
    """How the half sets and the groups of the jackknife were dealt, in words."""
    halves = scaled.halves
    return f"Half sets and groups of the jackknife are dealt by {halves.unit} ({halves.n_units} of them)."


def log_results(scaled: Scaled) -> None:
    """Write the results of scaling to the log."""
    _log_table("Convergence", convergence_table(scaled.fit.cycles))
    _log_table("Components", trial_table(scaled.fit.trials))
    _log_table("Stills", still_table(scaled))
    if scaled.overview.n_panels > 1:
        _log_table("Panels", panel_table(scaled))
    _log_suspects(scaled)
    b = scaled.merger.tables.b[~scaled.merger.excluded]
    model = scaled.error_model
    logger.info(
        "\nScales b from %.3f to %.3f with mean %.3f. Error model a = %.3f, b = %.4f; chi2 %.3f with "
        "counting statistics alone",
        b.min(),
        b.max(),
        b.mean(),
        model.a,
        model.b,
        scaled.chi2_before_error_model,
    )
    logger.info(
        "%d of %d usable observations are outliers",
        scaled.merger.n_outliers(),
        scaled.overview.n_usable,
    )
    logger.info(dealt(scaled))
    _log_table("Merged intensities", shell_table(scaled.statistics))
    after, before = scaled.statistics.overall, scaled.unscaled.overall
    for label, overall in (("Before scaling:", before), ("After scaling: ", after)):
        logger.info(
            "%s R_meas %.4f, CC1/2 %.4f, of the anisotropic part %.4f, chi2 %.3f",
            label,
            overall.r_meas,
            overall.cc_half,
            overall.cc_half_anisotropic,
            overall.chi2,
        )
    if before.cc_half_anisotropic > after.cc_half_anisotropic:
        logger.info(HIGHER_BEFORE)


def _statistics_numbers(result: Statistics) -> dict:
    def shell(row) -> dict:
        values = {**dataclasses.asdict(row), "multiplicity": row.multiplicity}
        return {**values, "completeness": row.completeness}

    return {"overall": shell(result.overall), "shells": [shell(row) for row in result.shells]}


def _zero_numbers(scaled: Scaled) -> dict | None:
    """How the zero of the offsets was chosen; None without offsets"""
    zero = scaled.fit.zero
    if zero is None:
        return None
    return {**dataclasses.asdict(zero), "lift": zero.lift.tolist()}


def numbers(scaled: Scaled) -> dict:
    """Content of the JSON file: numbers, and a copy of the models."""
    result, tables = scaled.statistics, scaled.merger.tables
    misoriented = {*result.misoriented().tolist(), *scaled.weak.tolist()}
    experiments = scaled.source.experiments
    return {
        "models": {
            experiment.identifier: model.to_dict()
            for number, of_file in enumerate(scaled.source.files)
            for experiment, model in zip(
                of_file, scaled.source.models_of(number, scaled.fit.models)
            )
        },
        "components": scaled.fit.components,
        "convergence": scaled.fit.cycles,
        "trials": scaled.fit.trials,
        "error_model": dataclasses.asdict(scaled.error_model),
        "chi2_before_error_model": scaled.chi2_before_error_model,
        "halves": {"unit": scaled.halves.unit, "n_units": scaled.halves.n_units},
        "offset_zero": _zero_numbers(scaled),
        "n_outliers": scaled.merger.n_outliers(),
        "n_usable": scaled.overview.n_usable,
        "groups": scaled.overview.groups(),
        "statistics": _statistics_numbers(result),
        "statistics_unscaled": _statistics_numbers(scaled.unscaled),
        "stills": [
            {
                "identifier": experiment.identifier,
                "excluded": scaled.excluded.get(i),
                "b": None if scaled.merger.excluded[i] else float(tables.b[i]),
                "n_obs": int(result.still_n[i]),
                "chi2": result.still_chi2[i],
                "cc": result.still_cc[i],
                "slope": result.still_slope[i],
                "misoriented": i in misoriented,
                "patches_left_out": int(scaled.fit.bad_patches[i].sum()),
            }
            for i, experiment in enumerate(experiments)
        ],
        "panels": [
            {"n_obs": int(n), "chi2": chi2, "residual": residual}
            for n, chi2, residual in zip(result.panel_n, result.panel_chi2, result.panel_residual)
        ],
    }


def _plot(traces: list[dict], title: str, titles: tuple[str, str], text: str, **layout) -> dict:
    return plot(traces, axes(title, *titles, **layout), text)


def still_plots(scaled: Scaled) -> dict[str, dict]:
    """b, agreement and chi^2 over the stills."""
    result = scaled.statistics
    used = np.flatnonzero(~scaled.merger.excluded)
    components = [scaled.fit.models[i].components["scale"] for i in used]
    sigma = [c.parameter_esds[0] if c.parameter_esds else np.nan for c in components]
    b = line("b", used, [c.parameters[0] for c in components], "markers", errors=sigma)
    return {
        "scale_b": _plot(
            [b],
            "Scale of the stills",
            ("still", "b"),
            "The scale factor b of each still: the amount of crystal in the beam, with mean 1. Error bars are "
            "one standard deviation. Along a scan over one crystal b should vary smoothly.",
        ),
        "scale_still_cc": _plot(
            [line("CC", used, result.still_cc[used], "markers")],
            "Correlation of each still with the map of all others (anisotropic part)",
            ("still", "correlation"),
            "Without the mean of each shell. It is low for a weak still, and much lower than for stills of "
            "the same b for a still that is misindexed or misoriented.",
        ),
        "scale_still_chi2": _plot(
            [line("chi2", used, result.still_chi2[used], "markers")],
            "chi2 of the stills",
            ("still", "chi2"),
            "Mean square of residuals over their expected standard deviation. 1 is perfect; a still far "
            "above does not follow the model.",
        ),
    }


def offset_plots(scaled: Scaled) -> dict[str, dict]:
    """c(|q|) of some stills; nothing without offsets."""
    if "offset" not in scaled.fit.components:
        return {}
    used = np.flatnonzero(~scaled.merger.excluded)
    some = used[np.unique(np.linspace(0, len(used) - 1, MOST_CURVES).round().astype(int))]
    q = scaled.overview.bins.q_of(np.arange(N_RADIAL))[::8]
    profile = scaled.merger.prior_of_q(q)
    traces = [line(f"still {i}", q, scaled.merger.tables.c[i, :N_RADIAL:8]) for i in some]
    traces.append(line("mean intensity", q, profile, line={"color": "black", "dash": "dot"}))
    plots = {
        "scale_offset": _plot(
            traces,
            "Offset c(|q|)",
            ("|q| (1/Angstrom)", "photons/(s sr)"),
            "Scattering of a still in addition to b times the merged intensity, as a function of |q| only: "
            "solvent, loop, air. A low quantile of c/b over the stills is 0 by convention, within errors: scattering that "
            "all stills have in proportion to b is part of the map. The dotted line is the mean intensity.",
        )
    }
    if "offset_series" in scaled.fit.models[0].configdict:
        plots["scale_offset_series"] = _offsets_over_p_order(scaled, used)
    return plots


def _offsets_over_p_order(scaled: Scaled, used: np.ndarray) -> dict:
    """c of the used stills in the order of the series."""
    models = scaled.fit.models
    p_order = np.array([models[i].configdict["offset_series"]["p_order"] for i in used])
    order = np.argsort(p_order, kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, MOST_ROWS).round().astype(int))]
    image = {
        "type": "heatmap",
        "x": rounded(scaled.overview.bins.q_of(np.arange(N_RADIAL))[::8]),
        "y": rounded(p_order[rows]),
        "z": rounded(scaled.merger.tables.c[used[rows], :N_RADIAL:8]),
        "colorscale": "Viridis",
    }
    return _plot(
        [image],
        "Offset c(|q|, p_order)",
        ("|q| (1/Angstrom)", "p_order"),
        "The offsets of the stills in the order of the series, in photons/(s sr): a smooth function of |q| and of "
        "p_order, less the part in proportion to b that is 0 by convention.",
    )


def _image(values: np.ndarray, extent, title: str, text: str, low: float, high: float) -> dict:
    x0, x1, y0, y1 = extent
    steps = (np.arange(len(values)) + 0.5) / len(values)
    image = {
        "type": "heatmap",
        "x": rounded(x0 + steps * (x1 - x0)),
        "y": rounded(y0 + steps * (y1 - y0)),
        "z": rounded(values),
        "zmin": low,
        "zmax": high,
        "colorscale": "RdBu",
        "reversescale": True,
    }
    return _plot(
        [image],
        title,
        ("x", "y"),
        f"{text} x and y are the direction of s1 around the beam, seen along the beam, with 2 sin(theta) as "
        "distance from the centre.",
        yaxis={"scaleanchor": "x", "autorange": "reversed"},
        xaxis={"constrain": "domain"},
    )


def _sensitivity_plot(table: np.ndarray, extent, title: str, text: str) -> dict:
    """Image of one table of a."""
    n = int(np.sqrt(len(table)))
    image = table.reshape(n, n)[::2, ::2].copy()
    reach = np.percentile(abs(image - 1), 98)
    text += " Towards the corners, where there are no observations, it is an extrapolation."
    return _image(image, extent, title, text, 1 - reach, 1 + reach)


def _sensitivity_plots(scaled: Scaled) -> dict[str, dict]:
    """Image of a, or of the first, middle and last still if it is a function of p_order."""
    if "sensitivity" not in scaled.fit.components:
        return {}
    tables, extent = scaled.merger.tables, scaled.overview.bins.extent
    if len(tables.a) == 1:
        text = "The factor a that all stills share."
        return {
            "scale_sensitivity": _sensitivity_plot(tables.a[0], extent, "Sensitivity a(x, y)", text)
        }
    used = np.flatnonzero(~scaled.merger.excluded)
    models = scaled.fit.models
    p_order = [models[i].configdict["sensitivity_series"]["p_order"] for i in used]
    order = used[np.argsort(p_order, kind="stable")]
    return {
        f"scale_sensitivity_{position}": _sensitivity_plot(
            tables.a[tables.step[i]],
            extent,
            f"Sensitivity a(x, y, p_order), {position} still of the series",
            f"The factor a of still {i}; along the series it changes smoothly.",
        )
        for position, i in zip(("first", "middle", "last"), order[[0, len(order) // 2, -1]])
    }


def detector_plots(scaled: Scaled) -> dict[str, dict]:
    """a(x, y) if refined, residuals over direction, and by panel."""
    result = scaled.statistics
    plots = _sensitivity_plots(scaled)
    plots["scale_residuals_xy"] = _image(
        result.direction_residual,
        result.extent,
        "Residuals over the detector",
        "Sum of (observed - expected) over sum of expected. Structure larger than the grain of the noise "
        "is missing in the model: try model.sensitivity or model.panel.",
        -0.1,
        0.1,
    )
    n_panels = scaled.overview.n_panels
    if n_panels > 1:
        residuals = line("residual", np.arange(n_panels), result.panel_residual, "markers")
        plots["scale_residuals_panel"] = _plot(
            [residuals],
            "Residuals by panel",
            ("panel", "(obs - calc)/calc"),
            "Sum of (observed - expected) over sum of expected of each panel.",
        )
    return plots


def shell_plots(result: Statistics, unscaled: Statistics) -> dict[str, dict]:
    """CC1/2, R_meas and chi^2 by resolution shell, before and after scaling."""
    labels = [shell.label for shell in result.shells]

    def curve(statistics: Statistics, name: str, title: str, **style) -> dict:
        values = [getattr(shell, name) for shell in statistics.shells]
        return line(title, labels, values, **style)

    before = {"line": {"dash": "dot"}}
    return {
        "scale_cc_half": _plot(
            [
                curve(result, "cc_half", "CC1/2"),
                curve(result, "cc_half_anisotropic", "anisotropic part"),
                curve(unscaled, "cc_half", "CC1/2 before scaling", **before),
                curve(unscaled, "cc_half_anisotropic", "anisotropic part before", **before),
            ],
            "Correlation of two halves of the stills",
            ("d (Angstrom)", "correlation"),
            "CC1/2 of the merged intensities by resolution shell. The isotropic part nearly always agrees: the "
            "curve of the anisotropic part (without the mean at each |q|) shows to which resolution the map is "
            f"good. {HIGHER_BEFORE}",
        ),
        "scale_r_meas": _plot(
            [
                curve(result, "r_meas", "R_meas"),
                curve(unscaled, "r_meas", "before scaling", **before),
            ],
            "R_meas",
            ("d (Angstrom)", "R_meas"),
            "Sum of sqrt(n/(n-1)) |observed - expected| over sum of expected photons. At few photons an "
            "observation it is large from counting statistics alone.",
        ),
        "scale_chi2": _plot(
            [curve(result, "chi2", "chi2")],
            "chi2",
            ("d (Angstrom)", "chi2"),
            "Mean square of residuals over their expected standard deviation, error model included.",
        ),
    }


def normal_plot(result: Statistics, a: float) -> dict[str, dict]:
    """Distribution of residuals beside the normal distribution."""
    z = ((np.arange(len(result.histogram)) + 0.5) * 0.1 - 10.0) / a
    shown = abs(z) < 6.5
    density = result.histogram[shown] / max(result.histogram.sum(), 1) / (0.1 / a)
    normal = np.exp(-(z[shown] ** 2) / 2) / np.sqrt(2 * np.pi)
    return {
        "scale_normal": _plot(
            [line("observed", z[shown], density, "markers"), line("normal", z[shown], normal)],
            "Distribution of residuals over sigma",
            ("residual/sigma", "density"),
            "With few photons an observation the distribution is skewed as Poisson's; long tails on both "
            "sides are outliers, a broader bell is due to errors that the model lacks.",
            yaxis={"type": "log", "range": [-5, 0]},
        )
    }


def map_plots(scaled: Scaled) -> dict[str, dict]:
    """Sections of the merged map, each followed by the one before scaling."""
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
        for name, section_plot in after.items():
            plots[name] = section_plot
            title = before[name]["layout"]["title"]
            title["text"] += ", before scaling"
            plots[f"{name}_before"] = before[name]
    return plots


def sections(scaled: Scaled) -> list[ReportSection]:
    """Sections of the report."""
    result, unscaled = scaled.statistics, scaled.unscaled
    after, before, model = result.overall, unscaled.overall, scaled.error_model
    n_stills = np.count_nonzero(~scaled.merger.excluded)
    out = [
        ReportSection(
            "Merged intensities",
            f"{after.n_obs} observations of {n_stills} stills merged into {after.n_voxels} voxels. CC1/2 "
            f"{after.cc_half:.4f} ({before.cc_half:.4f} before scaling), of the anisotropic part "
            f"{after.cc_half_anisotropic:.4f} ({before.cc_half_anisotropic:.4f}), R_meas {after.r_meas:.4f} "
            f"({before.r_meas:.4f}). {scaled.merger.n_outliers()} outliers. {dealt(scaled)}",
            tables=[shell_table(result)],
            plots=shell_plots(result, unscaled),
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
            plots=normal_plot(result, model.a),
        ),
        ReportSection(
            "Map",
            "Sections of the scaled map and, below each, of the same observations merged with all scales 1.",
            plots=map_plots(scaled),
        ),
    ]
    if scaled.excluded:
        rows: list[list] = [["Still", "Experiment", "Reason"]]
        for still, reason in scaled.excluded.items():
            rows.append([still, scaled.source.experiments[still].identifier, reason])
        out.insert(1, ReportSection("Excluded stills", tables=[rows]))
    return out
