from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dials_diffuse.adapters.stills import group_by_image, stills_of
from dials_diffuse.masking.bragg_rows import integrated_spots
from dials_diffuse.masking.residual import MOST_BRAGG_LEFT, choose_residual, masked_part
from dials_diffuse.masking.spot_predictor import BraggMaskSettings, SpotPredictor
from dials_diffuse.masking.spots.painting import paint_bragg
from dials_diffuse.masking.spots.rows import spots_table
from dials_diffuse.phil.defaults import default_settings

GOOD = [np.ones((150, 150), dtype=bool)]
GOOD[0][:, :40] = False


@pytest.fixture
def groups(pair):
    return group_by_image(stills_of(pair[0]))


@pytest.fixture
def loss(pair, groups):
    """Function residual, fit -> part of the good pixels that is masked"""

    def masked(residual, fit):
        known = SpotPredictor.from_fit(default_settings(BraggMaskSettings), fit, residual)
        integrated = integrated_spots(pair[1], [still for group in groups for still in group])
        return masked_part(known, groups, integrated, GOOD)

    return masked


def test_the_masked_part_is_that_of_painted_pixels(groups):
    known = SpotPredictor.from_fit(default_settings(BraggMaskSettings), None, 0.01)
    parts = []
    for (still,) in groups:
        (bragg,) = paint_bragg(spots_table(known.predict(still), 0, 0.5), [(150, 150)])
        parts.append(bragg[GOOD[0]].mean())
    integrated = dict.fromkeys((i, 0) for i in range(4))
    assert masked_part(known, groups, integrated, GOOD) == pytest.approx(np.mean(parts))


def test_stills_without_a_size_are_left_out_of_the_mean(groups):
    class Unknown:
        def predict(self, still, integrated):
            raise ValueError("unknown size")

    assert masked_part(Unknown(), groups, dict.fromkeys((i, 0) for i in range(4)), GOOD) == 0.0


def test_the_parameter_is_used_where_it_is_affordable(pair, groups, masked):
    fit = masked.size_fit
    for changes, measured in (
        ({"max_loss": 1.0}, fit),
        ({"max_loss": 0.0, "n_sigma": 5.0}, fit),
        ({"max_loss": 0.0}, None),
    ):
        settings = default_settings(BraggMaskSettings, residual=0.02, **changes)
        assert choose_residual(settings, measured, groups, pair[1], GOOD) == 0.02


def test_the_residual_is_raised_until_few_enough_pixels_are_masked(pair, groups, masked, loss):
    fit = masked.size_fit
    at_parameter, at_most = loss(1e-4, fit), loss(0.3, fit)
    assert at_most < at_parameter
    max_loss = (at_parameter + at_most) / 2
    settings = default_settings(BraggMaskSettings, residual=1e-4, max_loss=max_loss)
    residual = choose_residual(settings, fit, groups, pair[1], GOOD)
    assert 1e-4 < residual < 1
    assert loss(residual, fit) <= max_loss < loss(residual / 1.3, fit)


def test_no_more_than_a_part_of_the_bragg_photons_is_left(pair, groups, masked):
    """However many pixels that costs, where weak spots would be masked less and less."""
    fit = masked.size_fit
    fit = dataclasses.replace(fit, contrast=np.full(len(fit.q), 5.0))
    settings = default_settings(BraggMaskSettings, max_loss=0.0)
    residual = choose_residual(settings, fit, groups, pair[1], GOOD)
    assert settings.residual < residual < 1.0
    left = [fit.bragg_left(factor * residual, settings.padding) for factor in (1.0, 1.03)]
    assert left[0] <= MOST_BRAGG_LEFT < left[1]
