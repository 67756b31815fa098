"""Traces and layouts as plotly reads them, and rounding."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dials_diffuse.report.plotly import axes, image, line, plot, rounded


@pytest.mark.parametrize("digits", [1, 4, 6])
def test_numbers_are_rounded_as_text_is(digits):
    values = np.random.default_rng(1).normal(size=600) * 10.0 ** np.arange(-15, 15).repeat(20)
    assert rounded(values, digits) == [float(f"{v:.{digits}g}") for v in values]


def test_shapes_are_kept_and_what_json_lacks_is_none():
    assert rounded([[0.0, np.nan], [np.inf, -123456.0]], 3) == [[0.0, None], [None, -123000.0]]
    assert rounded(2.34567, 2) == 2.3
    assert rounded([]) == []


def test_a_plot_is_plain_json_with_titles_that_plotly_6_shows():
    traces = [
        line("b", [0, 1], [1 / 3, np.nan], "markers", errors=[0.1, 0.2]),
        line("by shell", ["8 - 4", "4 - 2"], np.array([1, 2]), line={"dash": "dot"}),
        image([0.0, 0.5], [1.0], [[1 / 3, np.nan]], digits=2, zmin=0),
    ]
    layout = axes("Scale", "still", "b", yaxis={"type": "log"}, plot_bgcolor="#dddddd")
    result = json.loads(
        json.dumps(plot(traces, layout, "The scale.", square=True), allow_nan=False)
    )
    points, shells, picture = result["data"]
    assert points["y"] == [0.33333, None] and points["error_y"]["array"] == [0.1, 0.2]
    assert shells["x"] == ["8 - 4", "4 - 2"] and shells["line"] == {"dash": "dot"}
    assert picture["z"] == [[0.33, None]] and picture["zmin"] == 0
    assert result["layout"]["title"] == {"text": "Scale"}
    assert result["layout"]["yaxis"] == {"title": {"text": "b"}, "type": "log"}
    assert result["layout"]["plot_bgcolor"] == "#dddddd"
    assert result["help"] == "The scale." and result["square"]
