"""Settings that make no sense are refused."""

from __future__ import annotations

import pytest

from dials_diffuse.extraction.settings import ExtractionSettings
from dials_diffuse.phil.defaults import default_settings


def test_the_defaults_make_sense():
    default_settings(ExtractionSettings).check()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"gain": 0.0}, "gain=0.0 must be a positive number of ADU per photon"),
        ({"gain": float("inf")}, "gain=inf"),
        ({"exposure_time": -1.0}, "exposure_time=-1.0 must be a positive number of seconds"),
        ({"d_min": 3.0, "d_max": 2.0}, "d_min=3.0 must be smaller than d_max=2.0"),
    ],
)
def test_values_without_sense(changes, text):
    with pytest.raises(ValueError, match=text):
        default_settings(ExtractionSettings, **changes).check()


def test_zero_is_no_limit():
    default_settings(ExtractionSettings, d_min=3.0, d_max=0.0).check()
