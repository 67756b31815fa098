"""What follows from the columns of observations."""

from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model import BeamFactory, Detector, Experiment, ParallaxCorrectedPxMmStrategy

from dials.array_family import flex

from dials_diffuse.extraction.observations import (
    COLUMNS,
    d_spacings,
    intensities,
    intensity_variances,
    numbered_rows,
    s1_vectors,
)


@pytest.fixture
def experiments():
    """Two stills of two panels with parallax, and of two wavelengths"""
    detector = Detector()
    for x in (-40.0, 1.0):
        panel = detector.add_panel()
        panel.set_frame((1, 0, 0), (0, 1, 0), (x, -20.0, -150.0))
        panel.set_image_size((200, 200))
        panel.set_pixel_size((0.2, 0.2))
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(3.8, 0.45))
    return [Experiment(beam=BeamFactory.simple(w), detector=detector) for w in (1.0, 1.1)]


@pytest.fixture
def table():
    rng = np.random.default_rng(3)
    rows = flex.reflection_table()
    rows["id"] = flex.int([0, 0, 0, 1, 1])
    rows["panel"] = flex.size_t([0, 1, 1, 0, 1])
    rows["xyzobs.px.value"] = flex.vec3_double([(*rng.uniform(0, 200, 2), 0.5) for _ in range(5)])
    rows["counts"] = flex.double([4, 0, 9, 2, 2])
    rows["background"] = flex.double([1, 1, 1, 0, 0])
    rows["background.variance"] = flex.double([0.5, 0, 0, 0, 0])
    rows["num_pixels.valid"] = flex.int([3, 1, 1, 1, 1])
    rows["exposure"] = flex.double([2, 1, 0, 1, 1])
    return rows


def test_directions_and_resolutions_are_those_of_dxtbx(experiments, table):
    s1, d = s1_vectors(table, experiments), d_spacings(table, experiments)
    for row in range(5):
        experiment = experiments[table["id"][row]]
        panel = experiment.detector[table["panel"][row]]
        pixel = table["xyzobs.px.value"][row][:2]
        lab = np.array(panel.get_pixel_lab_coord(pixel))
        expected = lab / np.linalg.norm(lab) / experiment.beam.get_wavelength()
        assert s1[row] == pytest.approx(expected, rel=1e-12)
        s0 = experiment.beam.get_s0()
        assert d[row] == pytest.approx(panel.get_resolution_at_pixel(s0, pixel), rel=1e-9)


def test_intensities_and_variances(table):
    assert intensities(table)[[0, 1, 3]].tolist() == [1.5, -1.0, 2.0]
    assert not np.isfinite(intensities(table)[2])
    assert intensity_variances(table)[[0, 1]].tolist() == [4.5 / 4, 0.0]
    assert intensity_variances(table, 0.5)[0] == (4.5 + 3 * 0.25) / 4


def test_rows_of_a_still_and_of_none():
    empty = numbered_rows(None, 3)
    assert list(empty) == ["id", *COLUMNS] and all(len(column) == 0 for column in empty.values())
    rows = numbered_rows({"counts": np.ones(4)}, 3)
    assert rows["id"].tolist() == [3, 3, 3, 3]
