from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model import Detector, ParallaxCorrectedPxMmStrategy
from scitbx import matrix

from dials_diffuse.masking.spots import ellipses
from dials_diffuse.masking.spots.ellipses import SpotsOnSphere, ellipses_on_panel

S0 = np.array([0.01, 0.02, -1.0])


@pytest.fixture
def panel():
    """A tilted panel of 200 x 150 pixels, with parallax."""
    panel = Detector().add_panel()
    turn = matrix.col((1, 0.4, 0.2)).axis_and_angle_as_r3_rotation_matrix(15, deg=True)
    panel.set_frame(turn * matrix.col((1, 0, 0)), turn * matrix.col((0, -1, 0)), (-20, 15, -120))
    panel.set_pixel_size((0.2, 0.25))
    panel.set_image_size((200, 150))
    panel.set_thickness(0.45)
    panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(3.0, 0.45))
    return panel


def spots(panel, n=400, counts=0.0):
    """Spots on and around a panel"""
    rng = np.random.default_rng(6)
    pixel = rng.uniform((-80, -80), (280, 230), (n, 2))
    s1 = np.array([panel.get_lab_coord(tuple(xy * panel.get_pixel_size())) for xy in pixel])
    s1 /= np.linalg.norm(s1, axis=1)[:, None]
    roots = rng.normal(0, 4e-3, (n, 3, 3))
    spread = np.array([(a @ a.T)[np.triu_indices(3)] for a in roots])
    return SpotsOnSphere(s1, s1, spread, rng.uniform(0, 9, n), np.full(n, counts))


def test_the_quick_bound_leaves_out_no_spot_of_the_panel(panel, monkeypatch):
    for counts in (0.0, 500.0):
        quick = ellipses_on_panel(panel, spots(panel, counts=counts), S0, 0.5, 0.7, 0.1)
        monkeypatch.setattr(ellipses, "_largest_displacement", lambda panel: None)
        complete = ellipses_on_panel(panel, spots(panel, counts=counts), S0, 0.5, 0.7, 0.1)
        monkeypatch.undo()
        assert 100 < len(quick.rows) < 400
        assert all(np.array_equal(a, b) for a, b in zip(quick, complete))


def test_derivatives_and_covariances_are_those_of_the_panel(panel):
    some = spots(panel)
    drawn = ellipses_on_panel(panel, some, S0, 0.0, 0.0, 0.1)
    rows = drawn.rows[:20]

    def pixel(s1):
        return np.array(panel.get_ray_intersection(tuple(s1))) / panel.get_pixel_size()

    for i, row in enumerate(rows):
        s1 = some.s1[row]
        steps = 1e-6 * np.eye(3)
        jacobian = np.array([(pixel(s1 + step) - pixel(s1 - step)) / 2e-6 for step in steps]).T
        tangential = np.cross(S0, s1)
        tangential /= np.linalg.norm(tangential)
        radial = np.cross(tangential, s1)
        expected = np.stack([jacobian @ radial, jacobian @ tangential], axis=1)
        assert np.allclose(
            drawn.to_pixels[i], expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max()
        )
        k = np.zeros((3, 3))
        k[np.triu_indices(3)] = some.spread[row]
        k = k + np.triu(k, 1).T
        # dx' (level * J K J')^-1 dx <= 1
        a, b, c = drawn.ellipse[i]
        inverse = np.linalg.inv(some.level[row] * jacobian @ k @ jacobian.T)
        assert np.allclose([[a, b], [b, c]], inverse, rtol=1e-3, atol=1e-3 * np.abs(inverse).max())
        # and the box holds the ellipse: half widths are the roots of the covariance's diagonal
        half = np.sqrt(np.diag(np.linalg.inv(inverse)))
        assert (drawn.bbox[i, ::2] <= drawn.centre[i] - 0.999 * half).all()
        assert (drawn.bbox[i, 1::2] >= drawn.centre[i] + 0.999 * half).all()
        assert (np.ptp(drawn.bbox[i].reshape(2, 2), axis=1) <= 2 * half + 2.01).all()


def test_bright_spots_reach_further_and_faint_ones_do_not(panel):
    faint, bright = (
        ellipses_on_panel(
            panel, spots(panel, counts=counts)._replace(level=np.full(400, 4.0)), S0, 0.5, 0.0, 0.1
        )
        for counts in (1.0, 1e6)
    )
    common = np.isin(bright.rows, faint.rows)
    assert np.isin(faint.rows, bright.rows).all()
    assert (bright.ellipse[common][:, 0] < faint.ellipse[:, 0]).all()
    none = ellipses_on_panel(
        panel, spots(panel)._replace(level=np.full(400, 4.0)), S0, 0.5, 0.0, 0.1
    )
    assert np.array_equal(none.ellipse, faint.ellipse)
