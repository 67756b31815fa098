from __future__ import annotations

import numpy as np
import pytest

from dials_diffuse.phil.defaults import default_settings
from dials_diffuse.simulation.instrument.detectors import make_beam, make_detector, moved_along_beam
from dials_diffuse.simulation.settings import BeamSettings, DetectorSettings

SOURCE_TO_SAMPLE = np.array((0, 0, -1.0))


def detector_of(**changes):
    return make_detector(default_settings(DetectorSettings, **changes), 1.0)


def test_beam_is_along_minus_z():
    settings = default_settings(BeamSettings, polarization_normal=(0, 2, 0))
    beam = make_beam(settings, 1.25, 0.5)
    assert beam.get_s0() == pytest.approx((0, 0, -0.8))
    assert beam.get_polarization_normal() == pytest.approx((0, 1, 0))
    assert beam.get_transmission() == 0.5
    for normal in ((0, 0, 3), (0, 0, 0)):
        with pytest.raises(ValueError, match="polarization_normal"):
            make_beam(default_settings(BeamSettings, polarization_normal=normal), 1.0)


def test_single_panel_is_centred_on_the_beam():
    (panel,) = detector_of(image_size=(120, 90), distance=150)
    assert panel.get_distance() == pytest.approx(150)
    assert panel.get_ray_intersection((0, 0, -1)) == pytest.approx((24, 18))
    assert panel.get_trusted_range() == (-0.5, 1000000.5)


def test_pilatus_has_its_own_pixels():
    (panel,) = detector_of(type="pilatus_6m")
    assert panel.get_image_size() == (2463, 2527)
    assert panel.get_pixel_size() == pytest.approx((0.172, 0.172))


def test_swing_turns_the_beam_centre_by_two_theta():
    (panel,) = detector_of(two_theta=20)
    centre = np.array(panel.get_pixel_lab_coord((150, 150)))
    assert centre @ SOURCE_TO_SAMPLE / np.linalg.norm(centre) == pytest.approx(
        np.cos(np.radians(20)), abs=1e-6
    )


def test_no_two_tilted_panels_are_parallel():
    detector = detector_of(type="tilted", groups=(2, 3), image_size=(120, 120))
    assert len(detector) == 6 and len(detector.hierarchy()) == 2
    normals = np.array([panel.get_normal() for panel in detector])
    cosines = (normals @ normals.T)[np.triu_indices(6, 1)]
    assert cosines.max() < 1 - 1e-6


@pytest.mark.parametrize("kind", ["single", "tilted"])
def test_a_moved_detector_is_further_from_the_source(kind):
    detector = detector_of(type=kind)
    moved = moved_along_beam(detector, 3.0)
    for before, after in zip(detector, moved):
        shift = np.array(after.get_origin()) - before.get_origin()
        assert shift == pytest.approx(3.0 * SOURCE_TO_SAMPLE)
        assert after.get_normal() == pytest.approx(before.get_normal())
