"""Tables and plots of the report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scaling_problems import source_of
from synthetic_scaling import scale_settings

from dials_diffuse.scaling import report
from dials_diffuse.scaling.scale import scale


@pytest.fixture(scope="module")
def scaled(make_truth, tmp_path_factory):
    truth = make_truth(n_stills=8, n_obs=400, n_voxels=150, panels=(2, 2))
    settings = scale_settings(model={"offset": True}, stills={"exclude": ("3",)})
    return scale(source_of(truth, tmp_path_factory.mktemp("report")), settings)


def test_tables_have_a_row_for_each_shell_still_and_panel(scaled):
    for table, n_rows in (
        (report.shell_table(scaled.statistics), 11),
        (report.still_table(scaled), 8),
        (report.panel_table(scaled), 4),
        (report.convergence_table(scaled.fit.cycles), len(scaled.fit.cycles)),
    ):
        assert len(table) == n_rows + 1
        assert {len(row) for row in table} == {len(table[0])}
    row = report.still_table(scaled)[4]
    assert row[0] == 3 and row[-1] == "excluded" and row[2:7] == 5 * ["-"]
    b = scaled.merger.tables.b[0]
    assert report.still_table(scaled)[1][2] == f"{b:.4f}"
    assert report.convergence_table(scaled.fit.cycles)[1][-1] == "-"


def test_trials_say_why():
    trials = [
        {"components": ["scale"], "chi2": 1.5, "free_chi2": 1.25, "kept": True, "reason": None},
        {
            "components": ["scale", "panel"],
            "chi2": None,
            "free_chi2": None,
            "kept": False,
            "reason": "too few observations",
        },
    ]
    assert report.trial_table(trials)[1:] == [
        ["scale", "1.50000", "1.25000", "kept"],
        ["scale panel", "-", "-", "too few observations"],
    ]


def test_numbers_are_json(scaled):
    numbers = report.numbers(scaled)
    assert [still["excluded"] is None for still in numbers["stills"]] == 3 * [True] + [
        False
    ] + 4 * [True]
    assert numbers["stills"][3]["b"] is None
    assert numbers["statistics"]["overall"]["n_obs"] == scaled.statistics.overall.n_obs
    assert set(numbers["models"]) == {e.identifier for e in scaled.source.experiments}
    json.dumps(numbers["models"])


def test_sections_and_plots(scaled):
    sections = report.sections(scaled)
    titles = [section.title for section in sections]
    assert titles == ["Merged intensities", "Excluded stills", "Stills", "Detector", "Fit", "Map"]
    plots = {name: plot for section in sections for name, plot in section.plots.items()}
    b = plots["scale_b"]["data"][0]
    assert b["x"] == [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_allclose(b["y"], np.delete(scaled.merger.tables.b, 3), rtol=1e-4)
    assert "scale_offset" in plots and "scale_residuals_panel" in plots
    json.dumps(plots)
