"""Goniometers to simulate, as dxtbx models, and the rotations that they make."""

from __future__ import annotations

import numpy as np

from dxtbx.model import GoniometerFactory
from scitbx.array_family import flex

from dials_diffuse.simulation.settings import GoniometerSettings


def make_goniometer(settings: GoniometerSettings):
    """The goniometer of the settings.

    Axes inside of the one that is scanned (nearer to the crystal) make the fixed rotation F, those outside of
    it the setting rotation S.

    Raises:
        ValueError: axes and angles do not belong together.
    """
    axes = np.array(settings.axes, dtype=float)
    n = len(settings.angles)
    if len(axes) != 3 * n or not np.all(np.linalg.norm(axes.reshape(-1, 3), axis=1) > 0):
        raise ValueError(
            f"goniometer.axes needs 3 numbers, not all 0, for each of the {n} goniometer.angles"
        )
    if not 0 <= settings.scan_axis < n:
        raise ValueError(f"goniometer.scan_axis must be one of 0 to {n - 1}")
    if settings.angles[settings.scan_axis] != 0:
        raise ValueError(
            "goniometer.angles of the scan axis must be 0: scan.start_angle says where"
        )
    axes = axes.reshape(-1, 3) / np.linalg.norm(axes.reshape(-1, 3), axis=1)[:, None]
    if n == 1:
        return GoniometerFactory.make_goniometer(tuple(axes[0]), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    names = [f"axis_{number}" for number in range(n)]
    return GoniometerFactory.multi_axis(
        flex.vec3_double([tuple(axis) for axis in axes]),
        flex.double([float(angle) for angle in settings.angles]),
        flex.std_string(names),
        settings.scan_axis,
    )


def rotation(axis, angle: float) -> np.ndarray:
    """Right-handed rotation (3, 3) about an axis by an angle in degrees (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    phi = np.radians(angle)
    return np.eye(3) + np.sin(phi) * cross + (1 - np.cos(phi)) * cross @ cross


def turned(goniometer, angle: float) -> np.ndarray:
    """S R(angle) F (3, 3): from the crystal's frame to the lab's (Waterman et al. 2016, section 2)."""
    fixed, setting = (
        np.array(matrix).reshape(3, 3)
        for matrix in (goniometer.get_fixed_rotation(), goniometer.get_setting_rotation())
    )
    return setting @ rotation(goniometer.get_rotation_axis_datum(), angle) @ fixed


def lab_axis(goniometer) -> np.ndarray:
    """The axis that is scanned, in the lab frame, (3,)."""
    setting = np.array(goniometer.get_setting_rotation()).reshape(3, 3)
    return setting @ np.array(goniometer.get_rotation_axis_datum())
