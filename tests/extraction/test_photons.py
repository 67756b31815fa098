"""Gain and pedestal: numbers, maps, and where they are from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dxtbx.format.image import ImageDouble
from dxtbx.model import Detector, Panel

from dials.array_family import flex

from dials_diffuse.extraction import photons
from dials_diffuse.extraction.photons import (
    PanelPixels,
    panel_gain,
    panel_pedestal,
    photons_of_image,
)


@pytest.fixture
def imageset():
    """An imageset of one panel of 3 x 2 pixels, with a gain of 2 and a pedestal of 5 in its model"""
    detector = Detector()
    panel = detector.add_panel(Panel())
    panel.set_image_size((3, 2))
    panel.set_trusted_range((0.0, 100.0))
    panel.set_gain(2.0)
    panel.set_pedestal(5.0)
    lookup = SimpleNamespace(
        gain=SimpleNamespace(data=ImageDouble()), pedestal=SimpleNamespace(data=ImageDouble())
    )
    return SimpleNamespace(get_detector=lambda: detector, external_lookup=lookup)


def as_map(values):
    return ImageDouble(flex.double(np.array(values, dtype=float)))


def test_parameter_before_map_before_panel(imageset):
    assert panel_gain(imageset, 0) == 2.0 and panel_pedestal(imageset, 0) == 5.0
    values = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    imageset.external_lookup.gain.data = as_map(values)
    imageset.external_lookup.pedestal.data = as_map(values)
    assert panel_gain(imageset, 0).tolist() == panel_pedestal(imageset, 0).tolist() == values
    assert panel_gain(imageset, 0, 3.0) == 3.0 and panel_pedestal(imageset, 0, 0.0) == 0.0


def test_a_gain_that_is_no_gain(imageset):
    with pytest.raises(ValueError, match="gain="):
        panel_gain(imageset, 0, 0.0)
    imageset.external_lookup.gain.data = as_map([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
    with pytest.raises(ValueError, match="The gain of panel 0 is -1.0"):
        panel_gain(imageset, 0)


def test_photons_of_an_image(imageset, monkeypatch):
    raw = np.array([[5, 7, 9], [101, -1, 99]], dtype=np.int32)
    monkeypatch.setattr(photons, "read_raw", lambda imageset, index: [raw])
    (found,) = photons_of_image(imageset, 0)
    assert found == pytest.approx(np.array([[0, 1, 2], [np.nan, np.nan, 47.0]]), nan_ok=True)


def test_maps_of_gain_and_pedestal_are_applied_at_once():
    raw = np.array([[5, 7, 9], [101, -1, 100]], dtype=np.int32)
    pixels = PanelPixels(raw, raw > 0, raw < 0, (0, 100))
    numbers = pixels.with_maps(2, 5)
    assert numbers.raw is raw and (numbers.gain, numbers.pedestal) == (2.0, 5.0)
    maps = pixels.with_maps(np.full(raw.shape, 2.0), 5.0)
    assert (maps.gain, maps.pedestal, maps.trusted) == (1.0, 0.0, (-np.inf, np.inf))
    assert maps.raw == pytest.approx(np.array([[0, 1, 2], [np.nan, np.nan, 47.5]]), nan_ok=True)
