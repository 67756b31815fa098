"""The numbers of a scaling run in the log and as JSON."""

from __future__ import annotations

import dataclasses
import logging
import os

from dials.util import tabulate

from dials_diffuse.io.json_file import write_json
from dials_diffuse.scaling.merging.statistics import Statistics
from dials_diffuse.scaling.scale import without_scale

logger = logging.getLogger("dials.diffuse.scaling.summary")

BEFORE_IS_NO_MEASURE = (
    "CC1/2 can be higher before scaling than after it and the map worse: where both halves hold stills of the "
    "same mix of scales in a voxel, they agree on what the scales have done to it."
)


def shell_table(found: Statistics) -> list[list]:
    """Rows of the table by resolution shell, the column names first"""
    rows = [
        [
            "d (A)",
            "Observations",
            "Voxels",
            "Complete",
            "Multiplicity",
            "I",
            "I/sigma",
            "R_meas",
            "CC1/2",
            "CC1/2 aniso",
            "chi2",
        ]
    ]
    for s in [*found.shells, found.overall]:
        rows.append(
            [
                s.label,
                s.n_obs,
                s.n_voxels,
                f"{s.completeness:.3f}",
                f"{s.multiplicity:.1f}",
                f"{s.mean_intensity:.4g}",
                f"{s.mean_i_over_sigma:.2f}",
                f"{s.r_meas:.4f}",
                f"{s.cc_half:.4f}",
                f"{s.cc_half_anisotropic:.4f}",
                f"{s.chi2:.3f}",
            ]
        )
    return rows


def convergence_table(cycles: list[dict]) -> list[list]:
    """Rows of the convergence table, the column names first"""
    rows = [
        [
            "Components",
            "Cycle",
            "Parameters",
            "Steps",
            "Outliers",
            "RMSD before",
            "after",
            "Shift/sigma",
        ]
    ]
    for c in cycles:
        rows.append(
            [
                " ".join(c["components"]),
                c["cycle"],
                c["parameters"],
                c["steps"],
                c["outliers"],
                f"{c['rmsd_start']:.5f}",
                f"{c['rmsd_end']:.5f}",
                "-" if c["shift"] is None else f"{c['shift']:.3f}",
            ]
        )
    return rows


def trial_table(trials: list[dict]) -> list[list]:
    """Rows of the table of components that were tried, the column names first"""
    rows = [["Components", "chi2 of fit", "chi2 of free set", ""]]
    for t in trials:
        if t["chi2"] is None:
            rows.append([" ".join(t["components"]), "-", "-", t["reason"]])
            continue
        verdict = "kept" if t["kept"] else "dropped"
        rows.append(
            [" ".join(t["components"]), f"{t['chi2']:.5f}", f"{t['free_chi2']:.5f}", verdict]
        )
    return rows


def still_table(scaled) -> list[list]:
    """Rows of the table by still, the column names first"""
    rows = [["Still", "Experiment", "b", "sigma", "Observations", "chi2", "CC with map", ""]]
    found = scaled.statistics
    off = set(found.misoriented().tolist())
    nothing = set(without_scale(scaled).tolist())
    patches = scaled.fit.bad_patches.sum(axis=1)
    for number, (experiment, model) in enumerate(zip(scaled.source.experiments, scaled.fit.models)):
        remarks = ["does not follow the map"] if number in off else []
        if number in nothing:
            remarks.append("b not above 0")
        if patches[number]:
            remarks.append(f"{patches[number]} patches left out")
        if number in scaled.excluded:
            rows.append([number, experiment.identifier, "-", "-", "-", "-", "-", "left out"])
            continue
        scale = model.components["scale"]
        esds = scale.parameter_esds
        rows.append(
            [
                number,
                experiment.identifier,
                f"{scale.parameters[0]:.4f}",
                f"{esds[0]:.4f}" if esds else "-",
                found.still_n[number],
                f"{found.still_chi2[number]:.3f}",
                f"{found.still_cc[number]:.3f}",
                ", ".join(remarks),
            ]
        )
    return rows


def panel_table(scaled) -> list[list]:
    """Rows of the table by panel, the column names first"""
    found = scaled.statistics
    factors = scaled.merger.tables.d
    detector = scaled.source.experiments[0].detector
    rows = [["Panel", "Name", "d", "Observations", "chi2", "(obs - calc)/calc"]]
    for number in range(scaled.survey.n_panels):
        name = detector[number].get_name() if number < len(detector) else "-"
        rows.append(
            [
                number,
                name,
                "-" if factors is None else f"{factors[number]:.4f}",
                found.panel_n[number],
                f"{found.panel_chi2[number]:.3f}",
                f"{found.panel_residual[number]:+.4f}",
            ]
        )
    return rows


def log_summary(scaled) -> None:
    """Write what a user wants to know about a scaling run to the log"""

    def show(title: str, rows: list[list], most: int = 60) -> None:
        shown = rows[1 : most + 1]
        more = len(rows) - 1 - len(shown)
        logger.info("\n%s\n%s", title, tabulate(shown, rows[0]))
        if more:
            logger.info("... and %d more (all of them in the JSON and HTML files)", more)

    show("Convergence", convergence_table(scaled.fit.cycles))
    show("Components", trial_table(scaled.fit.trials))
    show("Stills", still_table(scaled))
    if scaled.survey.n_panels > 1:
        show("Panels", panel_table(scaled))
    off = scaled.statistics.misoriented()
    if len(off):
        logger.warning(
            "%d stills do not follow the map of all others: they are misindexed, off their orientation or not "
            "of this crystal (stills.exclude_misoriented=True leaves them out): %s%s",
            len(off),
            ", ".join(map(str, off[:20])),
            " ..." if len(off) > 20 else "",
        )
    nothing = without_scale(scaled)
    if len(nothing):
        logger.warning(
            "The scales of %d stills are not above 0 by three standard deviations: they have nothing of the map of all others "
            "(off their orientation, or no crystal; stills.exclude_misoriented=True leaves them out): %s%s",
            len(nothing),
            ", ".join(map(str, nothing[:20])),
            " ..." if len(nothing) > 20 else "",
        )
    patches = scaled.fit.bad_patches.any(axis=1)
    if patches.any():
        logger.info(
            "Patches of %d stills deviate from all other stills: something besides the crystal in the beam (loop, ice) or "
            "a shadow. Their observations are outliers (outliers.patch_cutoff).",
            patches.sum(),
        )
    b = scaled.merger.tables.b[~scaled.merger.tables.excluded]
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
        scaled.survey.n_usable,
    )
    show("Merged intensities", shell_table(scaled.statistics))
    after, before = scaled.statistics.overall, scaled.unscaled.overall
    logger.info(
        "Before scaling: R_meas %.4f, CC1/2 %.4f, of the anisotropic part %.4f, chi2 %.3f\n"
        "After scaling:  R_meas %.4f, CC1/2 %.4f, of the anisotropic part %.4f, chi2 %.3f\n",
        before.r_meas,
        before.cc_half,
        before.cc_half_anisotropic,
        before.chi2,
        after.r_meas,
        after.cc_half,
        after.cc_half_anisotropic,
        after.chi2,
    )
    if before.cc_half_anisotropic > after.cc_half_anisotropic:
        logger.info(BEFORE_IS_NO_MEASURE)


def numbers_of(found: Statistics) -> dict:
    """Statistics as plain JSON"""

    def shell(row) -> dict:
        values = {**dataclasses.asdict(row), "multiplicity": row.multiplicity}
        return {**values, "completeness": row.completeness}

    return {"overall": shell(found.overall), "shells": [shell(row) for row in found.shells]}


def write_numbers(path: str | os.PathLike, scaled, plots: dict[str, dict]) -> None:
    """Numbers, plots and a copy of the models"""
    found = scaled.statistics
    excluded = scaled.merger.tables.excluded
    off = set(found.misoriented().tolist())
    contents = {
        "models": {
            experiment.identifier: model.to_dict()
            for experiment, model in zip(scaled.source.experiments, scaled.fit.models)
        },
        "components": scaled.fit.components,
        "convergence": scaled.fit.cycles,
        "trials": scaled.fit.trials,
        "error_model": dataclasses.asdict(scaled.error_model),
        "chi2_before_error_model": scaled.chi2_before_error_model,
        "n_outliers": scaled.merger.n_outliers(),
        "n_usable": scaled.survey.n_usable,
        "groups": scaled.survey.groups(),
        "statistics": numbers_of(found),
        "statistics_unscaled": numbers_of(scaled.unscaled),
        "stills": [
            {
                "identifier": experiment.identifier,
                "excluded": scaled.excluded.get(i),
                "b": None if excluded[i] else float(scaled.merger.tables.b[i]),
                "n_obs": int(found.still_n[i]),
                "chi2": found.still_chi2[i],
                "cc": found.still_cc[i],
                "slope": found.still_slope[i],
                "misoriented": i in off,
                "patches_left_out": int(scaled.fit.bad_patches[i].sum()),
            }
            for i, experiment in enumerate(scaled.source.experiments)
        ],
        "panels": [
            {"n_obs": int(n), "chi2": chi2, "residual": residual}
            for n, chi2, residual in zip(found.panel_n, found.panel_chi2, found.panel_residual)
        ],
        "plots": plots,
    }
    write_json(path, contents)
