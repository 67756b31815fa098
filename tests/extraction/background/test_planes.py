"""Planes of a background: holes, doses and shapes."""

from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model import BeamFactory, Detector, Panel

from dials_diffuse.extraction.background.planes import Background


def test_holes_of_a_background():
    mean = [np.ones((4, 5), dtype=np.float32) for _ in range(2)]
    spread, shared = ([plane.copy() for plane in mean] for _ in range(2))
    mean[1][2, 3] = shared[1][0, 0] = np.nan
    filled, known = Background(mean, spread, shared).without_holes()
    assert known[0] is None and np.argwhere(~known[1]).tolist() == [[0, 0], [2, 3]]
    for planes in (filled.mean, filled.spread, filled.shared):
        assert planes[0].sum() == 20 and planes[1].sum() == 18
    assert np.isnan(mean[1][2, 3])
    filled, _ = Background(mean[:1]).without_holes()
    assert filled.panel(0)[1] is None and filled.panel(0)[0] is mean[0]


@pytest.mark.parametrize("per_dose, expected", [(True, 0.15), (False, 1.0)])
def test_doses(per_dose, expected):
    beam = BeamFactory.simple(1.0)
    beam.set_transmission(0.5)
    mean = [np.ones((4, 5), dtype=np.float32)]
    assert Background(mean, per_dose=per_dose).dose(0.3, beam) == pytest.approx(expected)


def test_shapes():
    detector = Detector()
    detector.add_panel(Panel()).set_image_size((5, 4))
    Background([np.ones((4, 5))]).check_shapes(detector, "map.npy")
    with pytest.raises(
        ValueError, match=r"map.npy has \(4, 5\) pixels on panel 0, the detector \(5, 4\)"
    ):
        Background([np.ones((5, 4))]).check_shapes(detector, "map.npy")
    with pytest.raises(ValueError, match="map.npy has 2 panels, the detector 1"):
        Background([np.ones((4, 5))] * 2).check_shapes(detector, "map.npy")
