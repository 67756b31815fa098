"""Settings that depend on the data."""

from __future__ import annotations

import pytest

from dials_diffuse.model.components import intervals_of
from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.scaling.refinement.settings import ModelSettings


@pytest.mark.parametrize(("q_max", "intervals"), [(0.1, 3), (0.5, 10), (0.74, 15), (1.0, 20)])
def test_offset_has_a_parameter_each_twentieth_of_an_inverse_angstrom(q_max, intervals):
    n = default_settings(ModelSettings).offset_parameters_to(q_max)
    assert intervals_of(n) == intervals
    assert q_max / intervals <= 0.05
    # as the bins end
    assert default_settings(ModelSettings).offset_parameters_to(q_max * (1 + 1e-6)) == n


def test_the_number_that_is_asked_for_is_taken():
    assert default_settings(ModelSettings, offset_parameters=7).offset_parameters_to(1.0) == 7
