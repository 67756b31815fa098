from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from simulations import simulation_settings

from dials_diffuse.simulation.instrument.goniometers import (
    lab_axis,
    make_goniometer,
    rotation,
    turned,
)

AXES = np.array([[1.0, 0.2, 0.0], [0.6, 0.8, 0.1], [0.0, 1.0, 0.0]])
ANGLES = [25.0, -40.0, 70.0]


def by_scipy(axis, angle):
    return Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()


def test_a_rotation_is_that_of_scipy():
    for axis, angle in zip(AXES, ANGLES):
        assert np.allclose(rotation(axis, angle), by_scipy(axis, angle))


@pytest.mark.parametrize("scan_axis", [0, 1, 2])
def test_outer_axes_turn_what_inner_axes_have_turned(scan_axis):
    angles = [0.0 if i == scan_axis else angle for i, angle in enumerate(ANGLES)]
    settings = simulation_settings(
        goniometer={"axes": AXES.ravel().tolist(), "angles": angles, "scan_axis": scan_axis}
    )
    goniometer = make_goniometer(settings.goniometer)
    angles[scan_axis] = 33.0
    phi, kappa, omega = (by_scipy(axis, angle) for axis, angle in zip(AXES, angles))
    assert np.allclose(turned(goniometer, 33.0), omega @ kappa @ phi)
    # a little more is a turn about the axis as it stands in the lab
    little = rotation(lab_axis(goniometer), 0.1)
    assert np.allclose(turned(goniometer, 33.1), little @ turned(goniometer, 33.0))
    assert np.allclose(lab_axis(goniometer), goniometer.get_rotation_axis())
