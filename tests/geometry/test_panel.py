"""q of every pixel against what dxtbx and DIALS say."""

from __future__ import annotations

import numpy as np
import pytest

from dxtbx.model import (
    Beam,
    BeamFactory,
    Crystal,
    Detector,
    DetectorFactory,
    Experiment,
    Goniometer,
    ParallaxCorrectedPxMmStrategy,
    ScanFactory,
)
from scitbx import matrix

from dials.algorithms.spot_prediction import ScanStaticReflectionPredictor

from dials_diffuse.adapters.stills import Still
from dials_diffuse.geometry import panel as module
from dials_diffuse.geometry.materials import gas_attenuation
from dials_diffuse.geometry.panel import compute_panel, detector_geometry, warn_of_unknown_sensors
from dials_diffuse.geometry.settings import CorrectionSettings, FlightPathSettings, GeometrySettings
from dials_diffuse.phil.defaults import default_settings


def settings(**corrections):
    return default_settings(
        GeometrySettings, corrections=default_settings(CorrectionSettings, **corrections)
    )


EVERYTHING = settings()
PLAIN = settings(air=False, efficiency=False)


def beam(wavelength=0.98):
    model = BeamFactory.simple(wavelength)
    model.set_unit_s0(tuple(np.array([0.01, -0.02, -1.0]) / np.linalg.norm([0.01, -0.02, -1.0])))
    return model


def one_panel(two_theta=0.0):
    if two_theta:
        return DetectorFactory.two_theta(
            "PAD",
            180.0,
            (60.0, 55.0),
            "+x",
            "-y",
            "+x",
            two_theta,
            (0.2, 0.2),
            (620, 560),
            (-1, 1e6),
        )
    return DetectorFactory.simple(
        "PAD", 180.0, (60.0, 55.0), "+x", "-y", (0.2, 0.2), (620, 560), (-1, 1e6)
    )


def axes(fast, slow):
    """Two perpendicular unit vectors in the plane of two vectors, the first along the first."""
    fast, slow = np.array(fast) / np.linalg.norm(fast), np.array(slow)
    slow = slow - (slow @ fast) * fast
    return tuple(fast), tuple(slow / np.linalg.norm(slow))


def hierarchy():
    """Four tilted panels in two groups of a tilted root."""
    detector = Detector()
    root = detector.hierarchy()
    root.set_frame(*axes((0.999, 0.02, 0.01), (0.02, -0.998, 0.03)), (-1.0, 2.0, -150.0))
    for x in (-1, 1):
        group = root.add_group()
        group.set_local_frame(
            *axes((1, 0.01 * x, 0.02), (-0.01 * x, 1, 0.01)), (32.0 * x, 0.0, 0.5 * x)
        )
        for y in (-1, 1):
            panel = group.add_panel()
            panel.set_local_frame(
                *axes((1, 0.02 * y, 0.0), (-0.02 * y, 1, 0.03 * y)),
                (-30.0, 31.0 * y - 30.0, 0.2 * y),
            )
            panel.set_image_size((300, 300))
            panel.set_pixel_size((0.2, 0.2))
            panel.set_name(f"{x}{y}")
    return detector


def with_parallax(detector, mu=3.8, thickness=0.45):
    for panel in detector:
        panel.set_mu(mu)
        panel.set_thickness(thickness)
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(mu, thickness))
    return detector


DETECTORS = {
    "one panel": one_panel,
    "two theta": lambda: one_panel(25.0),
    "hierarchy": hierarchy,
    "parallax": lambda: with_parallax(one_panel()),
    "thick sensor": lambda: with_parallax(one_panel(30.0), mu=1.0, thickness=2.0),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_q_is_that_of_dxtbx(name):
    detector, source = DETECTORS[name](), beam()
    geometry = detector_geometry(detector, source, PLAIN)
    generator = np.random.default_rng(1)
    for panel, ours in zip(detector, geometry):
        n_fast, n_slow = panel.get_image_size()
        assert ours.shape == (n_slow, n_fast)
        corners = [(0, 0), (0, n_fast - 1), (n_slow - 1, 0), (n_slow - 1, n_fast - 1)]
        inside = np.stack([generator.integers(0, n, 100) for n in (n_slow, n_fast)], axis=1)
        for i, j in [*corners, *inside]:
            lab = np.array(panel.get_pixel_lab_coord((float(j) + 0.5, float(i) + 0.5)))
            q = lab / np.linalg.norm(lab) / source.get_wavelength() - np.array(source.get_s0())
            # 1e-3 of a pixel: 0.2 mm/(180 mm wavelength) of q
            assert np.abs(ours.q[i, j] - q).max() < 1e-3 * 0.2 / 180 / 0.98
            d = panel.get_resolution_at_pixel(source.get_s0(), (float(j) + 0.5, float(i) + 0.5))
            assert ours.q_length()[i, j] == pytest.approx(1 / d, rel=1e-4)


def crystal():
    model = Crystal((48.0, 0, 0), (0, 61.0, 0), (4.0, 0, 79.0), "P 1")
    model.rotate_around_origin((0.3, 0.4, 0.86), 37.0)
    return model


def goniometer_with_a_setting():
    return Goniometer(
        (1.0, 0.0, 0.0),
        (1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8),
        (0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, 1),
    )


def hkl_at(table, geometry, still):
    """h at the predicted positions, interpolated between the pixels' q, through the still's A."""
    a_inverse = np.linalg.inv(still.setting_matrix())
    found = []
    for panel, (x, y, _) in zip(table["panel"], table["xyzcal.px"]):
        q = geometry[panel].q.astype(float)
        j, i = int(np.floor(x - 0.5)), int(np.floor(y - 0.5))
        if not (0 <= i < q.shape[0] - 1 and 0 <= j < q.shape[1] - 1):
            found.append((np.nan,) * 3)
            continue
        u, v = y - 0.5 - i, x - 0.5 - j
        at = (1 - u) * ((1 - v) * q[i, j] + v * q[i, j + 1]) + u * (
            (1 - v) * q[i + 1, j] + v * q[i + 1, j + 1]
        )
        found.append(a_inverse @ at)
    return np.array(found)


def goniometer_still(experiment, angle):
    """An image of 0.5 degrees about the angle, with its goniometer and scan."""
    return Experiment(
        beam=experiment.beam,
        detector=experiment.detector,
        crystal=experiment.crystal,
        goniometer=experiment.goniometer,
        scan=ScanFactory.make_scan((7, 7), 0.1, (angle - 0.25, 0.5), {7: 0}),
    )


def plain_still(experiment, angle):
    """As dials.sequence_to_stills writes them: no goniometer, no scan, the rotation in A."""
    goniometer = experiment.goniometer
    turned = matrix.col(goniometer.get_rotation_axis()).axis_and_angle_as_r3_rotation_matrix(
        angle, deg=True
    )
    model = Crystal(experiment.crystal)
    model.set_A(
        turned
        * matrix.sqr(goniometer.get_setting_rotation())
        * matrix.sqr(goniometer.get_fixed_rotation())
        * matrix.sqr(model.get_A())
    )
    return Experiment(beam=experiment.beam, detector=experiment.detector, crystal=model)


@pytest.mark.parametrize("on_goniometer", [True, False])
@pytest.mark.parametrize("name", DETECTORS)
def test_predicted_centroids_of_a_rotation_image_land_on_nodes(name, on_goniometer):
    """Rotation brings nodes onto the Ewald sphere exactly; the still is the image at that angle."""
    detector = DETECTORS[name]()
    experiment = Experiment(
        beam=beam(),
        detector=detector,
        crystal=crystal(),
        goniometer=goniometer_with_a_setting(),
        scan=ScanFactory.make_scan((1, 20), 0.1, (10.0, 0.5), dict.fromkeys(range(1, 21), 0)),
    )
    table = ScanStaticReflectionPredictor(experiment, dmin=2.2).for_ub(experiment.crystal.get_A())
    assert table.size() > 100
    geometry = detector_geometry(detector, experiment.beam, PLAIN)
    generator = np.random.default_rng(5)
    chosen = generator.choice(table.size(), 60, replace=False)
    checked = 0
    for row in chosen:
        one = table[int(row) : int(row) + 1]
        angle = np.degrees(one["xyzcal.mm"][0][2])
        still = Still(0, (goniometer_still if on_goniometer else plain_still)(experiment, angle))
        h = hkl_at(one, geometry, still)[0]
        if np.isfinite(h).all():
            checked += 1
            assert np.abs(h - one["miller_index"][0]).max() < 1e-3
    assert checked > 40


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("name", DETECTORS)
def test_nodes_give_what_every_pixel_by_itself_gives(name, smooth, monkeypatch):
    """With nodes for the positions, as with a Lorentz factor, and without any, as with foreign conversions to mm."""
    detector, source = DETECTORS[name](), beam()
    for panel in detector:
        panel.set_mu(3.8)
        panel.set_thickness(0.45)
    nodes = detector_geometry(detector, source, EVERYTHING)
    monkeypatch.setattr(module, "NODE_STEPS", ())
    if not smooth:
        monkeypatch.setattr(module, "_SMOOTH", ())
    single = detector_geometry(detector, source, EVERYTHING)
    for ours, panel in zip(nodes, single):
        per_pixel = np.linalg.norm(np.diff(panel.planes, axis=2), axis=0).min()
        assert np.abs(ours.planes - panel.planes).max() < 1e-3 * per_pixel
        # One-sided differences give the area that parallax leaves a pixel less well at the edges
        assert ours.acceptance == pytest.approx(panel.acceptance, rel=5e-7 if smooth else 2e-6)
        assert not np.array_equal(ours.acceptance, panel.acceptance)


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (40, 2)])
def test_panels_of_few_pixels(size):
    detector = DetectorFactory.simple(
        "PAD", 180.0, (0.1, 0.1), "+x", "-y", (0.2, 0.2), size, (-1, 1e6)
    )
    for lorentz in ("none", "inverse_q"):
        geometry = compute_panel(detector[0], beam(), settings(lorentz=lorentz))
        assert geometry.shape == size[::-1] and (geometry.acceptance > 0).all()


def test_the_pixel_on_the_beam_has_no_lorentz_factor():
    detector, source = one_panel(), beam()
    detector[0].set_frame((1, 0, 0), (0, -1, 0), (-0.5 * 0.2, 0.5 * 0.2, -180.0))
    source.set_unit_s0((0.0, 0.0, -1.0))
    ours = compute_panel(detector[0], source, settings(lorentz="sin_two_theta")).acceptance
    assert ours[0, 0] == 0 and (ours > 0).sum() == ours.size - 1


def test_a_flight_path_that_ends_before_the_panel_does_needs_every_pixel():
    """Where the distance passes the length of the path, the transmission has a kink."""
    path = default_settings(FlightPathSettings, medium="helium", length=185.0)
    detector, source = one_panel(), beam()
    ours = compute_panel(
        detector[0], source, default_settings(GeometrySettings, flight_path=path)
    ).acceptance
    vacuum = compute_panel(detector[0], source, settings(air=False)).acceptance
    mu = [
        gas_attenuation(gas, source.get_wavelength(), 1013.25, 293.15) for gas in ("helium", "air")
    ]
    for i, j in ((275, 300), (275, 110), (5, 600)):
        distance = np.linalg.norm(detector[0].get_pixel_lab_coord((j + 0.5, i + 0.5)))
        inside = min(distance, 185.0)
        expected = np.exp(-mu[0] * inside - mu[1] * (distance - inside))
        assert ours[i, j] / vacuum[i, j] == pytest.approx(expected, rel=1e-6)


def test_parallax_shrinks_the_solid_angle_where_columns_converge():
    detector, source = with_parallax(one_panel(), mu=1.0, thickness=2.0), beam()
    panel = detector[0]
    ours = compute_panel(panel, source, settings(air=False, efficiency=False, polarization=False))
    # corners of a pixel through dxtbx's own conversion, and the area between them
    for i, j in ((10, 15), (300, 20), (550, 600)):
        corners = [
            np.array(panel.get_pixel_lab_coord((j + x, i + y)))
            for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        area = np.cross(corners[2] - corners[0], corners[3] - corners[1]) / 2
        middle = sum(corners) / 4
        omega = abs(area @ middle) / np.linalg.norm(middle) ** 3
        assert ours.acceptance[i, j] == pytest.approx(omega, rel=2e-4)


@pytest.mark.parametrize("wavelength", [0.0, float("nan"), -1.0])
def test_an_impossible_wavelength_is_refused(wavelength):
    # dxtbx's setter refuses some of them, its reader none
    source = Beam.from_dict({**beam().to_dict(), "wavelength": wavelength})
    with pytest.raises(ValueError, match="wavelength"):
        compute_panel(one_panel()[0], source, PLAIN)


@pytest.mark.parametrize("thickness, unknown", [(0.0, True), (0.45, False)])
def test_unknown_sensors_are_told(thickness, unknown, caplog):
    detector, beam = Detector(), Beam((0, 0, 1), 1.0)
    panel = detector.add_panel()
    panel.set_image_size((10, 10))
    if thickness:
        panel.set_material("Si")
        panel.set_thickness(thickness)
        panel.set_mu(3.8)
    assert warn_of_unknown_sensors(detector, beam, EVERYTHING) == unknown
    assert ("sensor.material=" in caplog.text) == unknown
    assert not warn_of_unknown_sensors(detector, beam, settings(efficiency=False))


@pytest.mark.parametrize("two_theta", [0, 25, 100, -150, 175, 180])
def test_largest_q_is_an_upper_bound(two_theta):
    detector = one_panel(two_theta)
    panel = compute_panel(detector[0], BeamFactory.simple(1.0), PLAIN)
    assert panel.q_length().max() < panel.largest_q < 1.03 * panel.q_length().max()
