"""Pixels, masks and what image headers tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulations import simulate, simulation_settings

from dxtbx.format.image import ImageBool
from dxtbx.imageset import ImageSet
from dxtbx.model import BeamFactory, Experiment, Panel, ScanFactory
from dxtbx.model.experiment_list import ExperimentListFactory

from dials.array_family import flex

from dials_diffuse.adapters.experiments import load_experiments
from dials_diffuse.adapters.images import (
    exposure_time,
    has_dynamic_mask,
    read_raw,
    static_mask,
    transmission,
    trusted_bounds,
)
from dials_diffuse.adapters.tables import mask_as_flex


def settings(**changes):
    return simulation_settings(
        **{
            "stills": 2,
            "bragg": {"enabled": False},
            "detector": {"image_size": [60, 50], "pixel_size": 2.0},
            "exposure": {"time": 0.25},
            **changes,
        }
    )


@pytest.fixture
def single(tmp_path):
    """(simulator, experiments) of one panel, CBF"""
    simulated = simulate(settings(), tmp_path)
    return simulated.simulator, load_experiments(tmp_path / "simulated.expt")


@pytest.fixture
def tilted(tmp_path):
    """(simulator, experiments) of many panels, NeXus"""
    detector = {"type": "tilted", "image_size": [80, 80], "pixel_size": 1.5}
    simulated = simulate(settings(detector=detector), tmp_path)
    return simulated.simulator, load_experiments(tmp_path / "simulated.expt")


@pytest.mark.parametrize("kind", ["single", "tilted"])
def test_pixels_are_those_that_were_written(kind, request):
    simulator, experiments = request.getfixturevalue(kind)
    for still, experiment in zip(simulator.stills, experiments):
        panels = read_raw(experiment.imageset, 0)
        written = simulator.image(still)
        assert len(panels) == len(experiment.detector) == len(written)
        for pixels, expected, panel in zip(panels, written, experiment.detector):
            assert pixels.shape == panel.get_image_size()[::-1]
            np.testing.assert_array_equal(pixels, expected)


def test_truncated_image_is_named(single):
    _, experiments = single
    # not the last one: dxtbx keeps the file that it opened last
    path = Path(experiments[0].imageset.get_path(0))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=path.name) as caught:
        read_raw(experiments[0].imageset, 0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("bounds", [(-0.5, 10.5), (2, 9), (1.5, 8.5), (-100, 5), (-3.0, 11.0)])
def test_trusted_range_means_what_dials_means(bounds):
    panel = Panel()
    panel.set_image_size((16, 1))
    panel.set_trusted_range(bounds)
    values = np.arange(-4, 12)
    expected = panel.get_trusted_range_mask(flex.int(values.astype(np.int32)[None]))
    low, high = trusted_bounds(panel)
    np.testing.assert_array_equal((values >= low) & (values <= high), np.array(expected).ravel())


@pytest.mark.parametrize("lower", [-1, -0.5, 0])
def test_empty_pixels_are_trusted_and_gaps_are_not(lower):
    """-1 and 0 are how the two kinds of dxtbx write that counts begin at zero."""
    panel = Panel()
    panel.set_trusted_range((lower, 100.5))
    low, _ = trusted_bounds(panel)
    assert -1 < low <= 0


def test_empty_trusted_range():
    panel = Panel()
    panel.set_name("P7")
    panel.set_trusted_range((10, 5))
    with pytest.raises(ValueError, match="P7 is empty"):
        trusted_bounds(panel)


def test_static_mask_is_that_of_dxtbx_without_the_trusted_range(tilted):
    _, experiments = tilted
    imageset = experiments[0].imageset
    detector = imageset.get_detector()
    detector[1].add_mask(3, 2, 7, 5)
    rng = np.random.default_rng(4)
    lookup = [rng.random(panel.get_image_size()[::-1]) < 0.9 for panel in detector]
    imageset.external_lookup.mask.data = ImageBool(tuple(mask_as_flex(mask) for mask in lookup))
    for panel in detector:
        panel.set_trusted_range((-1e6, 1e6))
    found = static_mask(imageset)
    for mask, expected in zip(found, imageset.get_mask(0)):
        np.testing.assert_array_equal(mask, np.array(expected).reshape(mask.shape))
    assert not found[1][2:5, 3:7].any() and found[1].any()
    assert not has_dynamic_mask(imageset)


def test_lookup_mask_of_another_detector_is_refused(single):
    _, experiments = single
    imageset = experiments[0].imageset
    imageset.external_lookup.mask.filename = "pixels.mask"
    imageset.external_lookup.mask.data = ImageBool((flex.bool(flex.grid(50, 61), True),))
    with pytest.raises(
        ValueError, match=r"pixels.mask has \(61, 50\) pixels on panel 0.*\(60, 50\)"
    ):
        static_mask(imageset)
    two = (flex.bool(flex.grid(50, 60), True),) * 2
    imageset.external_lookup.mask.data = ImageBool(two)
    with pytest.raises(ValueError, match="has 2 panels, the detector 1"):
        static_mask(imageset)


@pytest.mark.parametrize("kind", ["single", "tilted"])
def test_exposure_time_comes_from_the_header_of_a_still(kind, request):
    _, experiments = request.getfixturevalue(kind)
    for experiment in experiments:
        bare = Experiment(
            imageset=experiment.imageset, detector=experiment.detector, beam=experiment.beam
        )
        assert exposure_time(bare) == pytest.approx(0.25)
        assert exposure_time(bare, override=2) == 2.0


def test_exposure_time_of_the_scan_comes_first(single):
    _, experiments = single
    experiment = experiments[0]
    experiment.scan = ScanFactory.make_scan((1, 1), [0.7], (0.0, 0.0), {1: 0.0})
    assert exposure_time(experiment) == pytest.approx(0.7)
    # zero is how some formats say that they do not know
    experiment.scan = ScanFactory.make_scan((1, 1), [0.0], (0.0, 0.0), {1: 0.0})
    assert exposure_time(experiment) == pytest.approx(0.25)


def test_exposure_time_that_nobody_knows_names_the_parameter(single):
    _, experiments = single
    path = Path(experiments[0].imageset.get_path(0))
    path.write_bytes(
        path.read_bytes().replace(b"# Exposure_period 0.25", b"# Exposure_period 0.00")
    )
    bare = ExperimentListFactory.from_filenames([str(path)])[0]
    bare.scan = None
    assert isinstance(bare.imageset, ImageSet)
    with pytest.raises(ValueError, match="exposure_time=") as caught:
        exposure_time(bare)
    assert path.name in str(caught.value)


def test_transmission():
    beam = BeamFactory.simple(1.0)
    assert transmission(beam) == 1.0
    beam.set_transmission(0.3)
    assert transmission(beam) == pytest.approx(0.3)
    # not filled in, rather than no beam
    beam.set_transmission(0.0)
    assert transmission(beam) == 1.0
