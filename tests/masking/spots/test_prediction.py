from __future__ import annotations

import numpy as np
import pytest
from plain_images import flat_detector as turned_detector
from scipy.spatial import cKDTree

from cctbx import sgtbx
from dxtbx.model import Crystal, Detector, Experiment
from dxtbx.model.beam import BeamFactory
from dxtbx.model.detector import DetectorFactory
from scitbx import matrix

from dials.algorithms.spot_prediction import StillsReflectionPredictor
from dials.array_family import flex

from dials_diffuse.adapters.stills import Still
from dials_diffuse.adapters.tables import as_numpy
from dials_diffuse.masking.spots.painting import paint_bragg
from dials_diffuse.masking.spots.prediction import ObservedSpots, detector_d_min, predict_spots
from dials_diffuse.masking.spots.rows import spots_table
from dials_diffuse.masking.spots.shape import SpotShape
from dials_diffuse.masking.spots.size import MaskExtent, ResidualLevel


def flat_detector(n=400, pixel=0.3, distance=120.0):
    return DetectorFactory.simple(
        "PAD",
        distance,
        (n * pixel / 2, n * pixel / 2),
        "+x",
        "-y",
        (pixel, pixel),
        (n, n),
        (0, 1e6),
    )


def tilted_detector():
    detector = Detector()
    for number, (x, tilt) in enumerate([(-62, 12), (2, -9)]):
        turn = matrix.col((1, 0.4, 0.2)).axis_and_angle_as_r3_rotation_matrix(tilt, deg=True)
        panel = detector.add_panel()
        panel.set_frame(turn * matrix.col((1, 0, 0)), turn * matrix.col((0, -1, 0)), (x, 60, -130))
        panel.set_pixel_size((0.3, 0.3))
        panel.set_image_size((200, 400))
        panel.set_trusted_range((0, 1e6))
    return detector


def crystal_of(symbol="P 1", cell=(50, 62, 81, 85, 94, 101), seed=3):
    group = sgtbx.space_group_info(symbol).group()
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    from cctbx import uctbx

    direct = np.array(uctbx.unit_cell(cell).orthogonalization_matrix()).reshape(3, 3)
    a, b, c = (tuple(q @ direct[:, i]) for i in range(3))
    return Crystal(a, b, c, group)


def still_of(detector, crystal, wavelength=1.0):
    beam = BeamFactory.simple(wavelength)
    return Still(0, Experiment(beam=beam, detector=detector, crystal=crystal))


@pytest.mark.parametrize("detector", [flat_detector(), tilted_detector()])
def test_centres_are_those_that_dials_predicts(detector):
    still = still_of(detector, crystal_of())
    # DIALS turns a node onto the sphere: what a crystal of pure mosaicity does
    rows = predict_spots(still, SpotShape.isotropic(1e-8, 5e-4), 3.0, 1.0, d_min=1.9)
    table = flex.reflection_table.empty_standard(len(rows.panel))
    from dials_diffuse.adapters.tables import miller_index_column, size_t_column

    table["miller_index"] = miller_index_column(rows.miller_index)
    table["panel"] = size_t_column(rows.panel)
    table["id"] = flex.int(table.size(), 0)
    table["entering"] = flex.bool(table.size(), False)
    predictor = StillsReflectionPredictor(still.experiment, dmin=1.9)
    predictor.for_reflection_table(table, still.crystal.get_A())
    predicted = as_numpy(table["xyzcal.px"])[:, :2]
    assert len(rows.panel) > 100
    assert set(rows.panel) == set(range(len(detector)))
    assert np.abs(rows.centre - predicted).max() < 0.01


@pytest.mark.parametrize("detector", [flat_detector(), tilted_detector()])
@pytest.mark.parametrize(
    "shape",
    [
        SpotShape.isotropic(4e-4, 0.0),
        SpotShape.isotropic(2e-4, 4e-3),
        SpotShape.isotropic(3e-4, 1e-3, along=5e-3),
        SpotShape(np.diag([1e-7, 4e-8, 9e-8]), (4e-6, 1e-6, 9e-6)),
    ],
)
def test_mask_is_the_pixels_within_k_sigma_of_a_node(detector, shape):
    """Against every pixel's distance from every node, by brute force."""
    still = still_of(detector, crystal_of())
    k, d_min = 3.0, 2.2
    rows = predict_spots(still, shape, k, 0.0, d_min=d_min)
    sizes = [tuple(reversed(p.get_image_size())) for p in detector]
    painted = paint_bragg(spots_table(rows, 0, 0.5), sizes)
    s0 = np.array(still.beam.get_s0())
    a = still.setting_matrix()
    nodes = np.stack(np.meshgrid(*[np.arange(-40, 41)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    r = nodes @ a.T
    excitation = np.abs(np.linalg.norm(r + s0, axis=1) - 1)
    length = np.linalg.norm(r, axis=1)
    r = r[(length > 0) & (length <= 1 / d_min) & (excitation < 0.02)]
    missed = extra = total = 0
    for panel, mask in zip(detector, painted):
        expected = np.zeros(mask.shape, bool)
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
        d = np.array(panel.get_d_matrix()).reshape(3, 3)
        mm = np.stack([x * 0.3, y * 0.3, np.ones_like(x)], axis=-1)
        s1 = mm @ d.T
        q = s1 / np.linalg.norm(s1, axis=-1, keepdims=True) - s0
        flat, tree = expected.reshape(-1), cKDTree(q.reshape(-1, 3))
        for node, near in zip(r, tree.query_ball_point(r, 0.015)):
            if not near:
                continue
            e3 = node / np.linalg.norm(node)
            e1 = np.cross(node, s0)
            e1 /= np.linalg.norm(e1)
            e2 = np.cross(e3, e1)
            a11, a12, a22 = shape.across
            c = shape.constant + (node @ node) * (
                a11 * np.outer(e1, e1)
                + a12 * (np.outer(e1, e2) + np.outer(e2, e1))
                + a22 * np.outer(e2, e2)
                + shape.along**2 * np.outer(e3, e3)
            )
            x = q.reshape(-1, 3)[near] - node
            flat[near] |= np.einsum("ni,ij,nj->n", x, np.linalg.inv(c), x) <= k * k
        missed += (expected & ~mask).sum()
        extra += (mask & ~expected).sum()
        total += expected.sum()
    # Only pixels on the rim, where plane and sphere differ
    assert total > 200
    assert missed <= 0.01 * total and extra <= 0.01 * total


def test_centring_absences_are_not_masked_screw_axes_are():
    still = still_of(flat_detector(), crystal_of("C 1 2 1", (90, 60, 70, 90, 100, 90)))
    hkl = predict_spots(still, SpotShape.isotropic(5e-4, 0.0), 3.0, 1.0, d_min=2).miller_index
    assert len(hkl) and np.all((hkl[:, 0] + hkl[:, 1]) % 2 == 0)
    screw = still_of(flat_detector(), crystal_of("P 21 21 21", (90, 60, 70, 90, 90, 90)))
    screw_hkl = predict_spots(screw, SpotShape.isotropic(2e-2, 0.0), 3.0, 1.0, d_min=2).miller_index
    on_axis = (screw_hkl[:, 1:] == 0).all(axis=1)
    assert (screw_hkl[on_axis, 0] % 2 == 1).any()


def test_padding_widens_and_each_pixel_of_a_spot_is_found():
    still = still_of(flat_detector(), crystal_of())
    narrow, wide = (
        predict_spots(still, SpotShape.isotropic(3e-4, 1e-3), 3.0, padding, d_min=2)
        for padding in (0.0, 2.0)
    )
    sizes = [tuple(reversed(p.get_image_size())) for p in still.detector]
    small, large = (paint_bragg(spots_table(r, 0, 0.5), sizes)[0] for r in (narrow, wide))
    assert not (small & ~large).any()
    assert large.sum() > 2 * small.sum()


def test_a_shape_without_extent_is_refused():
    with pytest.raises(ValueError, match="bragg.mosaicity"):
        predict_spots(still_of(flat_detector(), crystal_of()), SpotShape(), 3.0, 1.0)


def test_counts_of_observed_spots_are_compared_with_the_level_that_may_be_left():
    level = ResidualLevel((0.0, 1.0), (2.0, 4.0))
    hkl = np.array([[1, 2, 3], [0, 0, 5], [-1, 0, 0]])
    observed = ObservedSpots(
        np.array([[0, 0, 5], [1, 2, 3], [7, 7, 7]]), np.array([60.0, -5, 9]), level
    )
    q = np.array([0.1, 0.5, 0.2])
    assert observed.counts_over_level(hkl, q).tolist() == [0.0, 20.0, 0.0]
    none = ObservedSpots(np.zeros((0, 3), int), np.zeros(0), level)
    assert none.counts_over_level(hkl, q).tolist() == [0.0] * 3


def test_bright_spots_and_low_residuals_are_masked_further_out():
    still = still_of(flat_detector(), crystal_of())
    shape = SpotShape.isotropic(3e-4, 1e-3)
    near, far = (
        predict_spots(
            still, shape, MaskExtent((0.0, 1.0), (np.log(2.0),) * 2, residual), 0.0, d_min=2.2
        )
        for residual in (0.1, 0.001)
    )
    assert len(far.panel) > len(near.panel)
    fixed = predict_spots(still, shape, np.sqrt(2 * np.log(20)), 0.0, d_min=2.2)
    assert np.allclose(near.ellipse, fixed.ellipse)
    observed = ObservedSpots(
        near.miller_index[:50], np.full(50, 1e5), ResidualLevel((0.0,), (0.5,))
    )
    bright = predict_spots(still, shape, np.sqrt(2 * np.log(20)), 0.0, d_min=2.2, observed=observed)
    assert (bright.ellipse[:50, 0] < near.ellipse[:50, 0]).all()
    assert np.array_equal(bright.ellipse[50:], fixed.ellipse[50:])


@pytest.mark.parametrize("two_theta", [0.0, 100.0, -150.0, 175.0, 180.0])
def test_resolution_of_detectors_at_any_angle(two_theta):
    detector, beam = turned_detector((120, 140), two_theta=two_theta), BeamFactory.simple(1.0)
    panel = detector[0]
    corners_and_inside = [
        panel.get_pixel_lab_coord((x, y)) for x in range(0, 141, 2) for y in range(0, 121, 2)
    ]
    rays = np.array(corners_and_inside)
    rays /= np.linalg.norm(rays, axis=1)[:, None]
    q = np.linalg.norm(rays - beam.get_unit_s0(), axis=1)
    assert detector_d_min(detector, beam) == pytest.approx(1 / q.max(), rel=1e-3)
