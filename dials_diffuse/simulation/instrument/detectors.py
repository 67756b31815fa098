"""Detectors and beams to simulate, as dxtbx models."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np

from dxtbx.model import BeamFactory, Detector, ParallaxCorrectedPxMmStrategy, SimplePxMmStrategy
from scitbx import matrix

from dials_diffuse.simulation import atoms
from dials_diffuse.simulation.settings import BeamSettings, DetectorSettings

# Pixels of the PILATUS 6M, fast and slow, and the modules it is made of
PILATUS_6M = (2463, 2527)


def make_beam(settings: BeamSettings, wavelength: float, transmission: float = 1.0):
    """A monochromatic beam along -z with its polarization.

    Raises:
        ValueError: the polarization normal is along the beam.
    """
    normal = matrix.col(settings.polarization_normal)
    if normal.length() == 0 or normal.cross(matrix.col((0, 0, 1))).length() == 0:
        raise ValueError("beam.polarization_normal must not be zero or along the beam")
    beam = BeamFactory.make_beam(sample_to_source=(0, 0, 1), wavelength=wavelength)
    beam.set_polarization_normal(normal.normalize().elems)
    beam.set_polarization_fraction(settings.polarization_fraction)
    beam.set_transmission(transmission)
    return beam


def _set_up_panel(panel, settings: DetectorSettings, mu: float, size, name: str) -> None:
    panel.set_type("SENSOR_PAD")
    panel.set_name(name)
    panel.set_pixel_size((settings.pixel_size, settings.pixel_size))
    panel.set_image_size(tuple(int(n) for n in size))
    panel.set_gain(settings.gain)
    panel.set_pedestal(settings.pedestal)
    # Half-integers mean the same to versions of dxtbx whose range excludes its
    # ends and to those whose range includes them
    lowest = -0.5
    if settings.pedestal or settings.readout_noise:
        lowest = float(np.floor(settings.pedestal - 8 * settings.readout_noise)) - 0.5
    panel.set_trusted_range((lowest, settings.saturation + 0.5))
    if settings.thickness > 0:
        panel.set_thickness(settings.thickness)
        panel.set_material("Si")
        panel.set_mu(mu)
    if settings.thickness > 0 and settings.parallax:
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(mu, settings.thickness))
    else:
        panel.set_px_mm_strategy(SimplePxMmStrategy())


def _corner_frame(size_mm, distance: float):
    """Fast axis, slow axis and origin of a panel centred on the beam along -z."""
    fast, slow = matrix.col((1, 0, 0)), matrix.col((0, -1, 0))
    origin = matrix.col((0, 0, -distance)) - fast * size_mm[0] / 2 - slow * size_mm[1] / 2
    return fast, slow, origin


def make_detector(settings: DetectorSettings, wavelength: float) -> Detector:
    """The detector of the settings.

    Raises:
        ValueError: a gain or a number of panels that makes no detector.
    """
    if settings.gain <= 0:
        raise ValueError("detector.gain must be positive")
    mu = atoms.silicon_attenuation(wavelength)
    swing = matrix.col((1, 0, 0)).axis_and_angle_as_r3_rotation_matrix(settings.two_theta, deg=True)
    detector = Detector()
    if settings.type in ("single", "pilatus_6m"):
        size = settings.image_size
        pixel = settings.pixel_size
        if settings.type == "pilatus_6m":
            size, pixel = PILATUS_6M, 0.172
            settings = dataclasses.replace(settings, pixel_size=pixel)
        fast, slow, origin = _corner_frame((size[0] * pixel, size[1] * pixel), settings.distance)
        panel = detector.add_panel()
        panel.set_frame((swing * fast).elems, (swing * slow).elems, (swing * origin).elems)
        _set_up_panel(panel, settings, mu, size, "Panel")
    else:
        _add_tilted_panels(detector, settings, mu, swing)
    return detector


def _add_tilted_panels(detector, settings: DetectorSettings, mu: float, swing) -> None:
    """Groups side by side, panels one below the other in each, bent towards the
    sample; every panel is turned a little on its own, so that no two frames are parallel."""
    n_groups, n_panels = settings.groups
    n_fast, n_slow = settings.image_size[0] // n_groups, settings.image_size[1] // n_panels
    if min(n_groups, n_panels) < 1 or n_groups * n_panels < 2 or min(n_fast, n_slow) < 8:
        raise ValueError("detector.groups must make at least two panels of at least 8 by 8 pixels")
    width, height = n_fast * settings.pixel_size, n_slow * settings.pixel_size
    gap = 4 * settings.pixel_size
    root = detector.hierarchy()
    root.set_name("detector")
    root.set_local_frame(
        (swing * matrix.col((1, 0, 0))).elems,
        (swing * matrix.col((0, -1, 0))).elems,
        (swing * matrix.col((0, 0, -settings.distance))).elems,
    )
    x, y, z = (matrix.col(v) for v in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    for g in range(n_groups):
        group = root.add_group()
        group.set_name(f"group_{g}")
        # frames are in the coordinates of the parent: x fast, y slow, z away from the source
        side = g - (n_groups - 1) / 2
        tilt = y.axis_and_angle_as_r3_rotation_matrix(16.0 * side / max(n_groups - 1, 1), deg=True)
        tilt *= x.axis_and_angle_as_r3_rotation_matrix(2.0 + g / n_groups, deg=True)
        centre = matrix.col((side * (width + gap), 0.6 * side, 0.0))
        group.set_local_frame((tilt * x).elems, (tilt * y).elems, centre.elems)
        for p in range(n_panels):
            panel = group.add_panel()
            row = p - (n_panels - 1) / 2
            tilt = x.axis_and_angle_as_r3_rotation_matrix(
                10.0 * row / max(n_panels - 1, 1), deg=True
            )
            number = n_panels * g + p
            turn = 0.5 + 2.1 * number / (n_groups * n_panels - 1)
            tilt *= z.axis_and_angle_as_r3_rotation_matrix(turn, deg=True)
            fast, slow = tilt * x, tilt * y
            middle = matrix.col((0.0, row * (height + gap), 0.4 * row))
            origin = middle - fast * width / 2 - slow * height / 2
            panel.set_local_frame(fast.elems, slow.elems, origin.elems)
            _set_up_panel(panel, settings, mu, (n_fast, n_slow), f"panel_{g}_{p}")


def moved_along_beam(detector: Detector, shift: float) -> Detector:
    """A copy of the detector that stands `shift` mm further from the source."""
    moved = copy.deepcopy(detector)
    root = moved.hierarchy()
    if len(root):
        target = root
    else:
        target = moved[0]
    origin = matrix.col(target.get_origin()) + matrix.col((0, 0, -shift))
    target.set_frame(target.get_fast_axis(), target.get_slow_axis(), origin.elems)
    return moved
